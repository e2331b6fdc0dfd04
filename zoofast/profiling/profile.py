"""Measures what a host can feed: stages, threads, disks, and what known NPUs would need."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from zoofast.base.cpus import usable_cpus
from zoofast.base.provenance import versions
from zoofast.conversion.models import KnownModel
from zoofast.errors import ImageError, OutputError
from zoofast.evaluation import evaluate
from zoofast.evaluation.evaluate import Evaluation
from zoofast.inference.stream import ModelSpec
from zoofast.preprocess.loader import Failure, Loader, Prepared, Target
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe
from zoofast.preprocess.sources import Item, Source
from zoofast.profiling.disk import Ceiling, read_ceiling, write_ceiling
from zoofast.timing.timeline import CALLER, STAGES, WORKER, WRITE, WRITER, Span, Timeline
from zoofast.timing.trace import TraceWriter

STREAM_FIRST = 32  # images, to learn how fast a device is
ROUNDS = 3  # of every measurement that is compared with another, in turn
IDLE = 0.15  # of the workers' time: more than that means that they wait for someone
IN_WORDS = {
    "read": "reading",
    "decode": "decoding",
    "entropy": "entropy decoding",
    "idct": "the inverse DCT",
    "colour": "colour conversion",
    "resize": "resizing",
    "pack": "packing",
}
CROWDED = 0.8  # of the cores that busy threads should use: less means that others use them


@dataclass(frozen=True)
class Options:
    """How to profile. seconds: of each measurement; images: the sample, spread over the source.

    scratch: the folder in whose file system writing is measured. write: the pipeline writes its
    tensors there, as `zoofast prep` does. model: to stream the images through, as `zoofast eval`
    does.
    """

    threads: int | None = None
    seconds: float = 3.0
    images: int = 512
    batch_size: int | None = None
    scratch: Path = Path(".")
    write: bool = False
    model: ModelSpec | None = None


@dataclass(frozen=True)
class ThreadRates:
    """Images a second on `threads` threads, one value a round."""

    threads: int
    rates: list[float]
    efficiency: float  # of the median: rate / (threads × the rate of one)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Stage:
    """One stage: its share of an image's computing, and the rate if it took no time."""

    name: str
    microseconds: float  # per image, in one thread
    share: float | None  # None: writing, which goes on beside the computing
    rate_if_free: float | None  # None: nothing else is left


@dataclass(frozen=True)
class Need:
    """What one chip eats of one model, and how far this host's pipeline gets."""

    model: str
    chip: str
    batch: int
    recipe: str
    device_rate: float
    host_rate: float  # with the model's own recipe, on all threads
    cores: int  # that would be needed, each as fast as one is now

    @property
    def fed(self) -> float:
        """The part of the device's appetite that this host satisfies, at most 1."""
        return min(1.0, self.host_rate / self.device_rate)


@dataclass(frozen=True)
class Streamed:
    """The whole stream, through a model. Rates are images a second."""

    model: str
    input: str
    rate: float
    device_rate: float  # of the device with nothing around it
    device_busy: float  # part of the time that it computed
    microseconds: dict[str, float]  # per image: h2d, infer, d2h


@dataclass
class Run:
    """One pass of the pipeline over repeated items. The rate leaves out the start."""

    images: int
    failures: list[Failure]
    seconds: float
    rate: float
    cpu_seconds: float  # of the whole process
    nbytes_in: int


