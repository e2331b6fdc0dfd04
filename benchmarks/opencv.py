"""Recipes of OpenCV's pixels beside OpenCV itself: decode, resize and normalize, on one thread.

Compares every tensor before it times any. OpenCV has IPP off, as the promise says; ZOOFAST_ISA
chooses zoofast's CPU level.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from harness import SAMPLE, add_images, benchmark_parser
from numpy.typing import NDArray

from zoofast import _core
from zoofast.preprocess.recipe_file import load_recipe

Pixels = NDArray[Any]
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def decoded(data: bytes) -> Pixels:
    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(image)


def short_side(image: Pixels, side: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    if width < height:
        return side, int(side * height / width)
    return int(side * width / height), side


def linear(data: bytes) -> Pixels:
    rgb = cv2.cvtColor(cv2.resize(decoded(data), (256, 256)), cv2.COLOR_BGR2RGB)
    tensor = rgb.astype(np.float32)
    tensor /= np.float32(255)
    tensor -= MEAN
    tensor /= STD
    return np.ascontiguousarray(tensor.transpose(2, 0, 1))


def cubic(data: bytes) -> Pixels:
    image = cv2.resize(decoded(data), (256, 256), interpolation=cv2.INTER_CUBIC)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def area(data: bytes) -> Pixels:
    image = decoded(data)
    image = cv2.resize(image, short_side(image, 256), interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    return cv2.cvtColor(image[top : top + 224, left : left + 224], cv2.COLOR_BGR2RGB)


def linear_float32(data: bytes) -> Pixels:
    image: Pixels = decoded(data).astype(np.float32)
    image /= np.float32(255)
    image = cv2.resize(image, short_side(image, 274))
    top, left = -((240 - image.shape[0]) // 2), -((240 - image.shape[1]) // 2)
    image = image[top : top + 240, left : left + 240]
    image = (image - MEAN[::-1]) / STD[::-1]
    return np.ascontiguousarray(image.transpose(2, 0, 1))


CASES: dict[str, Callable[[bytes], Pixels]] = {
    "cv2linear_exact256": linear,
    "cv2cubic_exact256_u8": cubic,
    "cv2area256_224_floor_u8": area,
    "cv2f32_274_240_ceil_bgr": linear_float32,
}


def seconds(run: Callable[[bytes], object], files: list[bytes]) -> float:
    begin = time.process_time()
    for data in files:
        run(data)
    return time.process_time() - begin


def main() -> int:
    parser = benchmark_parser(__doc__ or "", rounds=5)
    add_images(parser)
    arguments = parser.parse_args()
    folder = arguments.images or SAMPLE
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))
    files = [path.read_bytes() for path in paths[: arguments.limit]]
    cv2.setNumThreads(1)
    cv2.ipp.setUseIPP(False)
    workspace = _core.Workspace()
    print(f"{len(files)} images, CPU level {_core.isa()}, OpenCV {cv2.__version__}; CPU time")
    for name, by_opencv in CASES.items():
        plan = load_recipe(name).plan()
        out = np.empty(plan.nbytes, np.uint8)

        def by_zoofast(data: bytes, plan: _core.Plan = plan, out: Pixels = out) -> None:
            workspace.prepare(data, plan, out)

        for path, data in zip(paths, files, strict=False):
            by_zoofast(data)
            if out.tobytes() != by_opencv(data).tobytes():
                print(f"{name}: {path.name} differs from OpenCV")
                return 1
        pairs = [
            (seconds(by_zoofast, files), seconds(by_opencv, files)) for _ in range(arguments.rounds)
        ]
        ours, theirs = (
            1e3 * statistics.median(each) / len(files) for each in zip(*pairs, strict=True)
        )
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{name:26} zoofast {ours:6.3f} ms  OpenCV {theirs:6.3f} ms  {ratio:5.2f} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
