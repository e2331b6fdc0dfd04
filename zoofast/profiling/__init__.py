"""What limits this host: time by stage, scaling over threads, disk rates, and a verdict.

May import every package but report, commands and cli.
"""