@dataclass
class Profile:
    """All that was measured. Rates are images a second."""

    source: str
    sample: int  # images measured with, of `total`
    total: int
    recipe: Recipe
    writes: bool  # the tensors, too
    threads: int
    rate: float
    nbytes_per_image: float
    failures: list[Failure]
    stages: list[Stage]
    per_thread: dict[str, dict[str, float]]  # thread -> stage or "idle" -> share of the time
    busy: float  # part of the time that `threads` workers were computing, on average
    cores_used: float  # by the whole process
    scaling: list[ThreadRates]
    read: Ceiling
    write: Ceiling
    needs: list[Need] = field(default_factory=list)
    rate_over_time: list[tuple[float, float]] = field(default_factory=list)
    window: list[Span] = field(default_factory=list)
    streamed: Streamed | None = None
    verdict: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the sampled spans, for JSON."""
        return {
            "tool": "zoofast profile",
            "versions": versions(),
            "source": self.source,
            "images": {"total": self.total, "measured": self.sample},
            "recipe": {"name": self.recipe.name, "digest": self.recipe.digest},
            "writes_tensors": self.writes,
            "threads": self.threads,
            "images_per_second": self.rate,
            "nbytes_per_image": self.nbytes_per_image,
            "verdict": self.verdict,
            "stages": [asdict(stage) for stage in self.stages],
            "per_thread": self.per_thread,
            "busy": self.busy,
            "cores_used": self.cores_used,
            "scaling": [{**asdict(point), "rate": point.rate} for point in self.scaling],
            "read": asdict(self.read),
            "write": asdict(self.write),
            "streamed": asdict(self.streamed) if self.streamed else None,
            "needs": [{**asdict(need), "fed": need.fed} for need in self.needs],
            "rate_over_time": self.rate_over_time,
            "failures": [asdict(failure) for failure in self.failures],
        }


Step = Callable[[str], None]  # told what is measured next


def steps(options: Options, models: Sequence[KnownModel]) -> int:
    """How many steps profile() will take."""
    counts = thread_counts(options.threads or usable_cpus())
    streaming = options.model is not None
    return 4 + streaming + ROUNDS * len(counts) + len({model.recipe for model in models})


def profile(
    source: Source,
    recipe: Recipe,
    options: Options = Options(),
    *,
    models: Sequence[KnownModel] = (),
    trace: str | os.PathLike[str] | None = None,
    step: Step = lambda what: None,
) -> Profile:
    """Measures the pipeline of `recipe` over a sample of `source` on this host.

    models: those to say the needs of. trace: a file to write, see zoofast.timing.trace; of the
    stream, with a model. Raises ImageError when no image of the sample can be prepared,
    OutputError when `scratch` or `trace` cannot be written, BackendError when the model cannot be
    run.
    """
    threads = options.threads or usable_cpus()
    items = spread(source.items, options.images)
    with tempfile.TemporaryDirectory(prefix=".zoofast-", dir=_checked(options.scratch)) as folder:
        target = _into(folder) if options.write else None

        def run(threads: int, seconds: float, rate: float, **more: Any) -> Run:
            chosen = _repeated(items, seconds * rate)
            size = options.batch_size
            return run_pipeline(
                source, recipe, chosen, threads, seconds, batch_size=size, target=target, **more
            )

        step("disk, reading")
        read = read_ceiling(source, items, threads)
        step("warming up")
        first = run_pipeline(source, recipe, items, threads, math.inf, target=target)
        if first.images == 0:
            raise ImageError(f"{first.failures[0]} (and no other image could be prepared)")
        guess = first.images / first.seconds

        rates: dict[int, list[float]] = {count: [] for count in thread_counts(threads)}
        for _ in range(ROUNDS):
            for count, found in rates.items():
                step(f"{count} thread{'s' if count > 1 else ''}")
                found.append(run(count, options.seconds / ROUNDS, guess).rate)

        step("stages")
        with ExitStack() as stack:
            begin = time.monotonic_ns()
            here = trace if options.model is None else None
            writer = stack.enter_context(TraceWriter(here, begin)) if here else None
            timeline = Timeline(begin, writer)
            traced = run(threads, options.seconds, guess, timeline=timeline)
        step("disk, writing")
        write = write_ceiling(folder, recipe, threads)

    one = statistics.median(rates[1])
    scaling = [
        ThreadRates(count, found, statistics.median(found) / (count * one))
        for count, found in rates.items()
    ]
    rate = scaling[-1].rate
    wall = (timeline.end_ns - timeline.begin_ns) / 1e9
    worked: Counter[str] = Counter()
    for name, spent in timeline.busy_ns.items():
        if name.startswith((WORKER, WRITER)):
            worked.update(spent)
    computed = sum(ns for stage, ns in worked.items() if stage != WRITE)
    busy = computed / 1e9 / (wall * threads)
    result = Profile(
        source.where,
        len(items),
        len(source.items),
        recipe,
        options.write,
        threads,
        rate,
        traced.nbytes_in / traced.images,
        first.failures,
        stages(worked, traced.images, rate, busy),
        timeline.shares(),
        busy,
        traced.cpu_seconds / traced.seconds,
        scaling,
        read,
        write,
        rate_over_time=timeline.rate.points(),
        window=timeline.window(),
    )
    if options.model is not None:
        step("model")
        _stream(result, source, items, options, options.model, trace)
    result.needs = _needs(result, source, items, options, models, step)
    result.verdict = verdict(result)
    return result


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spread: a folder's first ones are often one class."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 … and `most`."""
    counts = [1 << i for i in range(most.bit_length())]
    return [*(count for count in counts if count < most), most]


def _checked(scratch: Path) -> Path:
    try:
        with tempfile.TemporaryDirectory(prefix=".zoofast-", dir=scratch):
            return scratch
    except OSError as error:
        raise OutputError(
            f"{scratch}: cannot be written to: {error.strerror}; name a folder by --scratch"
        ) from error


