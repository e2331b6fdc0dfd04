"""Measures what a host can feed: stages, threads, disks, and what known NPUs would need."""

from __future__ import annotations

import math
import mmap
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zoofast import _core
from zoofast import recipe as recipes
from zoofast.cpus import usable_cpus
from zoofast.errors import ImageError, OutputError
from zoofast.loader import Failure, Loader, Prepared, Target
from zoofast.prep import versions
from zoofast.recipe import Recipe
from zoofast.sources import Item, Source
from zoofast.timeline import STAGES, Span, Timeline, worker
from zoofast.trace import TraceWriter

ROUNDS = 3  # of every measurement that is compared with another, in turn
CALLER = "main"  # the thread that takes the batches


class KnownModel(Protocol):
    """A model whose speed on NPUs is known; see zoofast.models."""

    @property
    def name(self) -> str: ...

    @property
    def guide(self) -> str:
        """Its name for people."""

    @property
    def recipe(self) -> str: ...

    @property
    def fps(self) -> Mapping[str, Mapping[int, float]]:
        """Chip -> batch size -> images a second."""


@dataclass(frozen=True)
class Options:
    """How to profile. seconds: of each measurement; images: the sample, spread over the source.

    scratch: the folder in whose file system writing is measured. write: the pipeline writes its
    tensors there, as `zoofast prep` does.
    """

    threads: int | None = None
    seconds: float = 3.0
    images: int = 512
    batch_size: int | None = None
    scratch: Path = Path(".")
    write: bool = False


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
class Ceiling:
    """What a disk alone would allow."""

    bytes_per_second: float
    images_per_second: float
    how: str


