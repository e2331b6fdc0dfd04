"""What a Loader and a Source refuse: each refusal is where wrong tensors or a hang would be."""

from __future__ import annotations

import copy
import os
import pickle
import resource
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import fetched, folders, jpegs
from zoofast.errors import SourceError
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import Source, open_source

COUNT = 40


@pytest.fixture(scope="module")
def chosen() -> Recipe:
    return parse_recipe(folders.SPEC.toml(), "test")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return folders.good_files(COUNT)


@pytest.fixture(scope="module")
def wanted(files: dict[str, bytes]) -> dict[str, bytes]:
    """The bytes of each image's tensor."""
    return {name.partition(".")[0]: folders.tensor(data).tobytes() for name, data in files.items()}


def pack(folder: Path, files: dict[str, bytes], name: str, mode: Any = "w") -> Path:
    """A tar of the files."""
    folders.write(folder, files)
    with tarfile.open(folder / name, mode) as tar:
        for file in sorted(files):
            tar.add(folder / file, file)
    return folder / name


@pytest.mark.parametrize("name", ["batch_size", "threads", "depth", "max_file_bytes"])
@pytest.mark.parametrize("count", [0, -1])
def test_counts_below_one(tmp_path: Path, chosen: Recipe, name: str, count: int) -> None:
    options: dict[str, Any] = {name: count}
    with (
        open_source(folders.write(tmp_path, folders.good_files(1))) as source,
        pytest.raises(ValueError, match=f"{name} must be at least 1, not {count}"),
    ):
        Loader(source, chosen, **options)


def test_a_refused_argument_does_not_close_standard_input() -> None:
    code = """
import os
from zoofast import _core, load_recipe
plan = load_recipe("alexnet").plan()
before = os.fstat(0)
for arguments in ((plan, 1 << 40), (plan, "4"), (None, 1), (plan, 1, False, "text")):
    try:
        _core.Batch(*arguments)
    except (OverflowError, TypeError):
        continue
    raise SystemExit("taken")
assert os.path.samestat(before, os.fstat(0))
"""
    with open(__file__, "rb") as standard_input:
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=standard_input, capture_output=True, text=True
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_batch_is_given_back_once(
    tmp_path: Path, chosen: Recipe, files: dict[str, bytes], wanted: dict[str, bytes]
) -> None:
    with (
        open_source(folders.write(tmp_path, files)) as source,
        Loader(source, chosen, threads=2, batch_size=3) as loader,
        Loader(source, chosen, threads=1, batch_size=3) as other,
    ):
        first, others = loader.take(), other.take()
        assert first is not None and others is not None
        found = dict(zip(first.names, map(np.ndarray.tobytes, first.array), strict=True))
        loader.give_back(first)
        for batch in (first, others):
            with pytest.raises(ValueError, match="given back before, or is another Loader's"):
                loader.give_back(batch)
        for batch in loader:  # goes on, unharmed
            found |= zip(batch.names, map(np.ndarray.tobytes, batch.array), strict=True)
    assert found == wanted


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz"])
def test_threads_may_share_a_loader(
    tmp_path: Path,
    chosen: Recipe,
    files: dict[str, bytes],
    wanted: dict[str, bytes],
    kind: str,
) -> None:
    """Each image comes once, with its own tensor, however the threads interrupt one another."""
    where = folders.write(tmp_path / "images", files)
    if kind != "folder":
        where = pack(tmp_path, files, f"images.{kind}", "w" if kind == "tar" else "w:gz")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            assert taken_by_threads(where, chosen) == sorted(wanted.items())
    finally:
        sys.setswitchinterval(interval)


def taken_by_threads(where: Path, recipe: Recipe) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            while (batch := loader.take()) is not None:
                found.extend(zip(batch.names, map(np.ndarray.tobytes, batch.array), strict=True))
                loader.give_back(batch)
        except Exception as error:
            errors.append(error)

    with open_source(where) as source, Loader(source, recipe, batch_size=2, depth=6) as loader:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert loader.stats.images == COUNT
    assert not errors
    return sorted(found)