def _into(folder: str) -> Target:
    def target(item: Item) -> tuple[bytes, bytes]:
        path = os.fsencode(os.path.join(folder, item.name))
        return path + b".bin", path + b".bin.part"

    return target


def _repeated(items: Sequence[Item], count: float) -> list[Item]:
    """The items over and over, for half as long again as `count` images should take."""
    return list(items) * max(1, math.ceil(1.5 * count / len(items)))


def run_pipeline(
    source: Source,
    recipe: Recipe,
    items: Sequence[Item],
    threads: int,
    seconds: float,
    *,
    batch_size: int | None = None,
    target: Target | None = None,
    timeline: Timeline | None = None,
) -> Run:
    """Prepares `items`, throwing the tensors away, until they or the seconds are over."""
    images, nbytes, failures = 0, 0, []
    marks: list[tuple[int, int]] = []  # (when, images so far) at each batch's end
    cpu = time.process_time()
    begin = time.monotonic_ns()
    with Loader(
        source, recipe, items=items, batch_size=batch_size, threads=threads, target=target
    ) as loader:
        for number, (asked, got, prepared) in enumerate(_timed(loader)):
            done = time.monotonic_ns()
            images += len(prepared.names)
            failures += prepared.failures
            marks.append((done, images))
            if timeline is not None:
                timeline.prepared(number, prepared, asked)
                timeline.span(CALLER, "use", got, time.monotonic_ns(), number)
                timeline.finish(number, len(prepared.names), got)
            if done - begin > seconds * 1e9:
                break
        nbytes = loader.stats.nbytes_in
        end, cpu = time.monotonic_ns(), time.process_time() - cpu
    elapsed = (end - begin) / 1e9
    rate = images / elapsed
    if len(marks) > 2:  # the first batch began with idle threads
        rate = (marks[-1][1] - marks[0][1]) * 1e9 / (marks[-1][0] - marks[0][0])
    return Run(images, failures, elapsed, rate, cpu, nbytes)


def _timed(loader: Loader) -> Iterator[tuple[int, int, Prepared]]:
    """(when it was asked for, when it was there, the batch), monotonic nanoseconds."""
    batches = iter(loader)
    while True:
        asked = time.monotonic_ns()
        prepared = next(batches, None)
        if prepared is None:
            return
        yield asked, time.monotonic_ns(), prepared


def stages(busy_ns: Mapping[str, int], images: int, rate: float, busy: float) -> list[Stage]:
    """The stages of the workers, and the headspace of each.

    busy_ns: summed over the workers. busy: see Profile. While the workers have enough to do,
    throughput rises as an image's computing falls; when they wait, freeing what they compute
    would gain nothing. Files are written by threads of their own while others compute, so that
    writing has no part in an image's computing: without it, the workers would not wait.
    """
    total = sum(ns for name, ns in busy_ns.items() if name != WRITE)
    waiting = busy < 1 - IDLE
    found = []
    for name in STAGES:
        ns = busy_ns.get(name, 0)
        if name == WRITE and ns:
            free = rate / busy if waiting else rate
            found.append(Stage(name, ns / images / 1e3, None, free))
        elif ns:
            found.append(Stage(name, ns / images / 1e3, ns / total, rate if waiting else None))
            if not waiting and total > ns:
                found[-1] = replace(found[-1], rate_if_free=rate * total / (total - ns))
    return found


def _stream(
    profile: Profile,
    source: Source,
    items: Sequence[Item],
    options: Options,
    model: ModelSpec,
    trace: str | os.PathLike[str] | None,
) -> None:
    """Fills in `streamed`, and the pictures of the run, which are then of the stream."""
    failed = {failure.name for failure in profile.failures}
    good = [item for item in items if item.name not in failed]

    def run(chosen: Sequence[Item], **more: Any) -> Evaluation:
        options_ = evaluate.Options([model], threads=profile.threads, **more)
        return evaluate.evaluate(source, chosen, profile.recipe, None, options_)

    first = run(good[:STREAM_FIRST])
    rate = min(profile.rate, first.device_rate())
    found = run(
        _repeated(good, options.seconds * rate / 1.5),
        details=True,
        trace=Path(trace) if trace else None,
    )
    assert found.input is not None
    at_once = found.input.shape[0] * found.lanes
    times = found.times[0]
    profile.streamed = Streamed(
        model.model,
        str(found.input),
        found.images_per_second,
        found.device_rate(),
        found.device_share("infer"),
        {
            stage: 1000 * sum(ms) / (at_once * len(times.compute))
            for stage, ms in (
                ("h2d", times.to_device),
                ("infer", times.compute),
                ("d2h", times.from_device),
            )
            if ms
        },
    )
    profile.per_thread = found.timeline.shares()
    profile.rate_over_time = found.timeline.rate.points()
    profile.window = found.timeline.window()


