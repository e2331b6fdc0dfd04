"""Drop-in for the SqueezeNet1_1 guide's script of this name: RESULT_DIR VAL_LABEL JSON."""

import sys

from zoofast.cli import main

if len(sys.argv) != 4:
    sys.exit(f"usage: {sys.argv[0]} RESULT_DIR VAL_LABEL JSON")
results, labels, output = sys.argv[1:]
sys.exit(main(["score", results, labels, "-o", output]))
