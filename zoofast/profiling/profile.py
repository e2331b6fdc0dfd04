"""Measures what a host can supply: stages, threads, disks, and what known models need."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoofast.base.cpus import usable_cpus
from zoofast.base.files import MAX_FILE_BYTES
from zoofast.base.text import counted
from zoofast.conversion.models import KnownModel
from zoofast.errors import ImageError, OutputError
from zoofast.evaluation import evaluate
from zoofast.evaluation.options import EvalOptions
from zoofast.evaluation.result import Evaluation
from zoofast.inference.spec import DEVICE_TIMEOUT, ModelSpec
from zoofast.inference.transfer import Transfer
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.loader import Failure, OutputPaths
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.sources import Item, Source
from zoofast.profiling.disk import measure_reading, measure_writing
from zoofast.profiling.pipeline import PipelineRun, repeated, run_pipeline, spread, written_at_once
from zoofast.profiling.results import Demand, Profile, StreamProfile, ThreadRates, stages_of
from zoofast.profiling.verdict import verdict
from zoofast.timing.timeline import WRITE, Timeline
from zoofast.timing.trace import WORKER, WRITER, TraceWriter

ROUNDS = 3  # measurements that are compared take turns, so often
STREAM_TRIAL = 32  # images that tell how fast a device is


@dataclass(frozen=True)
class ProfileOptions:
    """How to profile.

    threads: None for all usable CPUs. seconds: of each measurement. images: how many to measure,
    evenly spread over the source. batch_size: None for the loader's. scratch: an existing folder;
    writing is measured in its file system. write: the pipeline writes each tensor to a file there,
    as `zoofast prep` does. model: a model to evaluate too, as `zoofast eval` does. cache: of the
    images' pixels; after the warm-up, they come from it. device_timeout: seconds that the model's
    device may take for a batch.
    """

    threads: int | None = None
    seconds: float = 3.0
    images: int = 512
    batch_size: int | None = None
    max_file_bytes: int = MAX_FILE_BYTES  # of an image file; a larger one is a failure
    scratch: Path = Path(".")
    write: bool = False
    model: ModelSpec | None = None
    cache: PixelCache | None = None
    device_timeout: float = DEVICE_TIMEOUT


Report = Callable[[str], None]  # takes the name of the step that begins


def count_steps(options: ProfileOptions, models: Sequence[KnownModel]) -> int:
    """How many steps `profile` will report."""
    counts = thread_counts(options.threads or usable_cpus())
    recipes = {model.recipe for model in models}
    return 4 + (options.model is not None) + ROUNDS * len(counts) + len(recipes)


def thread_counts(limit: int) -> list[int]:
    """1, 2, 4 … and `limit`."""
    powers = [1 << i for i in range(limit.bit_length())]
    return [*(count for count in powers if count < limit), limit]


class _Sample:
    """Runs the pipeline over the images of the sample, as the options say."""

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        options: ProfileOptions,
        folder: str,
        report_step: Report,
    ) -> None:
        self.source, self.recipe, self.options = source, recipe, options
        self.report_step = report_step
        self.items = spread(source.items, options.images)
        self.threads = options.threads or usable_cpus()
        self.failures: list[Failure] = []
        self._paths = OutputPaths(folder, ".bin") if options.write else None
        self._rate = 0.0  # about

    def warm_up(self) -> None:
        """Prepares all images once. Raises ImageError when none can be prepared."""
        self.report_step("warming up")
        run = self._run(self.items, self.threads, math.inf)
        if run.images == 0:
            raise ImageError(f"{run.failures[0]} (and no other image could be prepared)")
        self._rate, self.failures = run.images / run.seconds, run.failures

    def scaling(self) -> list[ThreadRates]:
        """The rates with 1, 2, 4 … threads."""
        rates: dict[int, list[float]] = {count: [] for count in thread_counts(self.threads)}
        for _ in range(ROUNDS):
            for count, measured in rates.items():
                self.report_step(counted(count, "thread"))
                seconds = self.options.seconds / ROUNDS
                measured.append(self._run(self._enough(seconds), count, seconds).rate)
        one = statistics.median(rates[1])
        return [
            ThreadRates(count, measured, statistics.median(measured) / (count * one))
            for count, measured in rates.items()
        ]

    def timed(self, trace: str | os.PathLike[str] | None) -> tuple[PipelineRun, Timeline]:
        """One run with the time of each stage; its spans go to the file `trace`."""
        self.report_step("stages")
        seconds = self.options.seconds
        begin_ns = time.monotonic_ns()
        with ExitStack() as stack:
            writer = stack.enter_context(TraceWriter(trace, begin_ns)) if trace else None
            timeline = Timeline(begin_ns, writer)
            run = self._run(self._enough(seconds), self.threads, seconds, timeline)
        return run, timeline

    def _enough(self, seconds: float) -> list[Item]:
        apart = written_at_once(self.threads, self.options.batch_size) if self._paths else 1
        return repeated(self.items, seconds * self._rate, apart)

    def _run(
        self, items: Sequence[Item], threads: int, seconds: float, timeline: Timeline | None = None
    ) -> PipelineRun:
        return run_pipeline(
            self.source,
            self.recipe,
            items,
            threads,
            seconds,
            batch_size=self.options.batch_size,
            max_file_bytes=self.options.max_file_bytes,
            paths=self._paths,
            cache=self.options.cache,
            timeline=timeline,
        )


def profile(
    source: Source,
    recipe: Recipe,
    options: ProfileOptions = ProfileOptions(),
    *,
    models: Sequence[KnownModel] = (),
    trace: str | os.PathLike[str] | None = None,
    report_step: Report = lambda step: None,
) -> Profile:
    """Measures the pipeline of `recipe` over a sample of `source` on this host.

    models: the result says what each needs of this host. trace: a file to write, see
    zoofast.timing.trace; its spans are those of the evaluation where there is a model. report_step:
    called with the name of each step, `count_steps` times.

    Raises ImageError when no image of the sample can be prepared, OutputError when `scratch` or
    `trace` cannot be written, BackendError when the model cannot be run.
    """
    with _temporary_folder(options.scratch) as folder:
        sample = _Sample(source, recipe, options, folder, report_step)
        report_step("disk, reading")
        read = measure_reading(source, sample.items, sample.threads)
        sample.warm_up()
        scaling = sample.scaling()
        run, timeline = sample.timed(trace if options.model is None else None)
        report_step("disk, writing")
        write = measure_writing(folder, recipe, sample.threads)
    rate = scaling[-1].rate
    worked = _worked(timeline)
    computed_ns = sum(ns for stage, ns in worked.items() if stage != WRITE)
    cores = min(sample.threads, usable_cpus())
    busy = min(1.0, computed_ns / ((timeline.end_ns - timeline.begin_ns) * cores))
    result = Profile(
        source=source.where,
        sample=len(sample.items),
        total=len(source.items),
        recipe=recipe,
        writes=options.write,
        threads=sample.threads,
        cores=cores,
        rate=rate,
        nbytes_per_image=run.nbytes_in / run.images,
        failures=sample.failures,
        stages=stages_of(worked, run.images, rate, busy),
        per_thread=timeline.shares(),
        busy=busy,
        cores_used=run.cpu_seconds / run.seconds,
        scaling=scaling,
        read=read,
        write=write,
        rate_over_time=timeline.rate.points(),
        window=timeline.window(),
    )
    if options.model is not None:
        report_step("model")
        _add_stream(result, sample, options.model, trace)
    result.demands = _measure_demands(result, sample, models)
    result.verdict = verdict(result)
    return result


def _temporary_folder(scratch: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=".zoofast-", dir=scratch)
    except OSError as error:
        raise OutputError(
            f"{scratch}: cannot be written to: {error.strerror}; name a folder by --scratch"
        ) from error


def _worked(timeline: Timeline) -> Counter[str]:
    """stage -> nanoseconds, summed over the loader's workers and writers."""
    worked: Counter[str] = Counter()
    for thread, spent in timeline.busy_ns.items():
        if thread.startswith((WORKER, WRITER)):
            worked.update(spent)
    return worked


