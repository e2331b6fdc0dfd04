"""Drop-in for the AlexNet guide's script of this name."""

import argparse
import sys

from zoofast.cli import main

parser = argparse.ArgumentParser()
parser.add_argument("--anno_file", default="./HiAI_label.json", help="val_label.txt or HiAI folder")
parser.add_argument("--benchmark_out", default="result/dumpOutput_device0")
parser.add_argument("--result_file", default="./result.json")
args = parser.parse_args()
sys.exit(main(["score", args.benchmark_out, args.anno_file, "-o", args.result_file]))
