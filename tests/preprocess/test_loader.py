"""Batches come in order, for any number of threads, any batch size and any broken images."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import zoofast
from tests.support import folders, jpegs, oracle
from zoofast import _core
from zoofast.errors import CpuLevelError, ImageError
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.prepare import prepare
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import load_recipe, parse_recipe
from zoofast.preprocess.sources import open_source


@pytest.fixture(scope="module")
def chosen() -> Recipe:
    return parse_recipe(folders.SPEC.toml(), "test")


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("batch_size", "depth"), [(1, 1), (3, 2), (8, 3), (100, 3), (5, 7)])
def test_order_and_bytes(
    tmp_path: Path, chosen: Recipe, threads: int, batch_size: int, depth: int
) -> None:
    files = folders.good_files(23)
    names, arrays = [], []
    with (
        open_source(folders.write(tmp_path, files)) as source,
        Loader(source, chosen, threads=threads, batch_size=batch_size, depth=depth) as loader,
    ):
        for batch in loader:
            assert len(batch.names) == len(batch.array) == len(batch.items) <= batch_size
            assert batch.failures == []
            assert batch.array.dtype == np.float32
            assert batch.array.flags.c_contiguous
            names += batch.names
            arrays.append(batch.array.copy())
    assert names == [name.removesuffix(".JPEG") for name in sorted(files)]
    wanted = np.stack([folders.tensor(files[name]) for name in sorted(files)])
    assert np.concatenate(arrays).tobytes() == wanted.tobytes()


def test_a_class_folder_and_a_list_give_the_same(tmp_path: Path, chosen: Recipe) -> None:
    files = folders.good_files(6)
    for i, (name, data) in enumerate(sorted(files.items())):
        folders.write(tmp_path / "classes" / f"n{i // 2}", {name: data})
    paths = sorted(str(path) for path in (tmp_path / "classes").rglob("*.JPEG"))
    (tmp_path / "list.txt").write_text("\n".join(paths))
    made = []
    for where in ("classes", "list.txt"):
        with (
            open_source(tmp_path / where) as source,
            Loader(source, chosen, threads=2, batch_size=4) as loader,
        ):
            made.append(b"".join(batch.array.tobytes() for batch in loader))
    assert made[0] == made[1]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 50])
def test_bad_images_leave_no_gap(tmp_path: Path, chosen: Recipe, batch_size: int) -> None:
    files = {**folders.good_files(9), **folders.BAD_FILES}
    files["img0003a.JPEG"] = b"in the middle"
    good = sorted(name for name in files if name in folders.good_files(9))
    names, failures, arrays = [], [], []
    with (
        open_source(folders.write(tmp_path, files)) as source,
        Loader(source, chosen, threads=2, batch_size=batch_size) as loader,
    ):
        for batch in loader:
            names += batch.names
            failures += batch.failures
            arrays.append(batch.array.copy())
    assert names == [name.removesuffix(".JPEG") for name in good]
    assert np.concatenate(arrays).tobytes() == b"".join(
        folders.tensor(files[name]).tobytes() for name in good
    )
    causes = {failure.name: failure.cause for failure in failures}
    assert causes == {
        "bad_cut": "truncated",
        "bad_empty": "empty",
        "bad_text": "not an image",
        "img0003a": "not an image",
    }
    for failure in failures:
        assert failure.path in str(failure)
        assert len(failure.reason) > 5


def test_nothing_but_bad_images(tmp_path: Path, chosen: Recipe) -> None:
    folders.write(tmp_path, folders.BAD_FILES)
    with open_source(tmp_path) as source, Loader(source, chosen, threads=2) as loader:
        (batch,) = loader
        assert batch.names == []
        assert batch.array.shape == (0, 3, 32, 32)
        assert len(batch.failures) == 3


def test_files_that_cannot_be_opened(tmp_path: Path, chosen: Recipe) -> None:
    """A link to nothing, a pipe, a device: failures with a reason, and no waiting."""
    folders.write(tmp_path, folders.good_files(2))
    (tmp_path / "dangling.JPEG").symlink_to(tmp_path / "gone")
    (tmp_path / "null.JPEG").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.JPEG")
    with open_source(tmp_path) as source, Loader(source, chosen, threads=1) as loader:
        (batch,) = loader
    assert batch.names == ["img0000", "img0001"]
    reasons = {failure.name: (failure.cause, failure.reason) for failure in batch.failures}
    assert reasons.keys() == {"dangling", "null", "pipe"}
    assert {cause for cause, _ in reasons.values()} == {"unreadable"}
    assert reasons["dangling"][1] == "No such file or directory"
    assert reasons["null"][1] == reasons["pipe"][1] == "not a regular file"


def test_a_socket_is_no_image(
    tmp_path: Path, chosen: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.JPEG")
        with open_source(tmp_path) as source, Loader(source, chosen, threads=1) as loader:
            (batch,) = loader
    assert [failure.reason for failure in batch.failures] == ["not a regular file"]


@pytest.mark.parametrize("kind", ["sparse file", "tar member"])
def test_a_huge_image_is_named_and_not_read(tmp_path: Path, chosen: Recipe, kind: str) -> None:
    """100 GB that claim to be an image: one failure, in no time and no memory."""
    where = folders.write(tmp_path / "in", folders.good_files(3))
    huge = where / "img0001.JPEG"
    if kind == "sparse file":
        with huge.open("wb") as file:
            file.truncate(100 << 30)
    else:
        info = tarfile.TarInfo(huge.name)
        info.size = 100 << 30
        blocks = {path.name: path.read_bytes() for path in sorted(where.iterdir())}
        where = tmp_path / "in.tar"
        with tarfile.open(where, "w") as archive:
            for name in ("img0000.JPEG", "img0002.JPEG"):
                member = tarfile.TarInfo(name)
                member.size = len(blocks[name])
                archive.addfile(member, io.BytesIO(blocks[name]))
            end = archive.offset
        with where.open("r+b") as file:
            file.seek(end)
            file.write(info.tobuf())
            file.truncate(end + 512 + (100 << 30) + 1024)
    with open_source(where) as source, Loader(source, chosen, threads=1) as loader:
        (batch,) = loader
    assert batch.names == ["img0000", "img0002"]
    (failure,) = batch.failures
    assert (failure.name, failure.cause) == ("img0001", "too large")
    assert failure.reason == "larger than 256,000,000 bytes"


def test_the_limit_of_a_files_size(tmp_path: Path, chosen: Recipe) -> None:
    """The limit itself is allowed; it holds for files that Pillow decodes, too."""
    png = jpegs.save(jpegs.photo(50, 60), "PNG")
    data = jpegs.jpeg(50, 60)
    folders.write(tmp_path, {"a.JPEG": data, "b.png": png})
    for limit, expected in ((max(len(data), len(png)), 2), (min(len(data), len(png)) - 1, 0)):
        with (
            open_source(tmp_path) as source,
            Loader(source, chosen, threads=1, max_file_bytes=limit) as loader,
        ):
            (batch,) = loader
        assert len(batch.names) == expected
        assert len(batch.failures) == 2 - expected
    with pytest.raises(ImageError, match="larger than 256,000,000 bytes"):
        prepare(_sparse(tmp_path / "huge.JPEG"), chosen)
    with pytest.raises(ImageError, match="not a regular file"):
        prepare("/dev/zero", chosen)


def _sparse(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(100 << 30)
    return path


def test_a_file_without_permission(open_folder: Path, chosen: Recipe) -> None:
    folders.write(open_folder, folders.good_files(2))
    (open_folder / "img0000.JPEG").chmod(0)
    with (
        folders.without_privileges(),
        open_source(open_folder) as source,
        Loader(source, chosen, threads=1) as loader,
    ):
        (batch,) = loader
    (failure,) = batch.failures
    assert (failure.cause, failure.reason) == ("unreadable", "Permission denied")


def test_an_image_that_vanishes_or_changes_after_listing(tmp_path: Path, chosen: Recipe) -> None:
    files = folders.good_files(3)
    folders.write(tmp_path, files)
    with open_source(tmp_path) as source:
        (tmp_path / "img0000.JPEG").unlink()
        (tmp_path / "img0001.JPEG").write_bytes(files["img0002.JPEG"])
        with Loader(source, chosen, threads=2) as loader:
            (batch,) = loader
    assert [failure.reason for failure in batch.failures] == ["No such file or directory"]
    # the file that was replaced gives its new content
    assert batch.array[0].tobytes() == folders.tensor(files["img0002.JPEG"]).tobytes()


def test_a_tar_that_shrinks_after_listing(tmp_path: Path, chosen: Recipe) -> None:
    files = {name: jpegs.jpeg(60, 60, i) for i, name in enumerate(("a.JPEG", "b.JPEG"))}
    folders.write(tmp_path / "in", files)
    subprocess.run(["tar", "-cf", "in.tar", "-C", "in", *files], cwd=tmp_path, check=True)
    with open_source(tmp_path / "in.tar") as source:
        os.truncate(tmp_path / "in.tar", source.items[1].offset + 700)
        with Loader(source, chosen, threads=2) as loader:
            (batch,) = loader
    assert batch.names == ["a"]
    assert [failure.cause for failure in batch.failures] == ["truncated"]


def test_sizes_that_do_not_fit_are_failures(tmp_path: Path) -> None:
    spec = oracle.Spec(mode="none", crop=None, out=(20, 30), dtype="uint8")
    files = {
        "a.JPEG": jpegs.jpeg(20, 30),
        "b.JPEG": jpegs.jpeg(30, 20),
        "c.JPEG": jpegs.save(jpegs.photo(21, 30), "PNG"),
    }
    folders.write(tmp_path, files)
    with (
        open_source(tmp_path) as source,
        Loader(source, parse_recipe(spec.toml(), "t"), threads=1) as loader,
    ):
        (batch,) = loader
    assert batch.names == ["a"]
    assert [(f.name, f.cause) for f in batch.failures] == [("b", "wrong size"), ("c", "wrong size")]
    assert "30x20 after resizing; the recipe's tensor is 20x30" in batch.failures[0].reason


def test_stats_count_what_was_done(tmp_path: Path, chosen: Recipe) -> None:
    files = {**folders.good_files(14), **folders.BAD_FILES}
    folders.write(tmp_path, files)
    with open_source(tmp_path) as source, Loader(source, chosen, threads=2) as loader:
        for _ in loader:
            pass
        stats = loader.stats
    assert stats.images == 17
    assert stats.decoders["pillow"] == 2  # the two PNGs
    assert sum(stats.decoders.values()) == 14
    assert stats.nbytes_in == sum(map(len, files.values()))
    assert all(stats.stage_seconds[stage] > 0 for stage in ("read", "resize", "pack"))
    assert stats.stage_seconds["write"] == 0


@pytest.mark.parametrize("isa", _core.isa_names())
def test_decoders_tell_what_they_can(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of sampled stages are estimates; their sum is the time that the image took."""
    try:
        workspace = _core.Workspace(isa)
    except CpuLevelError as error:
        pytest.skip(str(error))
    plan = load_recipe("alexnet").plan()
    out = np.empty(plan.nbytes, np.uint8)
    files = {
        "baseline": jpegs.jpeg(400, 300),
        "progressive": jpegs.jpeg(400, 300, progressive=True),
    }
    for decoder, data in files.items():
        sums, wall = np.zeros(len(_core.STAGES)), 0
        for _ in range(20):
            begin = time.perf_counter_ns()
            outcome = workspace.prepare(data, plan, out)
            wall += time.perf_counter_ns() - begin
            assert _core.DECODERS[outcome.decoder] == decoder
            sums += outcome.stage_ns
        spent = dict(zip(_core.STAGES, sums, strict=True))
        assert min(spent["entropy"], spent["idct"], spent["colour"]) > 0
        assert sums.sum() <= wall


