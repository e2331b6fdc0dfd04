"""The report of `zoofast profile`."""

from __future__ import annotations

from collections.abc import Sequence

from zoofast.base.text import counted
from zoofast.profiling.results import Profile, StreamProfile
from zoofast.report.about import about
from zoofast.report.data import Column, Figure, Lines, ReportData, Section, Series, Table
from zoofast.report.running import failure_table, thread_shares, throughput, timeline
from zoofast.timing.trace import WRITER

WORKERS = (
    "Workers prepare images. The thread main takes the batches: wait is the time without a "
    "finished batch, use is its other work."
)
WRITERS = "Writers write files; most of the time they wait for the disk."


def profile_report(profile: Profile, command: Sequence[str]) -> ReportData:
    """The page of a profile. command: the command line that made it."""
    all_threads = profile.scaling[-1]
    figures = [
        Figure(
            "throughput", profile.rate, "images/s", note=f"on {counted(profile.threads, 'thread')}"
        ),
        Figure("one thread", profile.scaling[0].rate, "images/s"),
        Figure("efficiency", all_threads.efficiency * 100, "%", note="of all threads against one"),
        Figure("disk, reading", profile.read.images_per_second, "images/s"),
        Figure("disk, writing", profile.write.images_per_second, "images/s"),
    ]
    has_writers = any(thread.startswith(WRITER) for thread in profile.per_thread)
    sections = [
        Section(
            "Where the time goes",
            [
                _stages(profile),
                thread_shares(
                    profile.per_thread, f"{WORKERS} {WRITERS}" if has_writers else WORKERS
                ),
                timeline(profile.window),
                throughput(profile.rate_over_time),
            ],
        ),
        Section("Threads and disks", [_scaling(profile), _disks(profile)]),
    ]
    if profile.stream:
        figures += [
            Figure("evaluation", profile.stream.rate, "images/s", note="through the model"),
            Figure("device busy", 100 * profile.stream.device_busy, "%"),
        ]
        sections.append(Section("The model", [_device(profile.stream)]))
    if profile.demands:
        sections.append(Section("What NPUs need", [_demands(profile)]))
    if profile.failures:
        sections.append(
            Section("Images that could not be prepared", [failure_table(profile.failures)])
        )
    sample = f"{profile.sample:,} of {profile.total:,} images"
    sections.append(about(command, profile.recipe, {"source": profile.source, "sample": sample}))
    return ReportData(
        "Host profile",
        f"{profile.recipe.name} · {profile.source} · {sample}",
        figures,
        profile.verdict,
        sections,
    )


def _stages(profile: Profile) -> Table:
    rows = [
        (
            stage.name,
            stage.microseconds,
            None if stage.share is None else stage.share * 100,
            stage.rate_if_free,
        )
        for stage in profile.stages
    ]
    columns = [
        Column("stage"),
        Column("time", "µs/image"),
        Column("share", "%", 1),
        Column("if free", "images/s"),
    ]
    note = (
        f"The pipeline reaches {profile.rate:,.0f} images/s. Decoding has three stages: "
        "entropy decoding, inverse DCT, and upsampling with colour conversion."
        + (" Writers write while the workers compute." if profile.writes else "")
    )
    return Table("Stages, in one thread", columns, rows, note)


def _device(stream: StreamProfile) -> Table:
    rows = list(stream.microseconds.items())
    note = (
        f"{stream.model} takes {stream.input}. The device alone would reach "
        f"{stream.device_rate:,.0f} images/s. The charts of the threads, the timeline and the "
        "throughput show this evaluation."
    )
    return Table("On the device", [Column("stage"), Column("time", "µs/image", 1)], rows, note)


def _scaling(profile: Profile) -> Lines:
    counts = [point.threads for point in profile.scaling]
    one = profile.scaling[0].rate
    return Lines(
        "Scaling",
        [
            Series("measured", counts, [point.rate for point in profile.scaling]),
            Series("if threads cost nothing", counts, [one * n for n in counts], dashed=True),
        ],
        "threads",
        "images/s",
        log_x=True,
    )


def _disks(profile: Profile) -> Table:
    rows = [
        (what, disk.bytes_per_second / 1e6, disk.images_per_second, disk.method)
        for what, disk in (("reading", profile.read), ("writing", profile.write))
    ]
    columns = [
        Column(""),
        Column("speed", "MB/s"),
        Column("rate", "images/s"),
        Column("measured with"),
    ]
    return Table("Disks alone", columns, rows)


def _demands(profile: Profile) -> Table:
    rows = [
        (
            demand.model,
            demand.chip,
            demand.batch,
            demand.device_rate,
            demand.host_rate,
            demand.supplied * 100,
            demand.cores,
        )
        for demand in profile.demands
    ]
    columns = [
        Column("model"),
        Column("chip"),
        Column("batch"),
        Column("NPU", "images/s"),
        Column("host", "images/s"),
        Column("supplied", "%"),
        Column("cores needed"),
    ]
    note = (
        "The rates of the chips are from the guides' tables, at the best batch size. The rates of "
        f"the host are with each model's own recipe on {counted(profile.threads, 'thread')}, in "
        "memory. The needed cores are cores like those of this host."
    )
    return Table("", columns, rows, note)
