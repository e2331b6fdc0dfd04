"""Damaged JPEG files: the same tensors as Pillow, and the same refusals.

    python fuzz/against_pillow.py [--files N] [--seed S] [--images DIR] [--jobs N] [--keep DIR]

Makes N files by damaging bodies, headers and tails of small pictures, or by giving them EXIF data:
sound and broken orientations and resolutions. Each goes through several recipes at every CPU level
of this machine, and through the decoders alone. If Pillow refuses a file, zoofast must refuse it
too; else the tensors must be equal. Files with EXIF data also go through a recipe that turns
pictures as OpenCV 5 does, if that is installed. Files that disagree are kept in DIR. Exit code 1: a
file disagreed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support import jpegs, oracle
from zoofast import _core
from zoofast.errors import CpuLevelError
from zoofast.preprocess.prepare import decode_with_pillow
from zoofast.preprocess.recipe import Recipe
from zoofast.preprocess.recipe_file import parse_recipe

MAX_PIXELS = 200_000  # a damaged header can ask for far more
MARKERS = (0x01, 0x99, 0xC0, 0xD0, 0xD3, 0xD7, 0xD8, 0xDA, 0xFE)
SHORT = oracle.Spec(size=(40, 40), crop=(32, 32), dtype="uint8", layout="NHWC")
SPECS = {  # "exact", "none" and "high crop" read the last row of the picture
    "exact": oracle.Spec(mode="exact", size=(40, 33), crop=None, dtype="uint8", layout="NHWC"),
    "none": None,  # of the picture's own size
    "high crop": None,  # as high as the picture
    "short, crop": SHORT,
    "small crop": oracle.Spec(mode="none", crop=(8, 8), dtype="uint8", layout="NHWC"),
}


def seed_pictures(images: Sequence[Path]) -> list[bytes]:
    """Small pictures of many kinds, of random pixels and of the given images."""
    made = [
        jpegs.jpeg(24 + 8 * i, 56 - 6 * i, i, quality=quality, **options)
        for i, quality in enumerate((30, 75, 95))
        for options in (
            {"subsampling": 0},
            {"subsampling": 1, "optimize": True},
            {"subsampling": 2, "restart_marker_blocks": 2},
            {"subsampling": 2, "progressive": True},
        )
    ]
    made += [jpegs.gray_jpeg(33, 47, 1), jpegs.gray_jpeg(33, 47, 1, progressive=True)]
    for factors in (*jpegs.SAMPLINGS.values(), *jpegs.ODD_SAMPLINGS.values()):
        made.append(jpegs.craft(31, 40, factors, 1))
        made.append(jpegs.craft(40, 31, factors, 2, restart=3, separate_scans=len(factors) == 3))
    noise = np.random.default_rng(1).integers(0, 256, (260, 300, 3), np.uint8)
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 9}):
        made.append(jpegs.save(noise, quality=97, **options))  # above the 64 KiB that Pillow reads
    for i, path in enumerate(images):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((96, 72)))
        made.append(jpegs.save(pixels, subsampling=i % 3, progressive=i % 4 == 3))
    return made


def random_segment(rng: np.random.Generator) -> bytes:
    """A marker, most often with a segment that fits it."""
    kind = int(rng.integers(10))
    if kind < 4:  # a bare marker
        return bytes([0xFF, int(rng.choice(MARKERS))])
    if kind < 6:
        return bytes([0xFF, int(rng.integers(256))]) + rng.bytes(int(rng.integers(12)))
    bodies = (
        (0xDA, b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00"),
        (0xDA, b"\x01\x01\x00\x00\x3f\x00"),
        (0xC0, b"\x08\x00\x10\x00\x10\x01\x01\x11\x00"),
        (0xC2, b"\x08\x00\x10\x00\x10\x01\x01\x11\x00"),
        (0xDC, b"\x00\x20"),
        (0xDD, b"\x00\x03"),
        (0xDB, bytes([0, *range(1, 65)])),
        (0xC4, bytes([0, 1, *[0] * 15, 0])),
        (0xFE, b"comment"),
        (0xE1, b"Exif\0\0"),
        (0xEE, b"Adobe\0\x64\0\0\0\0\x02"),
    )
    marker, body = bodies[int(rng.integers(len(bodies)))]
    segment = bytearray(jpegs.segment(marker, body))
    if rng.integers(4) == 0:
        segment[int(rng.integers(len(segment)))] = int(rng.integers(256))
    return bytes(segment)


def damage_tail(data: bytes, rng: np.random.Generator) -> bytes:
    """Another end: what follows the last MCU, or its last bytes."""
    body = data[:-2]
    if rng.integers(3) == 0:  # also some bytes of the scan
        body = body[: -int(rng.integers(1, 12))]
    if rng.integers(3) == 0:
        body += rng.bytes(int(rng.integers(1, 9)))
    if rng.integers(6) == 0:
        body += b"\xff" * int(rng.integers(1, 4))
    for _ in range(int(rng.integers(3))):
        body += random_segment(rng)
    return body + (b"" if rng.integers(4) == 0 else b"\xff\xd9" + rng.bytes(int(rng.integers(3))))


def damage_body(data: bytes, rng: np.random.Generator, first: int) -> bytes:
    """Changes between the offset `first` and the end."""
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(first, len(broken)))
        kind = int(rng.integers(6))
        if kind == 0:
            broken[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            broken[at] = int(rng.integers(256))
        elif kind == 2:
            broken[at : at + 2] = bytes([0xFF, int(rng.integers(0xC0, 0x100))])
        elif kind == 3:
            del broken[at : at + int(rng.integers(1, 20))]
        elif kind == 4:
            broken[at:at] = broken[at : at + int(rng.integers(1, 20))]
        else:
            broken[at:at] = random_segment(rng)
    return bytes(broken)


TAGS = {  # of EXIF, that OpenCV or Pillow reads: (tag, type by the standard, count)
    "orientation": (0x0112, 3, 1),
    "horizontal resolution": (0x011A, 5, 1),
    "vertical resolution": (0x011B, 5, 1),
    "unit of the resolution": (0x0128, 3, 1),
    "description": (0x010E, 2, 9),
    "white point": (0x013E, 5, 2),
    "coefficients": (0x0211, 5, 3),
    "position of Cb and Cr": (0x0213, 3, 1),
    "another directory": (0x8769, 4, 1),
}
COUNTS = (0, 1, 2, 3, 5, 200, 1 << 29, 1 << 31, (1 << 32) - 1)


def random_exif(rng: np.random.Generator) -> bytes:
    """The contents of an APP1 segment with EXIF data: sound, unusual or broken."""
    order = "<" if rng.integers(2) else ">"
    names = [str(name) for name in rng.choice(list(TAGS), int(rng.integers(5)))]
    if rng.integers(2):  # what Pillow reads when it opens a file
        names += ["horizontal resolution", "unit of the resolution"]
    entries, values = b"", b""
    begin = 8 + 2 + 12 * len(names) + 4  # of the values
    for name in names:
        tag, kind, count = TAGS[name]
        if rng.integers(5) == 0:
            kind = int(rng.integers(14))
        if rng.integers(5) == 0:
            count = int(rng.choice(COUNTS))
        entries += struct.pack(order + "HHI", tag, kind, count)
        if kind == 3:
            entries += struct.pack(order + "HH", int(rng.integers(10)), 0)
        elif rng.integers(10) == 0:
            entries += rng.bytes(4)
        else:
            entries += struct.pack(order + "I", begin + len(values))
            values += struct.pack(order + "II", *rng.integers(0, 4, 2).tolist()) * min(count, 4)
    first, stated = 8, len(names)
    if rng.integers(12) == 0:
        first = int(rng.choice([0, 2, 9, begin, (1 << 32) - 2]))
    if rng.integers(12) == 0:
        stated = int(rng.choice([0, stated + 1, stated + 9, 65535]))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, first, stated)
    data = bytearray(head + entries + bytes(4) + values)
    if rng.integers(4) == 0:
        data[int(rng.integers(len(data)))] = int(rng.choice([0, 1, 255, int(rng.integers(256))]))
    if rng.integers(6) == 0:
        del data[int(rng.integers(len(data))) :]
    names_of_segment = (b"Exif\0\0",) * 9 + (b"Exif\0", b"Exif\0\1", b"exif\0\0")
    return names_of_segment[int(rng.integers(len(names_of_segment)))] + bytes(data)


def random_jfif(rng: np.random.Generator) -> bytes:
    """The contents of a JFIF segment of any resolution."""
    unit = int(rng.choice([0, 1, 2, 3, 255]))
    return b"JFIF\0\1\1" + struct.pack(">BHHBB", unit, *rng.integers(0, 3, 2).tolist(), 0, 0)


def damage_exif(data: bytes, rng: np.random.Generator) -> bytes:
    """One or two EXIF segments, which stand before, behind or in the place of a JFIF segment."""
    rest = data[2:]
    first = b""
    if rest[:2] == b"\xff\xe0":
        length = 2 + int.from_bytes(rest[2:4], "big")
        first, rest = rest[:length], rest[length:]
    if rng.integers(2):
        first = jpegs.segment(0xE0, random_jfif(rng)) if rng.integers(3) == 0 else b""
    some = [jpegs.segment(0xE1, random_exif(rng)) for _ in range(1 + (rng.integers(5) == 0))]
    if rng.integers(8) == 0:
        some.insert(0, jpegs.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"))
    some.insert(int(rng.integers(2)) * len(some), first)
    return data[:2] + b"".join(some) + rest


def damage(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """(the kind of damage, the damaged file)"""
    kinds = ("tail", "tail", "scan", "anywhere", "tail and scan", "cut", "exif", "exif")
    kind = kinds[int(rng.integers(len(kinds)))]
    scan = jpegs.find(data, 0xDA)
    if kind == "exif":
        return kind, damage_exif(data, rng)
    if kind == "cut":
        return kind, data[: int(rng.integers(2, len(data)))]
    if kind == "anywhere":
        return kind, damage_body(data, rng, 2)
    if "scan" in kind:
        data = damage_body(data, rng, scan)
    return kind, damage_tail(data, rng) if "tail" in kind else data


def pillows_pixels(data: bytes) -> NDArray[np.uint8] | None:
    """None: Pillow refuses the file."""
    try:
        return oracle.pixels(data)
    except Exception:  # Pillow's readers raise many types
        return None


def size_in_header(data: bytes) -> tuple[int, int]:
    """(height, width), or any if Pillow refuses the header."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except Exception:
        return 31, 40


