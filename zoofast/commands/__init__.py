"""The subcommands of `zoofast`: one module each, with its arguments, tables and exit codes.

May import every package. Only `cli` imports from here, apart from the modules that the commands
share: `arguments` and `console`. Only these modules and `cli` print.
"""
