#!/usr/bin/env python3
"""SqueezeNet1_1 guide's squeezenet1_1_pth2onnx.py PTH ONNX, done by `zoofast export`."""

import sys

from zoofast.commands.export import guide_script

if __name__ == "__main__":
    sys.exit(guide_script("squeezenet1_1"))