def opencv() -> Any | None:
    """The module cv2 if it is installed, of release 5 or newer: older ones read EXIF otherwise."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2 if int(cv2.__version__.split(".")[0]) >= 5 else None


class Checker:
    """Compares zoofast with Pillow, file by file."""

    def __init__(self, levels: Sequence[str]) -> None:
        self.levels = [(name, _core.Workspace(name)) for name in levels]
        self.recipes: dict[tuple[oracle.Spec, str], Recipe] = {}
        self.counts: Counter[str] = Counter()
        self.cv2 = opencv()

    def tensor(
        self,
        workspace: _core.Workspace,
        data: bytes,
        spec: oracle.Spec,
        image_decoder: str = "pillow",
    ) -> NDArray[Any] | None:
        """As zoofast.prepare makes it at that level; None: refused."""
        key = spec, image_decoder
        if key not in self.recipes:
            if len(self.recipes) > 500:
                self.recipes.clear()
            image = f'[image]\ndecoder = "{image_decoder}"\n'
            self.recipes[key] = parse_recipe(spec.toml() + image, "fuzzed")
        recipe = self.recipes[key]
        plan, out = recipe.plan(), np.empty(recipe.nbytes, np.uint8)
        outcome = workspace.prepare(data, plan, out)
        decoder = _core.DECODERS[outcome.decoder]
        if outcome.status == _core.Status.UNSUPPORTED:
            decoder, rgb = "pillow", decode_with_pillow(data, image_decoder)
            if not isinstance(rgb, np.ndarray):
                self.counts["refused"] += 1
                return None
            outcome = workspace.prepare_rgb(rgb, plan, out)
        self.counts[decoder if outcome.status == _core.Status.OK else "wrong size"] += 1
        if outcome.status != _core.Status.OK:
            return None
        return out.view(recipe.dtype).reshape(recipe.shape)

    def disagreement(self, data: bytes, kind: str, rng: np.random.Generator) -> str | None:
        """What disagrees with Pillow about a file with that damage, None if nothing does."""
        pixels = pillows_pixels(data)
        height, width = size_in_header(data)
        self.counts["files that Pillow " + ("refuses" if pixels is None else "accepts")] += 1
        for name, spec in SPECS.items():
            if name == "none":
                spec = oracle.Spec(
                    mode="none", crop=None, out=(height, width), dtype="uint8", layout="NHWC"
                )
            elif name == "high crop":
                spec = oracle.Spec(
                    mode="none", crop=(height, max(1, width // 2)), dtype="uint8", layout="NHWC"
                )
            assert spec is not None
            wanted = None
            if pixels is not None:
                with contextlib.suppress(ValueError):  # wrong size
                    wanted = oracle.tensor(pixels, spec)
            for level, workspace in self.levels:
                made = self.tensor(workspace, data, spec)
                if (made is None) != (wanted is None):
                    return f"{name} at {level}: {'refused' if made is None else 'accepted'}"
                if made is not None and wanted is not None and not np.array_equal(made, wanted):
                    return f"{name} at {level}: other pixels"
        if kind == "exif":
            turned = self._turned(data)
            if turned is not None:
                return turned
            if pixels is None:
                return None  # for its EXIF data, which the decoders do not read
        return self._decoded(data, pixels, rng)

    def _turned(self, data: bytes) -> str | None:
        """The picture as OpenCV turns it by EXIF's orientation."""
        if self.cv2 is None:
            return None
        wanted = self.cv2.imdecode(np.frombuffer(data, np.uint8), self.cv2.IMREAD_COLOR)
        if wanted is None:
            return None
        self.counts["files that OpenCV accepts"] += 1
        spec = oracle.Spec(
            mode="none", crop=None, out=wanted.shape[:2], dtype="uint8", layout="NHWC"
        )
        for level, workspace in self.levels:
            made = self.tensor(workspace, data, spec, "cv2")
            if made is not None and not np.array_equal(made, wanted[:, :, ::-1]):
                return f"turned at {level}: other pixels than OpenCV's"
        return None

    def _decoded(
        self, data: bytes, pixels: NDArray[np.uint8] | None, rng: np.random.Generator
    ) -> str | None:
        """The decoders alone, of the whole picture and of a window."""
        windows: list[tuple[int, int, int, int] | None] = [None]
        if pixels is not None:
            height, width = pixels.shape[:2]
            x0, y0 = int(rng.integers(width)), int(rng.integers(height))
            x1, y1 = int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
            windows.append((x0, y0, x1, y1))
        for level, workspace in self.levels:
            for window in windows:
                try:
                    made = workspace.decode(data, window)
                except ValueError:
                    made = None  # the core's size of the picture is not Pillow's
                if made is None:
                    continue
                if pixels is None:
                    return f"decoder at {level}: accepted"
                x0, y0, x1, y1 = window or (0, 0, pixels.shape[1], pixels.shape[0])
                if not np.array_equal(made, pixels[y0:y1, x0:x1]):
                    return f"decoder at {level}: other pixels in {window}"
        return None