def test_several_batches_can_be_held(tmp_path: Path, chosen: Recipe) -> None:
    files = folders.good_files(9)
    with (
        open_source(folders.write(tmp_path, files)) as source,
        Loader(source, chosen, threads=2, batch_size=2, depth=3) as loader,
    ):
        held = [loader.take() for _ in range(3)]
        with pytest.raises(RuntimeError, match="all batches of the ring are held"):
            loader.take()
        wanted = [folders.tensor(files[name]).tobytes() for name in sorted(files)]
        for i, batch in enumerate(held):
            assert batch is not None
            assert batch.array.tobytes() == wanted[2 * i] + wanted[2 * i + 1]
        for batch in held:
            assert batch is not None
            loader.give_back(batch)
        rest = [batch.array.tobytes() for batch in loader]
        assert rest == [wanted[6] + wanted[7], wanted[8]]
        assert loader.take() is None


def test_leaving_in_the_middle_ends_at_once(tmp_path: Path, chosen: Recipe) -> None:
    folders.write(tmp_path, folders.good_files(40))
    before = set(threading.enumerate())  # other tests of this process may have left servers
    with (
        open_source(tmp_path) as source,
        Loader(source, chosen, threads=2, batch_size=4) as loader,
    ):
        for batch in loader:
            assert batch.names
            break
    assert set(threading.enumerate()) <= before  # Pillow's threads have ended too


