"""Drop-in for the SqueezeNet1_1 guide's script of this name: SRC DST."""

import sys

from zoofast.cli import main

if len(sys.argv) != 3:
    sys.exit(f"usage: {sys.argv[0]} SRC DST")
sys.exit(main(["prep", *sys.argv[1:], "--recipe", "squeezenet1_1", "--overwrite"]))
