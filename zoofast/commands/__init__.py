"""The subcommands of `zoofast`: one module each, with its arguments, tables and exit codes.

May import every package. `cli` imports one subcommand at a time; of this package, the subcommands
import only `shared`. Nothing else imports from here. Only this package and `cli` print.
"""
