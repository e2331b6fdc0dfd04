"""The members that our reader finds in a tar are those that Python's tarfile finds."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from zoofast.preprocess.sources.tar_headers import MAX_HEADER_BYTES, list_members

REFUSALS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
LONG = "f" * 70 + "/" + "g" * 90 + "/long.JPEG"
Listed = tuple[list[tuple[str, int, int, bool]], bool]  # members, and whether the tar is refused


def reader(data: bytes) -> Callable[[int, int], bytes]:
    def pread(offset: int, size: int) -> bytes:
        assert 0 <= size <= MAX_HEADER_BYTES and 0 <= offset < 1 << 63
        return data[offset : offset + size]

    return pread


def by_tarfile(data: bytes) -> Listed:
    members = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            last = -1
            while (member := tar.next()) is not None:
                if member.offset_data <= last:
                    return members, True
                last = member.offset_data
                if not member.isdir():
                    regular = member.isreg() and not member.issparse()
                    members.append((member.name, last, member.size, regular))
    except REFUSALS:
        return members, True
    return members, False


def by_headers(data: bytes, near: int) -> Listed:
    members = []
    try:
        for member in list_members(reader(data), near):
            members.append(tuple(member))
    except REFUSALS:
        return members, True
    return members, False


def made_by_python(format: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, kind, content in (
            ("d", tarfile.DIRTYPE, b""),
            ("d/a.JPEG", tarfile.REGTYPE, b"x" * 600),
            ("empty.JPEG", tarfile.AREGTYPE, b""),
            ("old/", tarfile.AREGTYPE, b""),
            ("café.JPEG", tarfile.CONTTYPE, b"x" * 512),
            (LONG, tarfile.REGTYPE, b"y"),
            ("link.JPEG", tarfile.SYMTYPE, b""),
            ("hard.JPEG", tarfile.LNKTYPE, b""),
            ("z.JPEG", tarfile.REGTYPE, b"z"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "d/a.JPEG"
            if format == tarfile.PAX_FORMAT and name == "z.JPEG":
                info.mtime = 0.5
                info.pax_headers = {"size": "1", "comment": "x=\n9 y", "path": "y.JPEG/"}
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def made_by_gnu_tar(folder: Path, *options: str) -> bytes:
    """A tar of files with long names, links and a hole."""
    inside = folder / "in"
    if not inside.exists():
        (inside / ("d" * 120)).mkdir(parents=True)
        (inside / ("d" * 120) / "long.JPEG").write_bytes(b"x" * 513)
        (inside / "a.JPEG").write_bytes(b"a")
        (inside / "café.JPEG").symlink_to("a.JPEG")
        (inside / ("l" * 101)).symlink_to("m" * 120)
        with (inside / "hole.JPEG").open("wb") as file:
            file.truncate(50_000)
            file.seek(20_000)
            file.write(b"x")
    command = ["tar", *options, "--sort=name", "-cf", "-", "in"]
    # status 1 or 2: v7 and ustar cannot hold some of the names, and leave them out
    return subprocess.run(command, cwd=folder, capture_output=True).stdout


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("tars")
    gnu = ["gnu", "oldgnu", "posix", "ustar", "v7"]
    return [
        *(made_by_python(format) for format in FORMATS),
        *(made_by_gnu_tar(folder, f"--format={format}") for format in gnu),
        made_by_gnu_tar(folder, "--sparse"),
        made_by_gnu_tar(folder, "--sparse", "--format=posix"),
        made_by_gnu_tar(folder, "--incremental", "--format=gnu"),
    ]


def test_every_kind_of_tar(tars: list[bytes]) -> None:
    for data in tars:
        members, refused = by_tarfile(data)
        assert len(members) >= 3 and not refused
        for near in (512, 4096):
            assert by_headers(data, near) == (members, False)
    names = [member[0] for member in by_headers(tars[2], 4096)[0]]
    assert LONG in names and "café.JPEG" in names and "old" not in names


def headers_of(data: bytes) -> list[int]:
    """Where blocks lie that look like headers."""
    return [
        at
        for at in range(0, len(data), 512)
        if data[at + 257 : at + 262] == b"ustar"
        or data[at + 148 : at + 156].strip(b"\0 ").isdigit()
    ]


def mutant(data: bytes, rng: random.Random) -> bytes:
    """A damaged copy, mostly with checksums that are right nevertheless."""
    copy = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.choice(headers_of(data))
        field = rng.choice(
            (0, 100, 108, 124, 124, 136, 148, 156, 156, 157, 255, 257, 329, 345, 512)
        )
        value = rng.choice(
            (
                b"\x80",
                b"\xff",
                b"\0",
                b" ",
                b"/",
                b"7",
                b"9",
                b"L",
                b"x",
                b"g",
                b"S",
                b"K",
                b"=",
                b"\xc3",
            )
        )
        place = at + field + rng.choice((0, 0, 0, rng.randrange(40)))
        copy[place : place + 1] = value if rng.random() < 0.7 else rng.randbytes(1)
        if rng.random() < 0.9:
            copy[at + 148 : at + 156] = b" " * 8
            copy[at + 148 : at + 156] = b"%06o\0 " % sum(copy[at : at + 512])
    if rng.random() < 0.1:
        del copy[rng.randrange(len(copy)) :]
    return bytes(copy)


def test_damaged_tars_give_what_tarfile_gives(tars: list[bytes], count: int = 1500) -> None:
    rng = random.Random(0)
    refused = 0
    for _ in range(count):
        data = mutant(rng.choice(tars), rng)
        expected = by_tarfile(data)
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
        assert by_headers(data, 512) == by_tarfile(data), content


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
        assert by_headers(data, 512) == by_tarfile(data)
        assert by_tarfile(data)[1] is (checksum != right)


def test_a_header_that_claims_to_be_large() -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info = tarfile.TarInfo("a.JPEG")
        info.type, info.size = kind, 1 << 40
        tracemalloc.start()
        with pytest.raises(tarfile.ReadError, match="a header of 1099511627776 bytes"):
            list(list_members(reader(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20


def test_a_member_that_ends_beyond_any_file() -> None:
    info = tarfile.TarInfo("a.JPEG")
    info.size = 1 << 63
    with pytest.raises(tarfile.ReadError, match="a member that ends at byte 9223372036854776319"):
        list(list_members(reader(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))))