def _add_stream(
    profile: Profile, sample: _Sample, model: ModelSpec, trace: str | os.PathLike[str] | None
) -> None:
    """Evaluates the model; sets `stream`. What `profile` tells of threads and time is then of the
    evaluation."""
    failed = {failure.name for failure in profile.failures}
    good = [item for item in sample.items if item.name not in failed]

    def run(items: Sequence[Item], **more: Any) -> Evaluation:
        options = EvalOptions(
            [model],
            threads=profile.threads,
            timeout=sample.options.device_timeout,
            cache=sample.options.cache,
            **more,
        )
        return evaluate.evaluate(sample.source, items, profile.recipe, None, options)

    trial = run(good[:STREAM_TRIAL])
    rate = min(profile.rate, trial.device_rate())
    items = repeated(good, sample.options.seconds * rate / 1.5)
    evaluation = run(items, details=True, trace=Path(trace) if trace else None)
    assert evaluation.input is not None
    times = evaluation.times[0]
    images = evaluation.input.shape[0] * evaluation.concurrency * len(times.compute)
    steps = {"h2d": times.to_device, "infer": times.compute, "d2h": times.from_device}
    profile.stream = StreamProfile(
        model=model.model,
        input=str(evaluation.input),
        rate=evaluation.images_per_second,
        device_rate=evaluation.device_rate(),
        device_busy=evaluation.device_share("infer"),
        microseconds={step: 1000 * sum(ms) / images for step, ms in steps.items() if ms},
        transfer=Transfer.of([evaluation.input], times),
    )
    profile.per_thread = evaluation.timeline.shares()
    profile.rate_over_time = evaluation.timeline.rate.points()
    profile.window = evaluation.timeline.window()


def _measure_demands(
    profile: Profile, sample: _Sample, models: Sequence[KnownModel]
) -> list[Demand]:
    """Measures the host with the recipe of every model, in memory and without a cache."""
    seconds = sample.options.seconds / ROUNDS
    # Larger tensors only make the host slower, so that these images are enough for every recipe.
    items = repeated(sample.items, seconds * profile.rate)
    rates: dict[str, float] = {}
    for name in dict.fromkeys(model.recipe for model in models):
        sample.report_step(f"recipe {name}")
        recipe = load_recipe(name)
        is_measured = not profile.writes and sample.options.cache is None
        if recipe.digest == profile.recipe.digest and is_measured:
            rates[name] = profile.rate
        else:
            run = run_pipeline(sample.source, recipe, items, profile.threads, seconds)
            rates[name] = run.rate
    return demands_of(models, rates, profile.cores)


def demands_of(
    models: Iterable[KnownModel], host_rates: Mapping[str, float], host_cores: int
) -> list[Demand]:
    """One Demand per model and chip, at the chip's best batch size; the highest rate first.

    host_rates: recipe -> images per second on `host_cores` cores.
    """
    demands = []
    for model in models:
        host_rate = host_rates[model.recipe]
        for chip in model.fps:
            batch, device_rate = model.best(chip)
            cores = math.ceil(device_rate * host_cores / host_rate)
            demands.append(
                Demand(model.guide, chip, batch, model.recipe, device_rate, host_rate, cores)
            )
    return sorted(demands, key=lambda demand: -demand.device_rate)
