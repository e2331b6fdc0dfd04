"""Every CPU level equals the scalar kernels, byte for byte, and stays within its buffers."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import jpegs, oracle
from zoofast import _core
from zoofast.preprocess.recipe_file import parse_recipe

PAGE = mmap.PAGESIZE
Guarded = Callable[[int], NDArray[np.uint8]]


@pytest.fixture
def guarded() -> Guarded:
    """Makes buffers that end at a page which may not be touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def make(nbytes: int) -> NDArray[np.uint8]:
        room = -(-nbytes // PAGE) * PAGE
        memory = mmap.mmap(-1, room + PAGE)
        whole = np.frombuffer(memory, np.uint8)
        assert libc.mprotect(whole.ctypes.data + room, PAGE, 0) == 0
        return whole[room - nbytes : room]

    return make


def plan_of(spec: oracle.Spec) -> _core.Plan:
    return parse_recipe(spec.toml(), "test").plan()


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    filter=st.sampled_from(oracle.FILTERS),
    dtype=st.sampled_from(["uint8", "float16", "float32"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_scalar(
    isa: str,
    height: int,
    width: int,
    size: tuple[int, int],
    filter: str,
    dtype: str,
    layout: str,
    seed: int,
) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    plan = plan_of(
        oracle.Spec(mode="exact", size=size, crop=None, filter=filter, dtype=dtype, layout=layout)
    )
    made = []
    for level, poison in (("scalar", 0x00), (isa, 0xFF)):
        out = np.full(plan.nbytes, poison, np.uint8)
        assert _core.Workspace(level).prepare_rgb(rgb, plan, out).status == _core.Status.OK
        made.append(out)
    assert np.array_equal(*made)


@pytest.mark.parametrize("factors", [*jpegs.SAMPLINGS, *jpegs.ODD_SAMPLINGS])
def test_decoding_equals_scalar(isa: str, factors: str) -> None:
    shape = {**jpegs.SAMPLINGS, **jpegs.ODD_SAMPLINGS}[factors]
    for width in (1, 7, 16, 17, 63, 64, 65, 130):
        data = jpegs.craft(19, width, shape, seed=width)
        scalar, made = _core.Workspace("scalar").decode(data), _core.Workspace(isa).decode(data)
        assert (scalar is None) == (made is None)
        assert scalar is None or np.array_equal(scalar, made)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_nothing_beyond_the_buffers_is_touched(
    isa: str, dtype: str, layout: str, guarded: Guarded
) -> None:
    workspace = _core.Workspace(isa)
    for side in (*range(1, 20), 31, 32, 33, 63, 64, 65, 127, 128, 129):
        spec = oracle.Spec(mode="none", crop=(3, side), dtype=dtype, layout=layout)
        plan = plan_of(spec)
        rgb = jpegs.photo(3, side, side)
        wanted = oracle.tensor(rgb, spec).reshape(-1).view(np.uint8)
        source, out = guarded(rgb.size).reshape(rgb.shape), guarded(plan.nbytes)
        source[:] = rgb
        assert workspace.prepare_rgb(source, plan, out).status == _core.Status.OK
        assert np.array_equal(out, wanted)

        data = np.frombuffer(jpegs.craft(3, side, jpegs.SAMPLINGS["4:2:0"], side), np.uint8)
        file = guarded(data.size)
        file[:] = data
        assert workspace.prepare(file, plan, out).status == _core.Status.OK
        wanted = oracle.tensor(oracle.pixels(data.tobytes()), spec)
        assert np.array_equal(out, wanted.reshape(-1).view(np.uint8))


def test_a_workspace_carries_nothing_over(isa: str) -> None:
    """Tables are kept between images; alternating recipes and sizes must not mix them up."""
    workspace, rng = _core.Workspace(isa), np.random.default_rng(1)
    specs = [
        oracle.Spec(size=(40, 40), crop=(32, 32), dtype="uint8"),
        oracle.Spec(size=(40, 40), crop=(32, 32), rounding="truncate"),
        oracle.Spec(size=(40, 40), crop=(32, 32), filter="bicubic"),
        oracle.Spec(mode="exact", size=(40, 33), crop=None, layout="NHWC", dtype="float16"),
        oracle.Spec(mode="none", crop=(50, 20), dtype="uint8", layout="NHWC"),
    ]
    images = [jpegs.jpeg(h, w, h) for h, w in ((41, 55), (55, 41), (40, 40), (200, 90), (3, 3))]
    images += [jpegs.gray_jpeg(41, 55), jpegs.gray_jpeg(64, 64)]
    for _ in range(120):
        spec, data = specs[rng.integers(len(specs))], images[rng.integers(len(images))]
        plan = plan_of(spec)
        out = np.empty(plan.nbytes, np.uint8)
        assert workspace.prepare(data, plan, out).status == _core.Status.OK
        wanted = oracle.tensor(oracle.pixels(data), spec)
        assert np.array_equal(out, wanted.reshape(-1).view(np.uint8))


def test_levels_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _core.isa_names()[0] == "scalar"
    assert _core.isa("scalar") == "scalar"
    monkeypatch.delenv("ZOOFAST_ISA", raising=False)
    best = _core.isa()
    assert best in _core.isa_names()
    monkeypatch.setenv("ZOOFAST_ISA", "scalar")
    assert _core.isa() == "scalar"
    monkeypatch.setenv("ZOOFAST_ISA", "sse9")
    with pytest.raises(ValueError, match=r"sse9.*known: scalar"):
        _core.Workspace()
    with pytest.raises(ValueError, match="sse9"):
        _core.Pool(1)
    assert _core.isa(best) == best  # a name given in code wins


def test_the_best_level_is_what_linux_says_of_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level that is not found where it runs would cost most of the speed."""
    flags = Path("/proc/cpuinfo").read_text().split()
    needed = {
        "ssse3": {"ssse3"},
        "avx2": {"avx2", "bmi1", "bmi2"},
        "avx512": {f"avx512{x}" for x in ("f", "bw", "vl", "dq", "vbmi", "_vbmi2", "_vnni")},
    }
    monkeypatch.delenv("ZOOFAST_ISA", raising=False)
    if platform.machine() == "x86_64":
        runs = [name for name in _core.isa_names()[1:] if needed[name] <= set(flags)]
        assert _core.isa() == ["scalar", *runs][-1]
    else:
        assert _core.isa() == _core.isa_names()[-1]


def test_the_level_is_shown() -> None:
    code = "from zoofast.cli import main; main(['--version'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ZOOFAST_ISA": "scalar"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CPU level scalar" in done.stdout


def test_buffers_of_the_wrong_size_are_refused() -> None:
    plan = plan_of(oracle.Spec())
    data, short = jpegs.jpeg(30, 30), np.empty(plan.nbytes - 1, np.uint8)
    with pytest.raises(ValueError, match="the recipe makes"):
        _core.Workspace().prepare(data, plan, short)
    with pytest.raises(ValueError, match="the recipe makes"):
        _core.Workspace().prepare_rgb(jpegs.photo(9, 9), plan, short)
    with pytest.raises(ValueError, match="height, width, 3"):
        _core.Workspace().prepare_rgb(
            np.zeros((9, 9, 4), np.uint8), plan, np.empty(plan.nbytes, np.uint8)
        )
    for window in ((0, 0, 31, 30), (-1, 0, 3, 3), (5, 5, 5, 6), (0, 9, 3, 8)):
        with pytest.raises(ValueError, match="is not inside 30x30"):
            _core.Workspace().decode(data, window)