def levels_here() -> list[str]:
    """The CPU levels that this CPU runs."""
    names = []
    for name in _core.isa_names():
        with contextlib.suppress(CpuLevelError):
            names.append(_core.isa(name))
    return names


def check_some(
    files: int, seed: int, images: Sequence[Path], keep: Path | None, levels: Sequence[str]
) -> tuple[Counter[str], list[str]]:
    """The counts, and the disagreements of `files` files at those CPU levels."""
    warnings.simplefilter("ignore")  # Pillow's, about files that it accepts
    rng = np.random.default_rng(seed)
    checker, wrong = Checker(levels), []
    pictures = seed_pictures(images)
    for i in range(files):
        kind, data = damage(pictures[int(rng.integers(len(pictures)))], rng)
        if np.prod(size_in_header(data)) > MAX_PIXELS:
            checker.counts["skipped, too many pixels"] += 1
            continue
        checker.counts[f"damage: {kind}"] += 1
        what = checker.disagreement(data, kind, rng)
        if what is not None:
            wrong.append(f"seed {seed}, file {i}, {kind}: {what}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{i}.jpg").write_bytes(data)
    return checker.counts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--images", type=Path, metavar="DIR", help="real images, as more pictures")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for files that disagree")
    args = parser.parse_args()
    images = sorted(args.images.glob("*.JPEG"))[::10] if args.images else []
    parts = max(args.jobs, args.files // 1000)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with ProcessPoolExecutor(args.jobs) as pool:
        calls = [
            pool.submit(check_some, len(share), args.seed + i, images, args.keep, levels_here())
            for i, share in enumerate(range(i, args.files, parts) for i in range(parts))
        ]
        for call in calls:
            some, more = call.result()
            counts += some
            wrong += more
            for line in more:
                print(line, flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:10,} {name}")
    print(f"{len(wrong):10,} disagreements with Pillow")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
