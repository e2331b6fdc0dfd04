"""Drop-in for the ResNet34 and NASNetALarge guides' script of this name."""

import sys
from pathlib import Path

from zoofast.cli import main

if len(sys.argv) != 5:
    sys.exit(f"usage: {sys.argv[0]} RESULT_DIR VAL_LABEL STORE_DIR JSON_NAME")
results, labels, store, name = sys.argv[1:]
sys.exit(main(["score", results, labels, "-o", str(Path(store) / name)]))
