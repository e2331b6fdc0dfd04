"""`zoofast infer`: what ais_bench does with a classifier, on any backend."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoofast.base.files import write_atomic
from zoofast.base.names import stem
from zoofast.base.provenance import model_digest
from zoofast.commands import arguments
from zoofast.errors import OutputError
from zoofast.inference.backends import BACKENDS

if TYPE_CHECKING:
    from zoofast.inference.folder import InferReport
    from zoofast.inference.processes import DeviceRun

NAMES_SHOWN = 5  # of failures; --json has all

DESCRIPTION = """\
Options are ais_bench's. Without --input, inference of made-up data is timed. Results already
there are replaced; --resume keeps those of the same model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}. {DESCRIPTION}"
    add_model_arguments(parser)
    parser.add_argument("-i", "--input", help="folder of .bin or .npy files, or one of them")
    parser.add_argument("-o", "--output", help="parent of the result folder; without, none is made")
    parser.add_argument(
        "--output_dirname", help="result folder within --output (default: the time)"
    )
    parser.add_argument(
        "--outfmt", default="BIN", choices=["BIN", "NPY", "TXT"], help="default: BIN"
    )
    parser.add_argument(
        "-l", "--loop", type=arguments.positive, default=1, help="executions per batch"
    )
    parser.add_argument("--batchsize", type=arguments.batch_size, help="default: the model's, or 1")
    parser.add_argument(
        "-d", "--device", type=arguments.devices, default=[0], metavar="D[,D…]", help="default: 0"
    )
    parser.add_argument(
        "--images-per-file",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="for batch-packed files",
    )
    parser.add_argument(
        "--display_all_summary", action="store_true", help="also the times of the copies"
    )
    parser.add_argument(
        "--recipe", metavar="NAME", help="refuse a model that takes something else than it makes"
    )
    parser.add_argument(
        "--on-error",
        choices=["skip", "stop"],
        default="skip",
        help="a file that does not fit: leave it out and exit 1, or stop (default: %(default)s)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the results that are there already"
    )
    arguments.add_file(parser, "--json", "FILE", "write the numbers and failures")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What `infer` and `bench` share."""
    parser.add_argument("-m", "--model", required=True, help=".om, .onnx, or see --backend null")
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS),
        help="default: by suffix; null computes nothing, its model is 8x3x224x224:float32:1000; "
        "sim is an NPU of a given speed, 8x3x224x224:float32:1000@FPS",
    )
    parser.add_argument("--provider", help="ONNX Runtime's (default: CPU)")
    parser.add_argument(
        "--pure_data_type", choices=["zero", "random"], default="zero", help="of made-up data"
    )
    parser.add_argument(
        "--warmup_count", type=arguments.count, default=1, metavar="N", help="default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    from zoofast.commands.console import progress
    from zoofast.inference.folder import Job, ais_bench_lines, list_inputs, open_folder
    from zoofast.inference.processes import run_jobs

    if args.output_dirname and not args.output:
        raise OutputError("--output_dirname needs --output, the folder to make it in")
    if args.resume and not (args.output and args.output_dirname and args.input):
        raise OutputError("--resume needs --input, --output and --output_dirname")
    files = list_inputs(args.input) if args.input else None
    folder = open_folder(args.output, args.output_dirname) if args.output else None
    left = files
    if folder is not None:
        left = _prepare_folder(folder, args, files)
    first = Job(
        args.model,
        args.backend,
        args.provider,
        batch=args.batchsize,
        files=left,
        images_per_file=args.images_per_file,
        folder=folder,
        fmt=args.outfmt,
        loop=args.loop,
        warmup=args.warmup_count,
        pure_data=args.pure_data_type,
        on_error=args.on_error,
        recipe=args.recipe,
    )
    jobs = _divide(first, args.device)
    total = len(left or []) * args.images_per_file
    try:
        with progress("infer", total, args.quiet or files is None) as meter:
            runs = run_jobs(jobs, meter.advance)
    except KeyboardInterrupt:
        if folder is not None and files is not None:
            hint = "" if args.output_dirname else f" --output_dirname {folder.name}"
            print(
                f"zoofast: interrupted; what is done stands in {folder}, the same command with"
                f"{hint} --resume goes on",
                file=sys.stderr,
            )
            return 130
        raise

    for done in runs:
        if done.report.times.compute:
            print("\n".join(ais_bench_lines(done.report, args.display_all_summary)))
    if len(runs) > 1:
        for index, done in enumerate(runs):
            print(
                f"i:{index} device_{done.device} throughput:{_throughput(done.report)} "
                f"start_time:{done.start_time} end_time:{done.end_time}"
            )
        print(f"[INFO] summary throughput:{sum(_throughput(done.report) for done in runs)}")
    if folder is not None:
        _write_summaries(folder, runs)
    kept = len(files or []) - len(left or [])
    numbers = _numbers(args, runs, kept, folder)
    if args.json:
        write_atomic(args.json, json.dumps(numbers, indent=1).encode())
    return _say(numbers, len(files) if files is not None else None)


def _divide(job: Any, devices: list[int]) -> list[Any]:
    """One job per device; each gets a run of the files and, as ais_bench has it, a folder."""
    if len(devices) == 1:
        return [replace(job, device=devices[0])]
    jobs = []
    for i, device in enumerate(devices):
        files = job.files
        if files is not None:
            files = files[len(files) * i // len(devices) : len(files) * (i + 1) // len(devices)]
        folder = job.folder
        if folder is not None:
            folder = folder / f"device{device}"
            folder.mkdir(exist_ok=True)
        jobs.append(replace(job, device=device, files=files, folder=folder))
    return jobs


def _prepare_folder(
    folder: Path, args: argparse.Namespace, files: list[str] | None
) -> list[str] | None:
    """Records whose results the folder will hold; returns the files that are still to be done.

    Results of an earlier run are removed first: they would be overwritten anyway, and a later
    --resume must not take them for its own.
    """
    from zoofast.inference.folder import beside

    record = {"model": model_digest(args.model), "input": args.input, "outfmt": args.outfmt}
    path = beside(folder, "_run.json")
    there = _results_there(folder, args.outfmt)
    if args.resume and path.exists():
        try:
            earlier = json.loads(path.read_bytes())
        except ValueError as error:
            raise OutputError(
                f"{path}: is damaged ({error}); begin anew without --resume"
            ) from error
        for key, value in record.items():
            if earlier.get(key) != value:
                raise OutputError(
                    f"{folder}: holds a run of another {key} ({earlier.get(key)}, not {value}); "
                    "begin anew without --resume"
                )
        return [file for file in files or [] if stem(file) not in there]
    if args.resume and there:
        raise OutputError(f"{folder}: holds results of an unknown run; begin anew without --resume")
    for file in files or []:
        for old in there.get(stem(file), []):
            with suppress(FileNotFoundError):
                old.unlink()
    write_atomic(path, json.dumps(record).encode())
    return files


def _results_there(folder: Path, outfmt: str) -> dict[str, list[Path]]:
    """The result files in a folder, and in those of its devices, by sample name."""
    found: dict[str, list[Path]] = {}
    for where in (folder, *folder.glob("device*")):
        for path in where.glob(f"*_*.{outfmt.lower()}"):
            found.setdefault(path.stem.rpartition("_")[0], []).append(path)
    return found


def _throughput(report: InferReport) -> float:
    return report.throughput() if report.times.compute else 0.0


def _write_summaries(folder: Path, runs: list[DeviceRun]) -> None:
    from zoofast.inference.folder import ais_bench_summary, beside

    for done in runs:
        where = folder if len(runs) == 1 else folder / f"device{done.device}"
        content = ais_bench_summary(done.report, sys.argv)
        write_atomic(beside(where, "_summary.json"), json.dumps(content).encode())


def _numbers(
    args: argparse.Namespace, runs: list[DeviceRun], kept: int, folder: Path | None
) -> dict[str, Any]:
    """Everything, for --json."""
    from zoofast.inference.folder import latency

    images = sum(done.report.images for done in runs)
    seconds = max(done.report.seconds for done in runs)
    failures = {file: why for done in runs for file, why in done.report.failures.items()}
    return {
        "model": args.model,
        "batchsize": runs[0].report.batch,
        "devices": [done.device for done in runs],
        "output": str(folder) if folder else None,
        "images": images,
        "files": sum(done.report.files for done in runs),
        "kept_from_earlier_run": kept,
        "seconds": seconds,
        "images_per_second": images / max(seconds, 1e-9),
        "device_throughput": sum(_throughput(done.report) for done in runs),
        "latency_ms": latency([ms for done in runs for ms in done.report.times.compute]),
        "failures": failures,
    }


def _say(numbers: dict[str, Any], total: int | None) -> int:
    """The last lines for people; returns the exit code."""
    times = ", ".join(f"{name} {ms:.3f}" for name, ms in numbers["latency_ms"].items())
    print(f"latency of a batch of {numbers['batchsize']} in ms: {times}")
    print(
        f"{numbers['images']} images in {numbers['seconds']:.2f} s: "
        f"{numbers['images_per_second']:,.1f} img/s by the clock; the device alone "
        f"{numbers['device_throughput']:,.1f} img/s"
    )
    failures = numbers["failures"]
    if total is not None:
        kept = numbers["kept_from_earlier_run"]
        earlier = f" ({kept} by an earlier run)" if kept else ""
        print(f"inferred {numbers['files'] + kept} of {total} files{earlier}")
    if failures:
        shown = [f"{file} ({why})" for file, why in list(failures.items())[:NAMES_SHOWN]]
        more = f" and {len(failures) - len(shown)} more" if len(failures) > len(shown) else ""
        print(
            f"zoofast: files left out: {len(failures)}: {', '.join(shown)}{more}", file=sys.stderr
        )
    return 1 if failures else 0
