"""Drop-in for the InceptionV4 guide's script of this name."""

import argparse
import sys

from zoofast.cli import main

parser = argparse.ArgumentParser()
parser.add_argument("--infer_results", required=True)
parser.add_argument("--anno_file", required=True)
parser.add_argument("--metrics_json", required=True)
args = parser.parse_args()
sys.exit(main(["score", args.infer_results, args.anno_file, "-o", args.metrics_json]))
