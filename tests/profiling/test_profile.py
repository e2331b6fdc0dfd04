"""zoofast profile: arithmetic against worked examples, and the whole command on small images."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import in_process, traces
from zoofast import load_recipe, open_source
from zoofast.conversion import models
from zoofast.errors import ImageError, OutputError
from zoofast.profiling.disk import DiskRate, measure_reading, measure_writing
from zoofast.profiling.pipeline import repeated, run_pipeline, spread
from zoofast.profiling.profile import ProfileOptions, demands_of, profile, thread_counts
from zoofast.profiling.results import Demand, Profile, StreamProfile, ThreadRates, stages_of
from zoofast.profiling.verdict import verdict
from zoofast.report.profile import WRITERS, profile_report
from zoofast.timing.timeline import Timeline

DECODING = {"entropy", "idct", "colour"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 JPEGs, a PNG, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        pixels = rng.integers(0, 256, (18 + i % 3, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((360, 280)).save(folder / f"i{i:02d}.JPEG")
    Image.fromarray(pixels).resize((300, 300)).save(folder / "p.png")
    (folder / "z.JPEG").write_bytes(b"no image")
    return folder


def test_threads_double_up_to_all() -> None:
    assert thread_counts(1) == [1]
    assert thread_counts(2) == [1, 2]
    assert thread_counts(6) == [1, 2, 4, 6]
    assert thread_counts(64) == [1, 2, 4, 8, 16, 32, 64]


def test_the_sample_is_spread_over_the_source(images: Path) -> None:
    with open_source(images) as source:
        items = source.items
    assert spread(items, 100) == items
    assert spread(items, 4) == [items[0], items[6], items[13], items[19]]


def test_repeats_that_are_written_at_once_have_names_of_their_own(images: Path) -> None:
    with open_source(images) as source:
        items = source.items[:3]
    assert repeated(items, 5) == [*items] * 3
    assert repeated(items, 0.1, apart=100) == [*items]
    many = repeated(items, 100, apart=20)
    assert [item.path for item in many] == [item.path for item in items] * 50
    names = [item.name for item in many]
    assert all(len(set(names[i : i + 20])) == 20 for i in range(len(many) - 20))
    assert len(set(names)) == 21  # no more files than needed: a scratch folder may be small


def test_few_images_are_written_at_once(images: Path, tmp_path: Path) -> None:
    """More often than the batches of the ring have places: each tensor has its own file."""
    (tmp_path / "few").mkdir()
    for i in range(2):
        (tmp_path / "few" / f"{i}.JPEG").symlink_to(images / f"i{i:02d}.JPEG")
    options = ProfileOptions(threads=4, seconds=0.6, scratch=tmp_path, write=True)
    with open_source(tmp_path / "few") as source:
        result = profile(source, load_recipe("squeezenet1_1"), options)
    assert result.sample == 2 and not result.failures


def test_a_pipe_among_the_images_is_a_failure(images: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.JPEG").symlink_to(images / "i00.JPEG")
    os.mkfifo(tmp_path / "in" / "b.JPEG")
    options = ProfileOptions(threads=2, seconds=0.01, scratch=tmp_path)
    with open_source(tmp_path / "in") as source:
        result = profile(source, load_recipe("squeezenet1_1"), options)
    assert [failure.reason for failure in result.failures] == ["not a regular file"]


def test_the_rate_without_a_stage() -> None:
    spent = {"read": 1_000_000, "entropy": 8_000_000, "resize": 1_000_000, "write": 7_000_000}
    by_name = {stage.name: stage for stage in stages_of(spent, 10, 200.0, busy=1.0)}
    assert list(by_name) == ["read", "entropy", "resize", "write"]
    assert by_name["entropy"].microseconds == 800
    assert by_name["entropy"].share == 0.8
    assert by_name["entropy"].rate_if_free == pytest.approx(1000)  # 2 of 10 parts are left
    assert by_name["read"].rate_if_free == pytest.approx(200 / 0.9)
    assert (by_name["write"].share, by_name["write"].rate_if_free) == (None, 200)
    # the workers wait for the disk: computing less would gain nothing
    by_name = {stage.name: stage for stage in stages_of(spent, 10, 200.0, busy=0.5)}
    assert by_name["entropy"].rate_if_free == 200
    assert by_name["write"].rate_if_free == 400
    [only] = stages_of({"entropy": 5}, 1, 10.0, busy=1.0)
    assert only.rate_if_free is None


def test_demands_of_every_known_model_and_chip() -> None:
    known = [models.load(name) for name in models.names()]
    rates = {model.recipe: 600.0 for model in known}
    rows = demands_of(known, rates, host_cores=2)
    assert len(rows) == sum(len(model.fps) for model in known)
    first = rows[0]
    assert (first.model, first.chip, first.batch) == ("SqueezeNet1_1", "310P3", 8)
    assert first.cores == 72  # ceil(21301.5 / 300)
    assert first.supplied == pytest.approx(600 / 21301.5)
    assert rows[-1].supplied == 1.0 and rows[-1].cores == 1
    assert [row.device_rate for row in rows] == sorted((r.device_rate for r in rows), reverse=True)


def _profile(**changes: Any) -> Profile:
    """A host with two threads that decodes most of the time."""
    one, two = ThreadRates(1, [100.0], 1.0), ThreadRates(2, [180.0], 0.9)
    values: dict[str, Any] = {
        "source": "val", "sample": 10, "total": 10, "recipe": load_recipe("alexnet"),
        "writes": False, "threads": 2, "cores": 2, "rate": 180.0, "nbytes_per_image": 1e5,
        "failures": [],
        "stages": stages_of({"entropy": 9_000_000, "resize": 1_000_000}, 1, 180.0, 1.0),
        "per_thread": {}, "busy": 1.0, "cores_used": 2.0, "scaling": [one, two],
        "read": DiskRate(2e8, 2000.0, ""), "write": DiskRate(6e7, 100.0, ""),
    }  # fmt: skip
    return Profile(**{**values, **changes})


def test_the_verdict_names_the_slowest_stage() -> None:
    assert verdict(_profile()) == [
        "This host prepares 180 images per second with alexnet on 2 threads.",
        "The bottleneck of the host is entropy decoding: 9,000 µs of the 10,000 µs that an image "
        "takes in one thread (90 %). Without it, the host would reach 1,800 images/s.",
        "2 threads are 1.8 times as fast as one: the efficiency is 90 %.",
        "Reading alone reaches 200 MB/s, 2,000 images/s: more than the host prepares.",
        "Writing alone reaches 60 MB/s, 100 images/s: less than the host prepares, so a run that "
        "writes its tensors is slower.",
    ]


def test_the_verdict_of_a_host_that_waits() -> None:
    lines = verdict(_profile(busy=0.5, writes=True))
    assert lines[0].endswith("on 2 threads and writes each tensor to a file.")
    assert lines[1] == (
        "The bottleneck of the host is the disk that stores the tensors: the workers compute only "
        "50 % of the time. Without writing, the host would reach 360 images/s."
    )
    assert "the main thread, which takes the batches" in verdict(_profile(busy=0.5))[1]
    assert "used only 1.5 of the 2 cores" in verdict(_profile(cores_used=1.5))[2]


def test_the_verdict_of_a_model() -> None:
    stream = StreamProfile("m.om", "image", 150.0, 400.0, 0.4, {})
    demand = Demand("ResNet34", "310P3", 8, "resnet34", 5000.0, 170.0, 59)
    lines = verdict(_profile(stream=stream, demands=[demand]))
    assert lines[-2] == (
        "The evaluation of m.om reaches 150 images/s; the device alone would reach 400. The device "
        "computes 40 % of the time, so this host limits the rate."
    )
    assert lines[-1] == (
        "ResNet34 on a 310P3 at batch size 8 processes 5,000 images/s; this host supplies 170. The "
        "device needs about 59 cores like the cores of this host."
    )


def test_a_run_accounts_for_every_image(images: Path) -> None:
    timeline = Timeline(0)
    with open_source(images) as source:
        chosen = list(source.items) * 3
        run = run_pipeline(
            source, load_recipe("alexnet"), chosen, 2, 1e9, batch_size=5, timeline=timeline
        )
    assert run.images == 25 * 3
    assert Counter(failure.name for failure in run.failures) == {"z": 3}
    assert run.rate > 0 and run.seconds > 0
    assert timeline.batches == 16
    workers = [name for name in timeline.busy_ns if name.startswith("worker ")]
    assert workers and {"wait", "use", "pillow"} == timeline.busy_ns["main"].keys()
    for name in workers:
        assert {*DECODING, "read", "resize", "pack"} >= timeline.busy_ns[name].keys()


def test_a_run_stops_when_the_time_is_over(images: Path) -> None:
    with open_source(images) as source:
        run = run_pipeline(source, load_recipe("alexnet"), list(source.items) * 50, 1, 1e-9)
        assert 0 < run.images + len(run.failures) <= 8  # one batch
        good, bad = source.items[0], source.items[-1]
        for items, seconds in (([bad] * 20 + [good], 1e-9), ([good] + [bad] * 20, 1e9)):
            run = run_pipeline(source, load_recipe("alexnet"), items, 1, seconds)
            assert run.images == 1 and run.rate > 0  # else nothing can be said of the rate


def test_the_rates_of_a_disk_are_of_the_files_bytes(images: Path, tmp_path: Path) -> None:
    recipe = load_recipe("squeezenet1_1")
    with open_source(images) as source:
        read = measure_reading(source, source.items, 2)
    ratio = read.bytes_per_second / read.images_per_second
    sizes = [path.stat().st_size for path in images.iterdir()]
    assert ratio == pytest.approx(sum(sizes) / len(sizes))
    write = measure_writing(str(tmp_path), recipe, 2)
    assert write.bytes_per_second / write.images_per_second == pytest.approx(recipe.nbytes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [False, True])
def test_profile(images: Path, tmp_path: Path, write: bool) -> None:
    options = ProfileOptions(threads=2, seconds=0.3, scratch=tmp_path, write=write, batch_size=4)
    known = [models.load("squeezenet1_1"), models.load("resnet34")]
    with open_source(images) as source:
        result = profile(
            source, load_recipe("squeezenet1_1"), options, models=known, trace=tmp_path / "t.json"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]
    assert (result.sample, result.total, result.threads) == (26, 26, 2)
    assert [failure.name for failure in result.failures] == ["z"]
    names = [stage.name for stage in result.stages]
    assert names[0] == "read" and set(names[1:-3]) <= DECODING and len(names) > 4
    assert names[-2 - write :] == ["resize", "pack", *(["write"] if write else [])]
    assert sum(stage.share or 0 for stage in result.stages) == pytest.approx(1)
    assert [point.threads for point in result.scaling] == [1, 2]
    assert [len(point.rates) for point in result.scaling] == [3, 3]
    assert result.scaling[0].efficiency == 1
    assert result.rate == result.scaling[1].rate
    for shares in result.per_thread.values():
        assert sum(shares.values()) == pytest.approx(1, abs=0.02)
    assert {demand.model for demand in result.demands} == {"SqueezeNet1_1", "ResNet34"}
    assert f"{result.rate:,.0f} images per second" in result.verdict[0]
    json.dumps(result.as_dict(), allow_nan=False)
    blocks = [block for each in profile_report(result, []).sections for block in each.blocks]
    assert (WRITERS in str(blocks)) == write

    trace = traces.read_trace(tmp_path / "t.json")
    assert trace.threads[-1] == "main"
    assert {piece.name for piece in trace.slices} - {"wait", "use", "pillow"} == set(names)
    assert trace.flows and all(flow[-1] == "main" for flow in trace.flows.values())
    # the summed table is of the same spans
    busy: Counter[str] = Counter()
    for piece in trace.slices:
        busy[piece.name] += piece.end - piece.begin
    done = {(piece.batch, piece.image) for piece in trace.slices if piece.name == "pack"}
    for stage in result.stages:
        # the PNG is counted as an image, but Pillow decodes it
        assert busy[stage.name] / len(done) == pytest.approx(stage.microseconds, rel=0.15)


def test_more_threads_than_cores(images: Path, tmp_path: Path) -> None:
    """Eight threads keep one core busy: nothing waits, and a device needs no eight cores."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        options = ProfileOptions(threads=8, seconds=0.4, scratch=tmp_path)
        with open_source(images) as source:
            found = profile(
                source, load_recipe("alexnet"), options, models=[models.load("alexnet")]
            )
    finally:
        os.sched_setaffinity(0, cpus)
    assert (found.threads, found.cores) == (8, 1)
    assert 0.5 < found.busy <= 1  # of the core; of eight cores it would be an eighth
    assert not any("of the 8 cores" in line for line in found.verdict)
    [demand] = found.demands
    assert demand.cores == math.ceil(demand.device_rate / demand.host_rate)
    busy = _profile(threads=8, cores=2, cores_used=2.0)
    assert not any("The process used only" in line for line in verdict(busy))


