"""Makes JPEGs that look and compress like ImageNet's validation images.

    python tools/images.py FOLDER [COUNT]

Sizes, chroma subsampling, quality and bytes a pixel are those of the validation set: about 500x375
pixels, three quarters 4:4:4 baseline, a fifth 4:2:0, some grayscale, about 110 kB an image. The
pictures are fractal noise with edges and gradients, so that their spectra resemble photographs'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZES = [(500, 375), (375, 500), (500, 333), (500, 400), (333, 500), (640, 480), (400, 300)]


def picture(width: int, height: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(height, width, 3) pixels with a photograph's 1/f spectrum and a few hard edges."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    falloff = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / max(width, height)) ** 1.15

    def noise() -> NDArray[np.float64]:
        phase = rng.uniform(0, 2 * np.pi, falloff.shape)
        field = np.fft.irfft2(falloff * np.exp(1j * phase), (height, width))
        normalized: NDArray[np.float64] = (field - field.mean()) / field.std()
        return normalized

    y, x = np.mgrid[0:height, 0:width]
    light = noise() * 45 + 118
    for _ in range(rng.integers(3, 8)):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(20, 140)
        inside = np.hypot(x - cx, (y - cy) * rng.uniform(0.6, 1.6)) < r
        light = np.where(inside, light * 0.6 + rng.uniform(0, 110), light)
    tint = [noise() * 14 + rng.uniform(-20, 20) for _ in range(3)]
    grain = rng.normal(0, 3.0, (height, width, 3))
    pixels = np.stack([light + t for t in tint], axis=-1) + grain
    return np.clip(pixels, 0, 255).astype(np.uint8)


def make_images(folder: Path, count: int) -> None:
    """Writes `count` JPEGs into `folder`, the same at every call."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        width, height = SIZES[i % len(SIZES)]
        image = Image.fromarray(picture(width, height, rng))
        subsampling = "4:2:0" if i % 5 == 4 else "4:4:4"
        if i % 43 == 42:
            image = image.convert("L")
        path = folder / f"synthetic_{i:05d}.JPEG"
        if not path.exists():
            image.save(path, quality=int(rng.integers(88, 97)), subsampling=subsampling)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int, nargs="?", default=200)
    arguments = parser.parse_args()
    make_images(arguments.folder, arguments.count)