def test_a_closed_loader(tmp_path: Path, chosen: Recipe) -> None:
    with open_source(folders.write(tmp_path, folders.good_files(9))) as source:
        loader = Loader(source, chosen, batch_size=2)
        batch = loader.take()
        assert batch is not None
        loader.close()
        loader.close()
        for misuse in (loader.take, lambda: loader.give_back(batch), lambda: list(loader)):
            with pytest.raises(ValueError, match="the Loader is closed"):
                misuse()


def test_a_loader_that_another_thread_closes(tmp_path: Path, chosen: Recipe) -> None:
    """It may be waiting for a batch: the thread that takes them gets the error, or None."""
    with open_source(folders.write(tmp_path, folders.good_files(30))) as source:
        for _ in range(20):
            loader = Loader(source, chosen, threads=1, batch_size=1)
            ends: list[str] = []

            def work(loader: Loader, ends: list[str]) -> None:
                try:
                    for _ in loader:
                        pass
                    ends.append("all")
                except ValueError as error:
                    ends.append(str(error))

            thread = threading.Thread(target=work, args=(loader, ends), daemon=True)
            thread.start()
            loader.close()
            thread.join(60)
            assert ends in (["all"], ["the Loader is closed"])


def test_a_child_closes_a_loader_that_another_thread_takes_from(
    tmp_path: Path, chosen: Recipe
) -> None:
    """The thread of the parent may hold the lock of the Loader at the time of the fork."""
    with (
        open_source(folders.write(tmp_path, folders.good_files(4))) as source,
        Loader(source, chosen) as loader,
        loader._lock,
    ):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                threading.Timer(60, lambda: os._exit(2)).start()
                # In a thread that does not hold the lock.
                thread = threading.Thread(target=loader.close)
                thread.start()
                thread.join()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_source_that_is_closed_before_its_loader(
    tmp_path: Path, chosen: Recipe, files: dict[str, bytes], kind: str
) -> None:
    """Another source may be open under the same number: its images would have wrong names."""
    mode = "w" if kind == "tar" else "w:gz"
    first = pack(tmp_path, files, f"first.{kind}", mode)
    swapped = dict(zip(files, reversed(files.values()), strict=True))
    other = pack(tmp_path, swapped, f"other.{kind}", mode)
    source = open_source(first)
    with Loader(source, chosen, threads=1, batch_size=COUNT // 3) as loader:
        assert loader.take() is not None
        source.close()
        message = rf"first.{kind}: the source is closed; close it"
        with open_source(other), pytest.raises(SourceError, match=message):
            while loader.take() is not None:
                pass


def test_a_closed_source_is_not_read(tmp_path: Path, chosen: Recipe) -> None:
    source = open_source(pack(tmp_path, folders.good_files(3), "images.tar"))
    source.close()
    with pytest.raises(SourceError, match="the source is closed"):
        source.read(source.items[0])
    with Loader(source, chosen) as loader, pytest.raises(SourceError, match="is closed"):
        loader.take()


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_open_archives_are_not_copied(
    tmp_path: Path, kind: str, copied: Callable[[Source], object]
) -> None:
    files = folders.good_files(3)
    where = pack(tmp_path, files, f"images.{kind}", "w" if kind == "tar" else "w:gz")
    with open_source(where) as source, pytest.raises(TypeError, match=r"images.*open it again"):
        copied(source)


def test_a_folder_can_be_pickled(tmp_path: Path) -> None:
    with open_source(folders.write(tmp_path, folders.good_files(3))) as source:
        again = pickle.loads(pickle.dumps(source))
    assert again == source
    assert again.read(again.items[2]) == source.read(source.items[2])


class Interrupted:
    """A pool whose first wait is interrupted by Ctrl-C."""

    def __init__(self, pool: Any) -> None:
        self._pool, self._has_waited = pool, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def wait(self, batch: Any) -> None:
        if not self._has_waited:
            self._has_waited = True
            raise KeyboardInterrupt
        self._pool.wait(batch)


def test_an_interrupted_wait_loses_no_batch(
    tmp_path: Path, chosen: Recipe, files: dict[str, bytes], wanted: dict[str, bytes]
) -> None:
    with (
        open_source(folders.write(tmp_path, files)) as source,
        Loader(source, chosen, batch_size=3) as loader,
    ):
        loader._pool = Interrupted(loader._pool)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            loader.take()
        assert [name for batch in loader for name in batch.names] == sorted(wanted)


def test_an_interrupted_pillow_loses_no_batch(
    tmp_path: Path, chosen: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow may take seconds for a batch."""
    files = {f"i{i}.png": jpegs.save(jpegs.photo(40, 50, i), "PNG") for i in range(9)}
    with open_source(folders.write(tmp_path, files)) as source:
        with Loader(source, chosen) as loader:
            wanted = {n: a.tobytes() for b in loader for n, a in zip(b.names, b.array, strict=True)}
        interrupts = iter([True, False, True, False])
        run = Loader._run_pillow

        def interrupted(self: Any, *arguments: Any) -> Any:
            done = run(self, *arguments)
            if next(interrupts, False):
                raise KeyboardInterrupt
            return done

        monkeypatch.setattr(Loader, "_run_pillow", interrupted)
        got: dict[str, bytes] = {}
        with Loader(source, chosen, batch_size=3) as loader:
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    loader.take()
                taken = loader.take()
                assert taken is not None
                got |= {n: a.tobytes() for n, a in zip(taken.names, taken.array, strict=True)}
                loader.give_back(taken)
            for b in loader:
                got |= {n: a.tobytes() for n, a in zip(b.names, b.array, strict=True)}
            assert loader.stats.images == loader.stats.decoders["pillow"] == 9
    assert got == wanted and len(got) == 9


@pytest.mark.parametrize("where", ["_submit", "_finish", "_fetch"])
def test_an_interrupt_while_the_ring_changes_is_not_passed_over(
    tmp_path: Path, chosen: Recipe, files: dict[str, bytes], where: str
) -> None:
    """Images may be lost then, or have the bytes of others."""
    folders.write(tmp_path / "images", files)
    path = tmp_path / "images.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "images")
    with open_source(path) as source, Loader(source, chosen, batch_size=3) as loader:
        call = getattr(loader, where)

        def interrupted(*arguments: Any) -> Any:
            call(*arguments)
            raise KeyboardInterrupt

        setattr(loader, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            loader.take()
        setattr(loader, where, call)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="an earlier call was interrupted"):
                loader.take()


def test_an_interrupt_while_bytes_are_awaited_loses_none(chosen: Recipe) -> None:
    files = folders.good_files(6)
    source = fetched.DictSource(files)
    source.gate.clear()
    with Loader(source, chosen, batch_size=2) as loader:
        to = threading.get_ident(), signal.SIGINT
        threading.Timer(0.3, signal.pthread_kill, to).start()
        with pytest.raises(KeyboardInterrupt):
            loader.take()
        source.gate.set()
        assert [name for batch in loader for name in batch.names] == [
            Path(name).stem for name in files
        ]


@pytest.mark.parametrize("suffix", ["JPEG", "png"])
def test_too_many_open_files_are_no_failure_of_an_image(
    tmp_path: Path, chosen: Recipe, files: dict[str, bytes], suffix: str
) -> None:
    """A run would leave out good images."""
    data = files["img0000.JPEG"] if suffix == "JPEG" else files["img0005.JPEG"]
    source = open_source(folders.write(tmp_path, {f"a.{suffix}": data}))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Loader(source, chosen, threads=1) as loader:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            with pytest.raises(SourceError, match=rf"a.{suffix}: cannot be read: Too many open"):
                loader.take()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