def test_an_exception_of_the_caller_is_not_masked(tmp_path: Path, chosen: Recipe) -> None:
    folders.write(tmp_path, folders.good_files(30))
    with (
        pytest.raises(ZeroDivisionError),
        open_source(tmp_path) as source,
        Loader(source, chosen, threads=3, batch_size=2) as loader,
    ):
        for _ in loader:
            raise ZeroDivisionError


def test_the_workers_run_while_the_caller_computes(tmp_path: Path, chosen: Recipe) -> None:
    """No thread of the core needs the GIL: a batch is filled while this thread keeps the GIL."""
    folders.write(tmp_path, {f"{i}.JPEG": jpegs.jpeg(60, 60, i) for i in range(8)})
    pool, batch = _core.Pool(2), _core.Batch(chosen.plan(), 8)
    for path in sorted(tmp_path.iterdir()):
        batch.add_path(os.fspath(path))
    batch.array[:] = np.nan
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)  # seconds: this thread keeps the GIL
    try:
        pool.submit(batch)
        deadline = time.monotonic() + 60
        while np.isnan(batch.array[:, -1, -1, -1]).any() and time.monotonic() < deadline:
            pass
        assert not np.isnan(batch.array[:, -1, -1, -1]).any()
    finally:
        sys.setswitchinterval(before)
    pool.wait(batch)
    pool.close()


