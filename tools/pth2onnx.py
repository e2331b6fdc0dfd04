#!/usr/bin/env python3
"""AlexNet guide's pth2onnx.py PTH ONNX, done by `zoofast export`."""

import sys

from zoofast.commands.export import guide_script

if __name__ == "__main__":
    sys.exit(guide_script("alexnet"))
