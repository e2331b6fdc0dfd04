"""What `zoofast profile` found, as a report."""

from __future__ import annotations

from collections.abc import Sequence

from zoofast.profiling.profile import Profile, Streamed
from zoofast.report.about import about
from zoofast.report.data import Column, Figure, Lines, ReportData, Section, Series, Table
from zoofast.report.running import failures, thread_shares, throughput, timeline

WORKERS_NOTE = "Workers compute. Writers hand files to the disk, and mostly wait for it."


def profile_report(profile: Profile, command: Sequence[str]) -> ReportData:
    """The page of a profile. command: the command line that made it."""
    most = profile.scaling[-1]
    figures = [
        Figure("throughput", profile.rate, "images/s", note=f"on {profile.threads} threads"),
        Figure("one thread", profile.scaling[0].rate, "images/s"),
        Figure("efficiency", most.efficiency * 100, "%", note="of all threads against one"),
        Figure("disk, reading", profile.read.images_per_second, "images/s"),
        Figure("disk, writing", profile.write.images_per_second, "images/s"),
    ]
    sections = [
        Section(
            "Where the time goes",
            [
                _stages(profile),
                thread_shares(profile.per_thread, WORKERS_NOTE),
                timeline(profile.window),
                throughput(profile.rate_over_time),
            ],
        ),
        Section("Threads and disks", [_scaling(profile), _disks(profile)]),
    ]
    if profile.streamed:
        figures += [
            Figure("streamed", profile.streamed.rate, "images/s", note="through the model"),
            Figure("device busy", 100 * profile.streamed.device_busy, "%"),
        ]
        sections.append(Section("The model", [_device(profile.streamed)]))
    if profile.needs:
        sections.append(Section("What NPUs need", [_needs(profile)]))
    if profile.failures:
        sections.append(Section("Images that could not be prepared", [failures(profile.failures)]))
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
        f"Now: {profile.rate:,.0f} images/s. Decode is libjpeg-turbo's, whole; zoofast's own "
        "decoder tells entropy decoding, inverse DCT, and upsampling with colour conversion apart."
        + (" Writing goes on beside the computing." if profile.writes else "")
    )
    return Table("Stages, in one thread", columns, rows, note)


def _device(run: Streamed) -> Table:
    rows = list(run.microseconds.items())
    note = (
        f"{run.model}, {run.input}: the device alone would do {run.device_rate:,.0f} images/s. The "
        "threads, the timeline and the throughput above are of this stream."
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
        (what, ceiling.bytes_per_second / 1e6, ceiling.images_per_second, ceiling.how)
        for what, ceiling in (("reading", profile.read), ("writing", profile.write))
    ]
    columns = [
        Column(""),
        Column("speed", "MB/s"),
        Column("ceiling", "images/s"),
        Column("measured with"),
    ]
    return Table("Disks alone", columns, rows)


def _needs(profile: Profile) -> Table:
    rows = [
        (
            need.model,
            need.chip,
            need.batch,
            need.device_rate,
            need.cores,
            need.host_rate,
            need.fed * 100,
        )
        for need in profile.needs
    ]
    columns = [
        Column("model"),
        Column("chip"),
        Column("batch"),
        Column("eats", "images/s"),
        Column("needs", "cores"),
        Column("gets", "images/s"),
        Column("fed", "%"),
    ]
    note = (
        "Chips at their best batch size, from the guides' tables; the host with each model's own "
        f"recipe on {profile.threads} threads, in memory; cores as fast as these are now."
    )
    return Table("", columns, rows, note)
