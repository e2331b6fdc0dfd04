"""The C reader, ranker and writer of scores, against NumPy, Python and printf."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zoofast import _core, _logits
from zoofast.errors import CpuLevelError, ResultError
from zoofast.scoring.results import read_logits

anything = st.integers(0, 2**32 - 1).map(lambda bits: np.uint32(bits).view(np.float32))
scores = st.floats(-1e4, 1e4, width=32).map(np.float32) | anything

EXAMPLES = settings().max_examples  # of the profile in use


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    nan = np.isnan(a)
    return np.array_equal(nan, np.isnan(b)) and np.array_equal(
        a[~nan].view(np.uint32), b[~nan].view(np.uint32)
    )


def numpy_parse(tokens: list[str]) -> np.ndarray:
    return np.array([np.float32(token) for token in tokens], np.float32)


decimals = st.from_regex(
    r"[+-]?([0-9]{1,25}(\.[0-9]{0,25})?|\.[0-9]{1,25})([eE][+-]?[0-9]{1,3})?", fullmatch=True
)
specials = st.sampled_from(["nan", "-nan", "inf", "-inf", "Infinity", "NaN", "INF", "+inf"])


@given(st.lists(decimals | specials | scores.map(lambda x: f"{x:f}"), min_size=1, max_size=40))
@example(["1.00000005960464477539062500000000000000001"])  # rounds twice, as np.float32 does
@example(["9007199254740993", "9007199254740992e22", "1e-400", "1e400", "-0", "0.000000"])
@example(["123456789012345678901234567890." + "1" * 100])
@example(["-1.000000", "12.345678", "1234567.000001", "12345678.000001", "-123456.654321"] * 4)
@settings(max_examples=4 * EXAMPLES)
def test_parse_equals_numpy(isa: str, tokens: list[str]) -> None:
    with np.errstate(over="ignore"):
        expected = numpy_parse(tokens)
    for separator in (" ", "\t", " \r\n "):
        text = separator.join(tokens)
        assert same_bits(_logits.parse(text.encode(), isa), expected)
        assert same_bits(_logits.parse(f" {text} \n".encode(), isa), expected)


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "1.2.3",
        "--1",
        "1e",
        "1e+",
        "e5",
        ".",
        "-",
        "0x10",
        "nan(1)",
        "1_0",
        "1,5",
        "infinit",
        "12.34567x",
        "1.23456 7.00000x",
    ],
)
def test_parse_refuses_what_is_no_number(isa: str, token: str) -> None:
    for before in ("", "12.345678 " * 5):
        offender = before + token
        at = offender.rfind(" ") + 1
        with pytest.raises(ValueError, match=f"byte {at} "):
            _logits.parse(f"{offender} 1.000000 2.000000 3.000000".encode(), isa)


@pytest.mark.parametrize("below", [1, 100, 10**9])
def test_parse_of_long_rows_equals_numpy(isa: str, below: int) -> None:
    rng = np.random.default_rng(below)
    row = (rng.random(5000) * rng.choice([-below, below], 5000)).astype(np.float32)
    row[::97] = [-0.0, below, -1, 9.9999995, 99.999999, 0.5][below % 6]
    tokens = [f"{x:f}" for x in row]
    for end in ("", " ", " \n"):
        text = " ".join(tokens) + end
        assert same_bits(_logits.parse(text.encode(), isa), numpy_parse(tokens))


def test_parse_of_short_and_long_numbers_in_turn_equals_numpy(isa: str) -> None:
    """AVX2 goes from one number at a time to four and back, after runs of different lengths."""
    rng = np.random.default_rng(5)
    for run in (1, 3, 8, 9, 20, 70, 300, 900):
        large = np.repeat(rng.random(6000 // run + 1) < 0.4, rng.integers(run, 2 * run + 1))[:6000]
        row = (rng.standard_normal(len(large)) * np.where(large, 5000, 20)).astype(np.float32)
        tokens = [f"{x:f}" for x in row]
        assert same_bits(
            _logits.parse((" ".join(tokens) + " \n").encode(), isa), numpy_parse(tokens)
        )


# Each is put among numbers as "%f " writes them, where SIMD takes four at a time.
ODD = ["+1.234567", "--1.23456", "5-1.234567", "-.234567", ".1234567", "1.2345678", "12.34567",
       "1234.567890", "123.4567890", "12,345678", "1.23456-", "-12.34567", "1.23.5678", "1e5",
       "nan", "-inf", "12.345678\t1.234567", "1.234567\n-2.345678", "", "  ",
       "-1.234567-", "9.99999/", "9.99999:", ":.999999", "/9.999999", "1.234567\0"]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_parse_of_an_odd_number_among_many(isa: str, odd: str) -> None:
    for at in range(3, 12):
        words = ["12.345678", "-1.234567", "-98.765432", "0.000001"] * 40
        text = " ".join([*words[:at], odd, *words[at:]]).encode()
        try:
            expected = numpy_parse([word.decode() for word in text.split()])
        except ValueError:
            with pytest.raises(ValueError, match=f"byte {len(' '.join(words[:at])) + 1} "):
                _logits.parse(text, isa)
        else:
            assert same_bits(_logits.parse(text, isa), expected)


def test_every_cpu_level_gives_the_same_confidence(isa: str) -> None:
    rows = np.random.default_rng(3).normal(0, 9, (50, 1003)).astype(np.float32)
    rows[0, 5], rows[1] = np.nan, np.inf
    rows[2, -1], rows[3] = np.nan, -np.inf
    for n in (1, 7, 8, 9, 1003):
        part = np.ascontiguousarray(rows[:, :n])
        pairs = zip(_logits.confidence(part, "scalar"), _logits.confidence(part, isa), strict=True)
        assert all(same_bits(*pair) for pair in pairs)


def test_levels_are_checked_as_in_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.ones((1, 3), np.float32)
    for wrong in ("sse9", "AVX2"):
        monkeypatch.setenv("ZOOFAST_ISA", wrong)
        with pytest.raises(CpuLevelError) as core:
            _core.Workspace()
        for call in (
            lambda: _logits.parse(b"1"),
            lambda: _logits.confidence(rows),
            lambda: _logits.read_file(_logits.CWD, b"a", _logits.TXT),
            lambda: _logits.Reading(_logits.CWD, [b"a"], np.zeros(1, np.uint8), 1),
        ):
            with pytest.raises(CpuLevelError) as logits:
                call()
            assert str(logits.value) == str(core.value)
    monkeypatch.setenv("ZOOFAST_ISA", "scalar")
    assert _logits.parse(b"1.5").tolist() == [1.5]


@given(st.binary(max_size=60))
@settings(max_examples=5 * EXAMPLES)
def test_parse_survives_any_bytes(isa: str, data: bytes) -> None:
    """Reads nothing outside its buffer (run under ASan) and accepts only what float() does."""
    try:
        values = _logits.parse(data, isa)
    except ValueError:
        return
    # bytes.split's blanks are those of C's isspace
    assert same_bits(values, numpy_parse([token.decode("ascii") for token in data.split()]))


@given(st.lists(scores, min_size=1, max_size=50))
@example([np.float32(x) for x in (0.5e-6, 1.5e-6, 2.5e-6, -1e-7, -0.0, 3.4028235e38, -(2.0**40))])
@settings(max_examples=9 * EXAMPLES)
def test_format_equals_printf(row: list[np.float32]) -> None:
    array = np.array([row, row], np.float32)
    line = "".join(f"{x:f} " for x in row) + "\n"
    assert _logits.format_rows(array) == (line * 2).encode()


def test_format_rounds_exact_ties_to_even() -> None:
    # multiples of 2^-7 have seven decimals, of which the last is a 5
    row = np.arange(1, 4096, 2, dtype=np.float32) / 128
    assert _logits.format_rows(row[None]).decode().split() == [f"{x:f}" for x in row]


def test_format_then_parse_gives_the_text_back() -> None:
    rng = np.random.default_rng(1)
    row = (rng.standard_normal(20_000) * 10.0 ** rng.integers(-6, 6, 20_000)).astype(np.float32)
    text = _logits.format_rows(row[None])
    assert _logits.format_rows(_logits.parse(text)[None]) == text


def naive_topk(row: np.ndarray, k: int) -> list[int]:
    order = sorted(range(len(row)), key=lambda i: (np.isnan(row[i]), -np.nan_to_num(row[i]), i))
    return order[:k]


few_values = st.sampled_from([np.float32(x) for x in (0.0, -0.0, 1, 2, -1, np.nan)])


@given(st.data(), st.lists(few_values | st.floats(-9, 9, width=32), min_size=1, max_size=30))
@settings(max_examples=9 * EXAMPLES)
def test_topk_ties_go_to_the_lower_class_and_nan_last(
    data: st.DataObject, values: list[float]
) -> None:
    row = np.array(values, np.float32)
    k = data.draw(st.integers(1, len(row)))
    classes, best = _logits.topk(row[None], k)
    assert classes[0].tolist() == naive_topk(row, k)
    assert same_bits(best[0], row[classes[0]])


def test_topk_ranks_infinities() -> None:
    row = np.array([[np.nan, -np.inf, 1, np.inf, np.inf]], np.float32)
    assert _logits.topk(row, 5)[0].tolist() == [[3, 4, 2, 1, 0]]


def test_topk_refuses_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="k is 3; it must be 1 to 2"):
        _logits.topk(np.zeros((1, 2), np.float32), 3)


@given(st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=70))
def test_confidence_is_the_softmax_of_the_best(values: list[float]) -> None:
    row = np.array([values], np.float32)
    confidence, total, least = _logits.confidence(row)
    exact = row.astype(np.float64)
    expected = 1 / np.exp(exact - exact.max()).sum()
    assert confidence[0] == pytest.approx(expected, rel=2e-6)
    assert total[0] == pytest.approx(exact.sum(), rel=1e-5, abs=1e-3)
    assert least[0] == row.min()


def test_confidence_of_rows_without_a_finite_best_is_nan() -> None:
    rows = np.array([[np.nan, np.nan], [np.inf, 0], [-np.inf, -np.inf]], np.float32)
    assert np.isnan(_logits.confidence(rows)[0]).all()
    assert _logits.confidence(np.array([[0, np.nan]], np.float32))[0] == [1]


# ---- files -------------------------------------------------------------------


def test_golden_text_is_read_and_written_to_the_bit(shared: Path) -> None:
    files = sorted((shared / "golden/txt").glob("*/*.txt"))
    assert len(files) == 340
    for file in files:
        row = read_logits(file)
        assert same_bits(row, numpy_parse(file.read_text().split()))
        assert _logits.format_rows(row[None]) == file.read_bytes()


DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (1, 7), (1, 7, 1, 1), (3, 7)])
def test_npy_and_bin_equal_numpy(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(shape))
    array = (rng.standard_normal(shape) * 50).astype(np.int64).astype(dtype)
    if dtype[0] == "f":
        array = (array / 7).astype(dtype)
    first_row = array.reshape(-1, 7)[0].astype(np.float32)
    np.save(tmp_path / "a_0.npy", array)
    assert same_bits(read_logits(tmp_path / "a_0.npy"), first_row)
    array.tofile(tmp_path / "a_0.bin")
    everything = array.reshape(-1).astype(np.float32)
    assert same_bits(read_logits(tmp_path / "a_0.bin", bin_dtype=dtype), everything)


def test_every_half_is_read(tmp_path: Path) -> None:
    halves = np.arange(2**16, dtype=np.uint16)
    halves.tofile(tmp_path / "h.bin")
    expected = halves.view(np.float16).astype(np.float32)
    assert same_bits(read_logits(tmp_path / "h.bin", bin_dtype="float16"), expected)


@pytest.mark.parametrize("name", ["large.txt", "large.npy", "large.bin"])
def test_large_files_are_mapped(tmp_path: Path, name: str) -> None:
    array = np.arange(200_000, dtype=np.float32).reshape(2, -1)
    file = tmp_path / name
    if name.endswith("npy"):
        np.save(file, array)
    elif name.endswith("bin"):
        array[0].tofile(file)
    else:
        file.write_bytes(_logits.format_rows(array))
    assert file.stat().st_size > 128 << 10
    assert np.array_equal(read_logits(file), array[0])


def test_a_column_of_text_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "a_0.txt").write_text("".join(f"{i}.500000 \n" for i in range(1000)))
    assert np.array_equal(read_logits(tmp_path / "a_0.txt"), np.arange(1000) + np.float32(0.5))


def test_the_first_row_of_text_counts(tmp_path: Path) -> None:
    (tmp_path / "a_0.txt").write_text("1 2 3 \n4 5 6 \nnot a number")
    assert read_logits(tmp_path / "a_0.txt").tolist() == [1, 2, 3]


def save_with_header(file: Path, header: str, payload: bytes = b"\0" * 64) -> None:
    text = header.encode()
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + payload)


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4), }"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.txt", b"", "no number"),
        ("a.txt", b"\n1 2 3\n", "no number"),
        ("a.txt", b"1 2 oops 4\n", "not a number at byte 4"),
        ("a.bin", b"", "no number"),
        ("a.bin", b"12345", "5 bytes are cut short"),
        ("a.npy", b"", "no .npy"),
        ("a.npy", b"\x93NUMPY\x01\x00\xff\xff{", "no .npy"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ResultError, match=why) as error:
        read_logits(file)
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (PLAIN, None),
        (PLAIN.replace("(1, 4)", "(1, 17)"), "64 bytes are cut short"),
        (PLAIN.replace("(1, 4)", "(0, 4)"), "no number"),
        (PLAIN.replace("(1, 4)", "(1, 99999999999999999999999)"), "no .npy"),
        (PLAIN.replace("(1, 4)", "(1, x)"), "no .npy"),
        (PLAIN.replace("(1, 4)", "(1, 4"), "no .npy"),
        (PLAIN.replace("False", "True"), "no .npy"),
        (PLAIN.replace("<f4", ">f4"), "no .npy"),
        (PLAIN.replace("<f4", "<f3"), "no .npy"),
        (PLAIN.replace("<f4", "<f0"), "no .npy"),
        (PLAIN.replace("<f4", "|S4"), "no .npy"),
        (PLAIN.replace("'shape'", "'shade'"), "no .npy"),
    ],
)
def test_npy_headers(tmp_path: Path, header: str, why: str | None) -> None:
    save_with_header(tmp_path / "a.npy", header)
    if why is None:
        assert read_logits(tmp_path / "a.npy").tolist() == [0, 0, 0, 0]
    else:
        with pytest.raises(ResultError, match=why):
            read_logits(tmp_path / "a.npy")


@given(st.binary(max_size=80))
@settings(max_examples=4 * EXAMPLES)
def test_npy_reader_survives_any_header(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data)
    with pytest.raises(ResultError):
        read_logits(file)


def test_unreadable_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="No such file"):
        read_logits(tmp_path / "absent.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ResultError, match="Is a directory"):
        read_logits(tmp_path / "folder.txt")
    os.mkfifo(tmp_path / "fifo.txt")  # must not hang
    with pytest.raises(ResultError, match="Invalid argument"):
        read_logits(tmp_path / "fifo.txt")
    with pytest.raises(ResultError, match=r"not a \.txt, \.bin or \.npy"):
        read_logits(tmp_path / "a.csv")


def test_threads_and_chunks_do_not_change_the_ranking(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((100, 12)).astype(np.float32).round(1)
    names = []
    for i, row in enumerate(rows):
        names.append(b"%03d_0.txt" % i)
        (tmp_path / names[-1].decode()).write_bytes(_logits.format_rows(row[None]))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        kinds = np.zeros(len(names), np.uint8)
        expected = [naive_topk(row, 5) for row in rows]
        for threads in (1, 2, 7):
            reading = _logits.Reading(fd, names, kinds, 5, threads=threads)
            while (taken := reading.rank_files(20)) < len(names):
                assert taken >= 20
            reading.end()
            results, classes, values = reading.results, reading.classes, reading.values
            assert (results["status"] == _logits.OK).all()
            assert (results["count"] == 12).all()
            assert classes.tolist() == expected
            assert same_bits(values, np.take_along_axis(rows, classes, 1))
    finally:
        os.close(fd)


def test_rows_shorter_than_k_are_filled_up(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1 3 2")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        reading = _logits.Reading(fd, [b"a"], np.zeros(1, np.uint8), 5)
        assert reading.rank_files(1) == 1
        reading.end()
        classes, values = reading.classes, reading.values
    finally:
        os.close(fd)
    assert classes.tolist() == [[1, 2, 0, -1, -1]]
    assert np.isnan(values[0, 3:]).all()
