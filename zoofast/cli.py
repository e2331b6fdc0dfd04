"""The `zoofast` command: finds the subcommand, runs it, makes errors one line and an exit code.

Exit codes: 0 all done; 1 done, but something was dropped or a check failed; 2 could not be
done (bad arguments, bad input, missing package); 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NoReturn

from zoofast.errors import ZoofastError

# name -> one line of help; the module zoofast.commands.<name> has add_arguments(parser) and
# run(args) -> int, and is imported only when its command is the one asked for.
COMMANDS = {
    "prep": "turn JPEGs into model-ready tensors, equal to the guides' scripts bit for bit",
    "eval": "images in, accuracy out: preprocess, run and score at once, nothing on disk between",
    "infer": "run a model over prepared tensors, with ais_bench's options, files and numbers",
    "bench": "throughput and latency of a model at several batch sizes",
    "score": "accuracy of a folder of results, with the guides' result.json byte for byte",
    "compare": "two results: accuracy, flipped images, how far the logits are apart; thresholds",
    "profile": "what on this host holds the NPU back, in words, numbers, a trace and a page",
    "export": "weights to ONNX, with the guides' names, sizes and opset",
    "simplify": "fold what is constant in an ONNX, for a fixed or any batch size",
    "optimize": "rewrite an ONNX so that NPUs run it faster, proven equal",
    "aipp": "the configuration that lets the NPU crop and normalize 8-bit images",
    "atc": "compile an ONNX for an NPU with the guide's command line, checked and explained",
    "convert": "all of these, from weights to .om; a step is skipped when nothing changed",
    "doctor": "what this machine has for all of it, what is missing, and the cure",
    "models": "the known models: source, input, recipe, the guides' accuracy and speed",
}


class _Parser(argparse.ArgumentParser):
    """argparse's, with errors of one line as all others of zoofast."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"zoofast: error: {message} (see {self.prog} --help)\n")


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="zoofast", description="Evaluate image classifiers on NPUs, fast and exactly."
    )
    parser.add_argument("--version", action="store_true", help="versions and the CPU level in use")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            module = importlib.import_module(f"zoofast.commands.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _version_line() -> str:
    from importlib.metadata import version

    from zoofast import _core

    return f"zoofast {version('zoofast')} (CPU level {_core.isa()})"


def main(argv: list[str] | None = None) -> int:
    """Runs `zoofast` with argv (default: sys.argv[1:]) and returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    chosen = next((word for word in argv if not word.startswith("-")), None)
    try:
        parser = _parser(chosen)
        args = parser.parse_args(argv, argparse.Namespace(argv=argv))
        if args.version:
            print(_version_line())
            return 0
        if args.command is None:
            parser.print_help()
            return 2
        code: int = args.run(args)
        return code
    except ZoofastError as error:
        print(f"zoofast: error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"zoofast: error: {error or 'out of memory'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("zoofast: interrupted", file=sys.stderr)
        return 130


def prep_main() -> int:
    """The `zoofast-prep` command: the same as `zoofast prep`."""
    return main(["prep", *sys.argv[1:]])
