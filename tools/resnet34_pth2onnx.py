#!/usr/bin/env python3
"""ResNet34 guide's resnet34_pth2onnx.py PTH ONNX, done by `zoofast export`."""

import sys

from zoofast.commands.export import guide_script

if __name__ == "__main__":
    sys.exit(guide_script("resnet34"))
