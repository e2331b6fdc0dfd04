"""Drop-in for the InceptionV4 guide's script of this name."""

import argparse
import sys

from zoofast.cli import main

parser = argparse.ArgumentParser()
parser.add_argument("--src_path", required=True)
parser.add_argument("--save_path", required=True)
args = parser.parse_args()
sys.exit(main(["prep", args.src_path, args.save_path, "--recipe", "inceptionv4", "--overwrite"]))
