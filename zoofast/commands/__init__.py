"""The subcommands of `zoofast`: one module each, with its arguments, tables and exit codes.

May import every package. `cli` imports one subcommand at a time; the subcommands import only the
modules that they share, such as `arguments` and `console`. Nothing else imports from here. Only
this package and `cli` print.
"""
