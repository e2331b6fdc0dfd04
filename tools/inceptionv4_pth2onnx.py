#!/usr/bin/env python3
"""InceptionV4 guide's inceptionv4_pth2onnx.py --ckpt PTH --onnx ONNX, done by `zoofast export`."""

import argparse
import sys

from zoofast.cli import main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", required=True, help="the weights; nothing is downloaded")
    parser.add_argument("--onnx", default="out.onnx", help="the ONNX to write [%(default)s]")
    args = parser.parse_args()
    sys.exit(main(["export", "inceptionv4", "--weights", args.ckpt, "-o", args.onnx]))