def test_memory_is_flat(tmp_path: Path) -> None:
    """2,500 images take no more memory than 100."""
    files = {f"{i}.JPEG": jpegs.jpeg(100 + i, 150, i) for i in range(20)}
    files["odd.JPEG"] = jpegs.save(jpegs.photo(100, 90), "PNG")
    folders.write(tmp_path, files)
    code = r"""
import re, sys
from pathlib import Path
from zoofast import Loader, load_recipe, open_source
from zoofast.preprocess.sources import Item, Source
with open_source(sys.argv[1]) as source:
    items = source.items
    def peak(n):
        repeated = [items[i % len(items)] for i in range(n)]
        with Loader(source, load_recipe("alexnet"), items=repeated, threads=2) as loader:
            assert sum(len(batch.names) for batch in loader) == n
        # not ru_maxrss, which begins at the value of the parent process
        return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
    print(peak(100), peak(2500))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    first, last = (int(word) for word in done.stdout.split())  # kB
    assert last - first < 20_000
    assert last < 300_000


# ---- one image -----------------------------------------------------------------


def test_prepare_takes_bytes_and_paths(tmp_path: Path, chosen: Recipe) -> None:
    for name, data in folders.good_files(7).items():
        path = tmp_path / name
        path.write_bytes(data)
        wanted = folders.tensor(data)
        for image in (data, path, str(path)):
            made = prepare(image, chosen)
            assert (made.shape, made.dtype) == (wanted.shape, wanted.dtype)
            assert made.tobytes() == wanted.tobytes()


def test_prepare_names_the_file(tmp_path: Path, chosen: Recipe) -> None:
    for name, data in folders.BAD_FILES.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=name):
            prepare(tmp_path / name, chosen)
    with pytest.raises(ImageError, match=r"gone\.JPEG: No such file"):
        prepare(tmp_path / "gone.JPEG", chosen)


def test_the_public_names() -> None:
    for name in zoofast.__all__:
        assert getattr(zoofast, name) is not None
    assert zoofast.prepare is prepare
    with pytest.raises(AttributeError, match="no attribute 'prepar'"):
        zoofast.prepar  # noqa: B018


# ---- the core's batches and pools ------------------------------------------------


def test_a_batch_guards_its_slots(chosen: Recipe) -> None:
    batch = _core.Batch(chosen.plan(), 1)
    with pytest.raises(ValueError, match="not for files"):
        batch.add_path("x", b"to", b"tmp")
    batch.clear()
    batch.add_path("x")
    with pytest.raises(IndexError, match="holds 1"):
        batch.add_path("y")
    with pytest.raises(IndexError):
        batch.outcome(1)
    with pytest.raises(ValueError, match="at least 1"):
        _core.Batch(chosen.plan(), 0)


def write_jpeg(folder: Path, height: int, width: int) -> str:
    path = folder / "image.jpg"
    path.write_bytes(jpegs.jpeg(height, width))
    return str(path)


def test_a_pool_guards_its_batches(chosen: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        _core.Pool(0)
    pool, batch = _core.Pool(1), _core.Batch(chosen.plan(), 2)
    with pytest.raises(ValueError, match="not submitted"):
        pool.wait(batch)
    batch.add_path(write_jpeg(tmp_path, 50, 50))
    pool.submit(batch)
    with pytest.raises(ValueError, match="running already"):
        pool.submit(batch)
    pool.wait(batch)
    assert batch.outcome(0).status == _core.Status.OK
    batch.clear()
    pool.submit(batch)  # an empty batch is done at once
    pool.wait(batch)
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.submit(batch)


def test_a_pool_writes_what_it_computed_even_when_it_is_closed(
    chosen: Recipe, tmp_path: Path
) -> None:
    """A file under its final name is whole; a dropped job leaves no file."""
    pool = _core.Pool(2, writers=1)
    batch = _core.Batch(chosen.plan(), 60, for_files=True)
    image, out = write_jpeg(tmp_path, 200, 200), tmp_path / "out"
    out.mkdir()
    for i in range(60):
        path = os.fsencode(out / f"{i}.bin")
        batch.add_path(image, path, path + b".part")
    pool.submit(batch)
    while not list(out.glob("*.bin")):
        time.sleep(0.001)
    pool.close()
    outcomes = [batch.outcome(i) for i in range(60)]
    done = [i for i, outcome in enumerate(outcomes) if outcome.status == _core.Status.OK]
    assert done
    assert {outcome.status for outcome in outcomes} <= {_core.Status.OK, _core.Status.CANCELLED}
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{i}.bin" for i in done)
    expected = batch.tensor_bytes(done[0]).tobytes()
    assert {(out / f"{i}.bin").read_bytes() for i in done} == {expected}
    assert all(outcomes[i].write_begin_ns >= outcomes[i].begin_ns > 0 for i in done)
    workers, writers, last = batch.busy()
    assert set(workers) == {outcome.worker for outcome in outcomes}
    for worker, spent in workers.items():
        mine = [outcome.stage_ns[:-1] for outcome in outcomes if outcome.worker == worker]
        assert spent == [*np.sum(mine, axis=0), 0]
    assert writers == {0: sum(outcome.stage_ns[-1] for outcome in outcomes)}
    assert last == max(outcomes[i].write_begin_ns + outcomes[i].stage_ns[-1] for i in done)


def test_files_need_a_writer(chosen: Recipe) -> None:
    pool = _core.Pool(1)
    with pytest.raises(ValueError, match="no writers"):
        pool.submit(_core.Batch(chosen.plan(), 1, for_files=True))
    with pytest.raises(ValueError, match="at least"):
        _core.Pool(1, writers=-1)


def test_a_closed_pool_drops_what_has_not_begun(chosen: Recipe, tmp_path: Path) -> None:
    count = 2000  # seconds of work, which end at once
    pool, batch = _core.Pool(1), _core.Batch(chosen.plan(), count)
    image = write_jpeg(tmp_path, 400, 400)
    for _ in range(count):
        batch.add_path(image)
    pool.submit(batch)
    pool.close()
    outcomes = [batch.outcome(i) for i in range(count)]
    statuses = {outcome.status for outcome in outcomes}
    assert _core.Status.CANCELLED in statuses
    assert statuses <= {_core.Status.OK, _core.Status.CANCELLED}
    totals, ok = batch.totals(), [o for o in outcomes if o.status == _core.Status.OK]
    assert totals.not_ok == [i for i, o in enumerate(outcomes) if o.status != _core.Status.OK]
    assert totals.nbytes_in == os.path.getsize(image) * len(ok)
    assert totals.stage_ns == tuple(np.sum([o.stage_ns for o in outcomes], axis=0))
    by_decoder = [sum(o.decoder == i for o in ok) for i in range(len(_core.DECODERS))]
    assert list(totals.decoded) == by_decoder


def test_many_pools_come_and_go(chosen: Recipe, tmp_path: Path) -> None:
    image = write_jpeg(tmp_path, 50, 50)
    expected = folders.tensor(Path(image).read_bytes()).tobytes()
    for threads in (1, 2, 9) * 5:
        pool, batch = _core.Pool(threads), _core.Batch(chosen.plan(), 4)
        for _ in range(4):
            batch.add_path(image)
        pool.submit(batch)
        pool.wait(batch)
        assert [batch.array[i].tobytes() for i in range(4)] == [expected] * 4
        pool.close()
