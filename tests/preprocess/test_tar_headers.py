"""The members that zoofast finds in a tar are those that Python's tarfile finds."""

from __future__ import annotations

import random
import tarfile
import tracemalloc
from itertools import islice

import pytest

from tests.support import tars
from zoofast.preprocess.sources.tar_headers import list_members


def by_headers(data: bytes, near: int) -> tars.Listed:
    return tars.listed(list_members(tars.reader(data), near))


@pytest.fixture(scope="module")
def some_tars(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("tars")
    gnu = ["gnu", "oldgnu", "posix", "ustar", "v7"]
    return [
        *(tars.made_by_python(format) for format in tars.FORMATS),
        *(tars.made_by_gnu_tar(folder, f"--format={format}") for format in gnu),
        tars.made_by_gnu_tar(folder, "--sparse"),
        tars.made_by_gnu_tar(folder, "--sparse", "--format=posix"),
        tars.made_by_gnu_tar(folder, "--incremental", "--format=gnu"),
    ]


def test_every_kind_of_tar(some_tars: list[bytes]) -> None:
    for data in some_tars:
        members, refused = tars.by_tarfile(data)
        assert len(members) >= 3 and not refused
        for near in (512, 4096):
            assert by_headers(data, near) == (members, False)
    names = [member[0] for member in by_headers(some_tars[2], 4096)[0]]
    assert tars.LONG in names and "café.JPEG" in names and "old" not in names


def test_damaged_tars_give_what_tarfile_gives(some_tars: list[bytes], count: int = 1500) -> None:
    rng = random.Random(0)
    refused = 0
    for _ in range(count):
        data = tars.mutant(rng.choice(some_tars), rng)
        expected = tars.by_tarfile(data)
        assert by_headers(data, rng.choice((512, 1024, 4096))) == expected
        refused += expected[1]
    assert 0.05 * count < refused < 0.7 * count  # both kinds of answers were compared


def test_pax_attributes() -> None:
    for content in (
        b"12 path=a.b\n",
        b"12 path=a.b/",  # no line
        b"12 path=a.\xff\n",
        b"0012 path=x\n15 path=b.JPEG\n",
        b"6 =ab\n",
        b"4 a=",
        b"99 path=a\n",
        b" 8 path=\n",
        b"8 path=\n",
        b"7 path\n",
        b"14 size=+00001\n",
        b"14 size=000001\n",
        b"9 size=x\n",
        b"10 size=-1\n",
        b"12 path=a\0b\n\0 junk",
        b"21 hdrcharset=BINARY\n12 path=\xffab\n",
        b"29 GNU.sparse.name=other.JPEG\n",
        b"11 mtime=x\n",
        b"",
    ):
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, len(content)
        data = info.tobuf() + content + bytes(-len(content) % 512)
        data += tarfile.TarInfo("a.JPEG").tobuf() + bytes(1024)
        assert by_headers(data, 512) == tars.by_tarfile(data), content


def test_a_checksum_that_is_wrong_by_what_adler_divides_by() -> None:
    """65521: a sum modulo it would be right."""
    block = bytearray(tarfile.TarInfo("a.JPEG").tobuf(tarfile.USTAR_FORMAT))
    block[157:257] = b"\xff" * 100
    block[265:329] = b"\xff" * 64
    block[345:500] = b"\xff" * 155
    block[148:156] = b" " * 8
    right = sum(block)
    assert right > 65521
    for checksum in (right, right - 65521):
        block[148:156] = b"%06o\0 " % checksum
        data = bytes(block) + bytes(1024)
        assert by_headers(data, 512) == tars.by_tarfile(data)
        assert tars.by_tarfile(data)[1] is (checksum != right)


def test_a_header_that_claims_to_be_large() -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info = tarfile.TarInfo("a.JPEG")
        info.type, info.size = kind, 1 << 40
        tracemalloc.start()
        with pytest.raises(tarfile.ReadError, match="a header of 1099511627776 bytes"):
            list(list_members(tars.reader(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20


def test_a_member_that_ends_beyond_any_file() -> None:
    info = tarfile.TarInfo("a.JPEG")
    info.size = 1 << 63
    with pytest.raises(tarfile.ReadError, match="a member that ends at byte 9223372036854776319"):
        list(list_members(tars.reader(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))))


def test_sizes_in_pax_attributes_that_no_file_has() -> None:
    for size in ("9" * 17, "9" * 18, "9" * 19, "9" * 30):
        line = f"{len(size) + 9} size={size}\n".encode()
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, len(line)
        data = info.tobuf() + line + bytes(-len(line) % 512)
        data += tarfile.TarInfo("a.JPEG").tobuf() + bytes(1024)
        assert tars.listed(list_members(tars.reader(data), 512))[1] is tars.by_tarfile(data)[1]


def test_tarfile_does_not_keep_the_members(count: int = 3000) -> None:
    odd = tarfile.TarInfo("a.JPEG")
    block = bytearray(odd.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = b"S"  # sparse: only tarfile reads it, and all that follows
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    data = bytes(block) + tarfile.TarInfo("b.JPEG").tobuf(tarfile.GNU_FORMAT) * count + bytes(1024)
    tracemalloc.start()
    try:
        assert sum(1 for _ in list_members(tars.reader(data))) == count + 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * count


def test_a_member_of_a_negative_size() -> None:
    """tarfile of some Pythons goes back, and would list the same members for ever."""
    good = tarfile.TarInfo("a.JPEG").tobuf(tarfile.GNU_FORMAT)
    block = bytearray(good)
    block[124:136] = (-1024).to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    data = good * 3 + bytes(block) + bytes(1024)
    members = islice(list_members(tars.reader(data)), 50)
    with pytest.raises(tars.REFUSALS):
        list(members)