@dataclass(frozen=True)
class Stage:
    """One stage: its share of the workers' busy time, and the rate if it took no time."""

    name: str
    microseconds: float  # per image, in one thread
    share: float
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
    threads: int
    rate: float
    nbytes_per_image: float
    failures: list[Failure]
    stages: list[Stage]
    per_thread: dict[str, dict[str, float]]  # thread -> stage or "idle" -> share of the time
    busy: float  # share of the workers' time spent in stages
    cores_used: float  # by the whole process
    scaling: list[ThreadRates]
    read: Ceiling
    write: Ceiling
    needs: list[Need] = field(default_factory=list)
    rate_over_time: list[tuple[float, float]] = field(default_factory=list)
    window: list[Span] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the sampled spans, for JSON."""
        return {
            "tool": "zoofast profile",
            "versions": versions(),
            "source": self.source,
            "images": {"total": self.total, "measured": self.sample},
            "recipe": {"name": self.recipe.name, "digest": self.recipe.digest},
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
            "needs": [{**asdict(need), "fed": need.fed} for need in self.needs],
            "rate_over_time": self.rate_over_time,
            "failures": [asdict(failure) for failure in self.failures],
        }


Step = Callable[[str], None]  # told what is measured next


def steps(options: Options, models: Sequence[KnownModel]) -> int:
    """How many steps profile() will take."""
    counts = thread_counts(options.threads or usable_cpus())
    return 4 + ROUNDS * len(counts) + len({model.recipe for model in models})


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

    models: those to say the needs of. trace: a file to write, see zoofast.trace.
    Raises ImageError when no image of the sample can be prepared, OutputError when `scratch` or
    `trace` cannot be written.
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
        names = [worker(i) for i in range(threads)]
        with ExitStack() as stack:
            begin = time.monotonic_ns()
            writer = stack.enter_context(TraceWriter(trace, begin)) if trace else None
            timeline = Timeline(begin, writer, [*names, CALLER])
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
    per_thread = {name: _shares(timeline.busy_ns[name], wall) for name in [*names, CALLER]}
    busy_ns: Counter[str] = Counter()
    for name in names:
        busy_ns.update(timeline.busy_ns[name])
    result = Profile(
        source.where,
        len(items),
        len(source.items),
        recipe,
        threads,
        rate,
        traced.nbytes_in / traced.images,
        first.failures,
        stages(busy_ns, traced.images, rate),
        per_thread,
        sum(busy_ns.values()) / 1e9 / (wall * threads),
        traced.cpu_seconds / traced.seconds,
        scaling,
        read,
        write,
        rate_over_time=timeline.rate.points(),
        window=timeline.window(),
    )
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
                timeline.prepared(number, prepared)
                pillow_begin, pillow_end = prepared.pillow_ns
                timeline.span(CALLER, "wait", asked, pillow_begin, number)
                if pillow_end > pillow_begin:
                    timeline.span(CALLER, "pillow", pillow_begin, pillow_end, number)
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


def _shares(busy_ns: Mapping[str, int], seconds: float) -> dict[str, float]:
    """What part of the seconds each stage took, in the order of STAGES, and the idle rest."""
    shares = {stage: busy_ns[stage] / 1e9 / seconds for stage in STAGES if stage in busy_ns}
    return {**shares, "idle": max(0.0, 1.0 - sum(shares.values()))}


def stages(busy_ns: Mapping[str, int], images: int, rate: float) -> list[Stage]:
    """The stages of the workers, and the headspace of each.

    busy_ns: summed over the workers. A rate without a stage assumes that the rest goes on as it
    does, so that throughput rises as an image's time falls.
    """
    total = sum(busy_ns.values())
    found = []
    for name in STAGES:
        ns = busy_ns.get(name, 0)
        if ns:
            free = rate * total / (total - ns) if total > ns else None
            found.append(Stage(name, ns / images / 1e3, ns / total, free))
    return found


def read_ceiling(source: Source, items: Sequence[Item], threads: int) -> Ceiling:
    """Reading the items' bytes alone, after asking the kernel to forget them."""
    fds = [source.fd] if source.fd >= 0 else []
    for item in items:
        if not item.in_archive:
            try:
                fds.append(os.open(item.path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                continue  # counted as a failure when it is to be prepared
            os.posix_fadvise(fds[-1], 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fds.pop())
        else:
            os.posix_fadvise(source.fd, item.offset, item.nbytes, os.POSIX_FADV_DONTNEED)

    def read(item: Item) -> int:
        try:
            return len(source.read(item))
        except OSError:
            return 0

    begin = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        sizes = list(pool.map(read, items))
    seconds = time.monotonic() - begin
    how = f"{len(items)} files, {threads} at a time, dropped from the page cache before"
    return Ceiling(sum(sizes) / seconds, len(items) / seconds, how)


def write_ceiling(folder: str, recipe: Recipe, threads: int) -> Ceiling:
    """Writing tensors of the recipe alone, as prep does, until they are on the disk."""
    count = max(16, min(256, 200_000_000 // recipe.nbytes))
    page = _core.PAGE
    slots = -(-recipe.nbytes // page) * page
    memory = mmap.mmap(-1, slots)  # page-aligned, for direct I/O
    tensor = np.frombuffer(memory, np.uint8)[: recipe.nbytes]
    paths = [os.path.join(folder, f"{i}.bin") for i in range(count)]

    def write(path: str) -> None:
        try:
            _core.write_file(path, path + ".part", tensor)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror}; name another folder by --scratch"
            ) from error

    begin = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, paths))
    seconds = time.monotonic() - begin
    for path in paths:
        os.unlink(path)
    how = f"{count} files of {recipe.nbytes:,} bytes, {threads} at a time, synced"
    return Ceiling(count * recipe.nbytes / seconds, count / seconds, how)


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
        recipe = recipes.load(name)
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
        for chip, by_batch in model.fps.items():
            batch, device = max(by_batch.items(), key=lambda entry: entry[1])
            cores = math.ceil(device / (host / threads))
            rows.append(Need(model.guide, chip, batch, model.recipe, device, host, cores))
    return sorted(rows, key=lambda need: -need.device_rate)


IDLE = 0.15  # of the workers' time: more than that means that they wait for someone
CROWDED = 0.8  # of the cores that busy threads should use: less means that others use them


def verdict(profile: Profile) -> list[str]:
    """What holds the host back, in sentences, the most important first."""
    threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
    top = max(profile.stages, key=lambda stage: stage.share)
    lines = [
        f"This host prepares {profile.rate:,.0f} images a second with {profile.recipe.name} on "
        f"{threads}."
    ]
    if profile.busy < 1 - IDLE:
        lines.append(
            f"The workers are idle {1 - profile.busy:.0%} of the time: they wait for the thread "
            "that takes the batches, not the other way round. Larger batches, or fewer images "
            "that Pillow must decode, would help."
        )
    free = top.rate_if_free
    gain = f"; were it free, the host would reach {free:,.0f} images/s" if free else ""
    lines.append(
        f"The bottleneck is {top.name}: {top.microseconds:,.0f} µs of the "
        f"{sum(stage.microseconds for stage in profile.stages):,.0f} µs that an image takes in "
        f"one thread ({top.share:.0%}){gain}."
    )
    if profile.busy >= 1 - IDLE and profile.cores_used < CROWDED * profile.threads:
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
    for ceiling, what in ((profile.read, "Reading"), (profile.write, "Writing")):
        relation = "above" if ceiling.images_per_second > profile.rate else "BELOW"
        lines.append(
            f"{what} alone reaches {ceiling.bytes_per_second / 1e6:,.0f} MB/s, "
            f"{ceiling.images_per_second:,.0f} images/s: {relation} what the host prepares."
        )
    if profile.needs:
        need = profile.needs[0]
        lines.append(
            f"{need.model} on a {need.chip} at batch {need.batch} eats {need.device_rate:,.0f} "
            f"images/s; this host feeds {need.host_rate:,.0f}. About {need.cores} cores like "
            "these would be needed."
        )
    return lines