def _needs(
    profile: Profile,
    source: Source,
    items: Sequence[Item],
    options: Options,
    models: Sequence[KnownModel],
    step: Step,
) -> list[Need]:
    """Measures the host with the recipe of every model, and compares."""
    rates: dict[str, float] = {}
    for name in dict.fromkeys(model.recipe for model in models):
        step(f"recipe {name}")
        recipe = load_recipe(name)
        seconds = options.seconds / ROUNDS
        if recipe.digest == profile.recipe.digest and not options.write:
            rates[name] = profile.rate
            continue
        # larger tensors only make it slower, so these are images enough
        chosen = _repeated(items, seconds * profile.rate)
        rates[name] = run_pipeline(source, recipe, chosen, profile.threads, seconds).rate
    return needs(models, rates, profile.threads)


def needs(
    models: Iterable[KnownModel], host_rates: Mapping[str, float], threads: int
) -> list[Need]:
    """One row per model and chip, at the chip's best batch size; the hungriest first.

    host_rates: recipe -> images a second on `threads` threads.
    """
    rows = []
    for model in models:
        host = host_rates[model.recipe]
        for chip in model.fps:
            batch, device = model.best(chip)
            cores = math.ceil(device / (host / threads))
            rows.append(Need(model.guide, chip, batch, model.recipe, device, host, cores))
    return sorted(rows, key=lambda need: -need.device_rate)


def verdict(profile: Profile) -> list[str]:
    """What holds the host back, in sentences, the most important first."""
    threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
    waiting = profile.busy < 1 - IDLE
    also = ", writing each tensor to a file" if profile.writes else ""
    lines = [
        f"This host prepares {profile.rate:,.0f} images a second with {profile.recipe.name} on "
        f"{threads}{also}."
    ]
    if waiting:
        idle = f"the workers compute only {profile.busy:.0%} of the time"
        lines.append(
            f"The host's bottleneck is the disk that takes the tensors: {idle}. Without writing, "
            f"it would reach {profile.rate / profile.busy:,.0f} images/s."
            if profile.writes
            else f"The host's bottleneck is the thread that takes the batches: {idle}."
        )
    else:
        computing = [stage for stage in profile.stages if stage.share is not None]
        top = max(computing, key=lambda stage: stage.share or 0.0)
        free = top.rate_if_free
        gain = f"; were it free, the host would reach {free:,.0f} images/s" if free else ""
        lines.append(
            f"The host's bottleneck is {IN_WORDS[top.name]}: {top.microseconds:,.0f} µs of the "
            f"{sum(stage.microseconds for stage in computing):,.0f} µs that an image takes in "
            f"one thread ({top.share:.0%}){gain}."
        )
    if not waiting and profile.cores_used < CROWDED * profile.threads:
        lines.append(
            f"The process got only {profile.cores_used:.1f} of the {profile.threads} cores that "
            "its busy threads asked for: it waits for the disk, or other processes use the cores."
        )
    if len(profile.scaling) > 1:
        most = profile.scaling[-1]
        lines.append(
            f"{most.threads} threads are {most.rate / profile.scaling[0].rate:.1f} times as fast "
            f"as one: an efficiency of {most.efficiency:.0%}."
        )
    for ceiling, what, held in (
        (profile.read, "Reading", "images not in the page cache hold it back"),
        (profile.write, "Writing", "the disk holds back runs that write their tensors"),
    ):
        enough = ceiling.images_per_second > profile.rate
        lines.append(
            f"{what} alone reaches {ceiling.bytes_per_second / 1e6:,.0f} MB/s, "
            f"{ceiling.images_per_second:,.0f} images/s: "
            + ("more than the host prepares." if enough else f"less than it prepares, so {held}.")
        )
    if profile.streamed:
        run = profile.streamed
        whose = "the device's" if run.device_busy > 1 - IDLE else "this host's"
        lines.append(
            f"Streamed through {run.model}, {run.rate:,.0f} images a second come out; the device "
            f"alone would do {run.device_rate:,.0f}. It computes {run.device_busy:.0%} of the "
            f"time: the pace is {whose}."
        )
    if profile.needs:
        need = profile.needs[0]
        lines.append(
            f"{need.model} on a {need.chip} at batch {need.batch} eats {need.device_rate:,.0f} "
            f"images/s; this host feeds {need.host_rate:,.0f}. About {need.cores} cores like "
            "these would be needed."
        )
    return lines