def test_only_bad_images_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.JPEG").write_bytes(b"no image")
    with (
        open_source(tmp_path) as source,
        pytest.raises(ImageError, match=r"a\.JPEG: not an image"),
    ):
        profile(source, load_recipe("alexnet"), ProfileOptions(seconds=0.1, scratch=tmp_path))


def test_a_scratch_folder_that_is_not_there_is_named(images: Path) -> None:
    with open_source(images) as source, pytest.raises(OutputError, match=r"absent.*--scratch"):
        profile(source, load_recipe("alexnet"), ProfileOptions(scratch=Path("absent")))


def _zoofast(*arguments: str | Path, cwd: Path) -> in_process.Ended:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        return in_process.zoofast("profile", *arguments)


def test_the_command(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="the extra 'report' is not installed")
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    from tests.support import browser

    hostile = tmp_path / "<img src=x onerror=alert(1)>.tar"
    with tarfile.open(hostile, "w") as archive:
        for path in sorted(images.glob("i*.JPEG")):
            archive.add(path, f'"><script>alert(1)<{os.sep}script>/{path.name}')
    done = _zoofast(
        hostile, "--recipe", "squeezenet1_1", "--threads", "2", "--seconds", "0.3", "--report",
        "r.html", "--trace", "t.json", "--json", "r.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    assert len(figures["demands"]) == 6
    assert figures["verdict"][0].split()[0] in done.stdout
    traces.read_trace(tmp_path / "t.json")
    shown = browser.show(tmp_path / "r.html")
    assert shown.console == []
    page = shown.page
    values = {a["data-path"]: a["value"] for a, _ in page.all("data")}
    assert float(str(values["figures.0.value"])) == figures["images_per_second"]
    table = [float(str(v)) for at, v in values.items() if str(at).startswith("sections.0.blocks.0")]
    for stage in figures["stages"]:
        assert stage["microseconds"] in table
        assert stage["rate_if_free"] in table
    for demand in figures["demands"]:
        assert str(demand["cores"]) in values.values()
    assert figures["verdict"][0] in [text for _, text in page.all("p")]
    assert hostile.name in page.text
    assert len(page.all("script")) == 1 and page.all("img") == []


def test_a_model_is_evaluated(images: Path, tmp_path: Path) -> None:
    done = _zoofast(
        images, "--recipe", "squeezenet1_1", "--threads", "1", "--seconds", "0.2", "--only-recipe",
        "--model", "4x224x224x3:uint8:1000@200", "--backend", "sim", "--trace", "t.json", "--json",
        "p.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    figures = json.loads((tmp_path / "p.json").read_text())
    stream = figures["stream"]
    assert stream["device_rate"] == pytest.approx(200)
    assert stream["microseconds"] == {"infer": pytest.approx(5000)}
    assert 0 < stream["rate"] < 220
    assert "The evaluation of 4x224x224x3:uint8:1000@200 reaches" in done.stdout
    assert "device 0" in figures["per_thread"]
    trace = traces.read_trace(tmp_path / "t.json")
    named = {piece.name for piece in trace.slices}
    assert "infer" in named and named & DECODING
    other = _zoofast(
        images, "--recipe", "squeezenet1_1", "--seconds", "0.2", "--only-recipe", "--model",
        "4x3x224x224:float32", "--backend", "null", cwd=tmp_path,
    )  # fmt: skip
    assert other.returncode == 2
    assert "but the model takes image float32[4x3x224x224]" in other.stderr
    assert "recipe squeezenet1_1_float32 makes that" in other.stderr


def test_a_bad_image_makes_the_exit_code_1(images: Path, tmp_path: Path) -> None:
    done = _zoofast(
        images, "--recipe", "alexnet", "--threads", "1", "--seconds", "0.1", "--only-recipe",
        "--quiet", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "z.JPEG" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_after_sigterm(images: Path, tmp_path: Path) -> None:
    words = [images, "--recipe", "alexnet", "--write", "--seconds", "600", "--only-recipe"]
    process = subprocess.Popen(
        [sys.executable, "-m", "zoofast", "profile", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 300
    while not list(tmp_path.glob(".zoofast-*/*")):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (143, "zoofast: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "x"])
def test_bad_seconds_are_refused(images: Path, tmp_path: Path, seconds: str) -> None:
    done = _zoofast(images, "--recipe", "alexnet", "--seconds", seconds, cwd=tmp_path)
    assert done.returncode == 2
    assert "--seconds" in done.stderr
