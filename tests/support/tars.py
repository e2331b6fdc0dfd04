"""Tars of all formats, damaged ones, and what Python's tarfile lists of them."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from zoofast.preprocess.sources.tar_headers import MAX_HEADER_BYTES, Member

REFUSALS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
LONG = "f" * 70 + "/" + "g" * 90 + "/long.JPEG"
Listed = tuple[list[tuple[str, int, int, bool]], bool]  # members, and whether the tar is refused


def reader(data: bytes, most: int = MAX_HEADER_BYTES) -> Callable[[int, int], bytes]:
    def pread(offset: int, size: int) -> bytes:
        assert 0 <= size <= most and 0 <= offset < 1 << 63
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
            end = data[tar.offset : tar.offset + tarfile.BLOCKSIZE]
    except REFUSALS:
        return members, True
    return members, any(end)  # a header that tarfile takes for the end


def listed(found: Iterable[Member]) -> Listed:
    members: list[tuple[str, int, int, bool]] = []
    try:
        for member in found:
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


def make_labelled(path: Path, files: dict[str, bytes], classes: int = 6) -> None:
    """A tar of images in WebDataset's layout; the class of image i is i modulo `classes`."""
    with tarfile.open(path, "w") as tar:
        for i, (name, data) in enumerate(files.items()):
            label = str(i % classes).encode()
            for member, content in ((name, data), (name.removesuffix(".JPEG") + ".cls", label)):
                info = tarfile.TarInfo("val/" + member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
