"""The `zoofast` command: finds the subcommand, runs it, makes errors one line and an exit code.

Exit codes: 0 all done; 1 done, but something was dropped or a check failed; 2 could not be
done (bad arguments, bad input, missing package); 130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by
SIGHUP.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from zoofast.base.urls import redacted
from zoofast.commands.shared import console
from zoofast.commands.shared.console import INTERRUPTED
from zoofast.errors import OutputError, ZoofastError

EXIT_SECONDS = 5.0  # after an interrupt, for threads to end

# name -> one line of help; the module zoofast.commands.<name> has add_arguments(parser) and
# run(args) -> int, and is imported only when its command is the one asked for.
COMMANDS = {
    "prep": "turn images into a model's tensors, equal to those of the guides' scripts bit for bit",
    "eval": "prepare images, run a model on them and score it, without files between",
    "merge": "join what prep --shard or eval --shard made on several machines",
    "infer": "run a model on prepared tensors, with ais_bench's options and files",
    "bench": "measure a model's throughput and latency at several batch sizes",
    "score": "compute the accuracy of a folder of results, as the guides' result.json has it",
    "compare": "compare two results: accuracy, changed classes, difference of the logits",
    "profile": "measure what on this host limits an NPU",
    "export": "export weights to ONNX, with the guides' names, sizes and opset",
    "simplify": "fold the constants of an ONNX model, for a fixed or any batch size",
    "optimize": "rewrite an ONNX model so that NPUs run it faster, with equal outputs",
    "aipp": "write the AIPP configuration, with which the NPU crops and normalizes 8-bit images",
    "atc": "compile an ONNX model to .om with the guide's options of ATC",
    "convert": "make an .om from weights: export, simplify, optimize, aipp and atc",
    "cache": "list, check or remove the pixels that --cache DIR keeps",
    "recipe": "show, check, compare or save a recipe of zoofast, timm, torchvision, Hugging Face",
    "doctor": "list what zoofast can use on this machine, what is missing, and how to get it",
    "models": "list the guides' models: input, recipe, accuracy and speed",
}


class _Parser(argparse.ArgumentParser):
    """argparse's, with errors of one line as all others of zoofast."""

    chosen: str | None = None  # the name of the subcommand, which has the help for an error

    def __init__(self, **more: Any) -> None:
        # A part of an option's name would name another option once a new one begins with it, and
        # what was meant for an argument, as `--labels FILE`, would be taken for --labels-from.
        super().__init__(allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        program = self.chosen or self.prog
        self.exit(2, f"zoofast: error: {redacted(message)} (see {program} --help)\n")


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="zoofast", description="Evaluate image classifiers on NPUs, fast and exactly."
    )
    parser.add_argument(
        "--version", action="store_true", help="show the versions and the CPU level in use"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            module = importlib.import_module(f"zoofast.commands.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
            parser.chosen = command.prog
    return parser


def _version_line() -> str:
    from zoofast import _core
    from zoofast.base import provenance

    versions, commit = provenance.versions(), provenance.commit()
    source = f"commit {commit}" if commit else "a checkout"
    return (
        f"zoofast {versions['zoofast']} ({source}, built by "
        f"{_core.COMPILER}, CPU level {_core.isa()} of {', '.join(_core.isa_names())}, JPEG "
        f"decoders {', '.join(_core.DECODERS[1:-1])} and Pillow {versions['pillow']})"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs `zoofast` with argv and returns the exit code. argv: None for sys.argv[1:], in the
    process of the installed command, which ends after the call."""
    received = _interrupt_by_signals() if argv is None else []
    with console.safe_streams():
        code = _run(sys.argv[1:] if argv is None else argv)
    if code == INTERRUPTED and argv is None:
        code = 128 + received[0] if received else INTERRUPTED
        _end_in_any_case(code)
    return code


def prep_main() -> int:
    """The `zoofast-prep` command: the same as `zoofast prep`."""
    sys.argv.insert(1, "prep")
    return main()


def _run(argv: list[str]) -> int:
    """Runs a command; an error is one line."""
    chosen = next((word for word in argv if not word.startswith("-")), None)
    shown = [redacted(word) for word in argv]  # in reports
    try:
        args = _parser(chosen).parse_args(argv, argparse.Namespace(argv=shown))
        if args.version:
            console.say(_version_line())
            return 0
        if args.command is None:
            _parser(None).print_help()
            return 2
        with console.only_data_on_stdout(_writes_to_stdout(args)):
            code: int = args.run(args)
        sys.stdout.flush()
        return code
    except ZoofastError as error:
        return _fail(str(error))
    except MemoryError as error:
        return _fail(str(error) or "out of memory")
    except RecursionError:
        return _fail("an input is nested too deeply")
    except OSError as error:
        return _fail(f"{error.filename or chosen}: {error.strerror or error}")
    except KeyboardInterrupt:
        console.warn("interrupted")
        return INTERRUPTED


def _fail(reason: str) -> int:
    console.warn(f"error: {redacted(reason)}")
    return 2


def _writes_to_stdout(args: argparse.Namespace) -> bool:
    """Whether a result goes to standard output. Raises OutputError where several do."""
    names = [name for name, value in vars(args).items() if value is console.STDOUT]
    if len(names) > 1:
        raise OutputError(f"{' and '.join(names)}: only one result can go to standard output")
    return bool(names)


def _interrupt_by_signals() -> list[int]:
    """SIGTERM and SIGHUP will do what Ctrl-C does: the command keeps what is done, and removes its
    temporary files. A second one ends the process at once. A signal that is ignored, as with
    nohup, stays so.

    Returns the list of the signals that have come, which is empty now.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        received.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, interrupt)
    return received


def _end_in_any_case(code: int) -> None:
    """The process will end within EXIT_SECONDS, with the exit code `code`; at once at another
    Ctrl-C.

    Python waits for its threads at the end. A thread may be in a call to a device that never
    returns.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    timer = threading.Timer(EXIT_SECONDS, os._exit, [code])
    timer.daemon = True
    timer.start()
