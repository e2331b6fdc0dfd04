"""The verdict of a profile: what limits this host, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from zoofast.base.text import counted, percent
from zoofast.profiling.disk import DiskRate
from zoofast.profiling.results import MAX_IDLE, Profile

MIN_CORES = 0.8  # of the cores that busy threads need; with fewer, something else has the cores
IN_WORDS = {
    "read": "reading",
    "entropy": "entropy decoding",
    "idct": "the inverse DCT",
    "colour": "colour conversion",
    "resize": "resizing",
    "pack": "packing",
}


def verdict(profile: Profile) -> list[str]:
    """One sentence or two per line, the most important line first."""
    return [
        _rate(profile),
        _bottleneck(profile),
        *_cores(profile),
        *_scaling(profile),
        _disk(profile, profile.read, "Reading", "images outside the page cache slow it down"),
        _disk(profile, profile.write, "Writing", "a run that writes its tensors is slower"),
        *_stream(profile),
        *_demand(profile),
    ]


def _rate(profile: Profile) -> str:
    files = " and writes each tensor to a file" if profile.writes else ""
    return (
        f"This host prepares {profile.rate:,.0f} images per second with {profile.recipe.name} on "
        f"{counted(profile.threads, 'thread')}{files}."
    )


def _bottleneck(profile: Profile) -> str:
    if profile.workers_wait:
        who = "the main thread, which takes the batches"
        if profile.writes:
            who = "the disk that stores the tensors"
        text = (
            f"The bottleneck of the host is {who}: the workers compute only "
            f"{percent(profile.busy)} of the time."
        )
        if profile.writes:
            rate = profile.rate / profile.busy
            text += f" Without writing, the host would reach {rate:,.0f} images/s."
        return text
    computing = [stage for stage in profile.stages if stage.share is not None]
    slowest = max(computing, key=lambda stage: stage.share or 0.0)
    total = sum(stage.microseconds for stage in computing)
    text = (
        f"The bottleneck of the host is {IN_WORDS[slowest.name]}: {slowest.microseconds:,.0f} µs "
        f"of the {total:,.0f} µs that an image takes in one thread "
        f"({percent(slowest.share or 0.0)})."
    )
    if slowest.rate_if_free is not None:
        text += f" Without it, the host would reach {slowest.rate_if_free:,.0f} images/s."
    return text


def _cores(profile: Profile) -> Iterator[str]:
    if not profile.workers_wait and profile.cores_used < MIN_CORES * profile.cores:
        yield (
            f"The process used only {profile.cores_used:.1f} of the {profile.cores} cores that "
            "its threads needed: it waits for the disk, or other processes use the cores."
        )


def _scaling(profile: Profile) -> Iterator[str]:
    if len(profile.scaling) > 1:
        one, all_threads = profile.scaling[0], profile.scaling[-1]
        yield (
            f"{counted(all_threads.threads, 'thread')} are {all_threads.rate / one.rate:.1f} times "
            f"as fast as one: the efficiency is {percent(all_threads.efficiency)}."
        )


def _disk(profile: Profile, disk: DiskRate, what: str, consequence: str) -> str:
    enough = disk.images_per_second > profile.rate
    compared = "more" if enough else "less"
    return (
        f"{what} alone reaches {disk.bytes_per_second / 1e6:,.0f} MB/s, "
        f"{disk.images_per_second:,.0f} images/s: {compared} than the host prepares"
        + ("." if enough else f", so {consequence}.")
    )


def _stream(profile: Profile) -> Iterator[str]:
    stream = profile.stream
    if stream is not None:
        bus_busy = stream.rate * stream.transfer.to_device / 1e6 if stream.transfer else 0.0
        limit = "the bus" if bus_busy > 1 - MAX_IDLE else "this host"
        if stream.device_busy > 1 - MAX_IDLE:
            limit = "the device"
        yield (
            f"The evaluation of {stream.model} reaches {stream.rate:,.0f} images/s; the device "
            f"alone would reach {stream.device_rate:,.0f}. The device computes "
            f"{percent(stream.device_busy)} of the time, so {limit} limits the rate."
        )
        if stream.transfer is not None:
            yield " ".join(stream.transfer.sentences())


def _demand(profile: Profile) -> Iterator[str]:
    if profile.demands:
        most = profile.demands[0]
        yield (
            f"{most.model} on a {most.chip} at batch size {most.batch} processes "
            f"{most.device_rate:,.0f} images/s; this host supplies {most.host_rate:,.0f}. The "
            f"device needs about {counted(most.cores, 'core')} like the cores of this host."
        )
