"""One image to one tensor: by the C core, or by Pillow where the core leaves the image to it."""

from __future__ import annotations

import functools
import io
import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zoofast import _core
from zoofast._core import Status
from zoofast.base.files import read_file
from zoofast.errors import ImageError
from zoofast.preprocess import imread
from zoofast.preprocess.recipe import Recipe


@dataclass(frozen=True)
class Refusal:
    """Why an image gives no tensor: a short `cause` to count by, and a `reason` in words."""

    cause: str
    reason: str


def decode_with_pillow(data: bytes, decoder: str = "pillow") -> NDArray[np.uint8] | Refusal:
    """The RGB pixels (height, width, 3) that Pillow decodes from a file's bytes.

    With `decoder` "cv2", the image is turned as cv2.imread turns it, and an image that OpenCV may
    decode to other pixels is refused.
    """
    if not data:
        return Refusal("empty", "the file is empty, or a link in a tar")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if decoder == "cv2":
                reason = imread.difference(image, data)
                if reason is not None:
                    return Refusal("not OpenCV's", reason)
                return imread.turned(np.asarray(image.convert("RGB")), imread.orientation(image))
            return np.ascontiguousarray(image.convert("RGB"))
    except UnidentifiedImageError:
        return Refusal("not an image", "not an image that Pillow can identify")
    except Image.DecompressionBombError as error:
        return Refusal("too large", str(error))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise many types on bad input
        cause = "truncated" if "truncated" in str(error) else "corrupt"
        return Refusal(cause, f"{error}" or type(error).__name__)


def prepare_with_pillow(
    data: bytes,
    recipe: Recipe,
    plan: _core.Plan,
    workspace: _core.Workspace,
    out: NDArray[np.uint8],
) -> Refusal | None:
    """Fills `out`, a tensor's bytes (plan.nbytes,), from pixels that Pillow decodes."""
    rgb = decode_with_pillow(data, recipe.decoder)
    if isinstance(rgb, Refusal):
        return rgb
    outcome = workspace.prepare_rgb(rgb, plan, out)
    if outcome.status == Status.SIZE:
        return Refusal("wrong size", recipe.size_mismatch(*outcome.size))
    if outcome.status != Status.OK:
        raise MemoryError("an image needs more memory than there is")
    return None


class _PerThread(threading.local):
    """What `prepare` uses again: to make a workspace takes a tenth of an image's time, and to find
    a recipe's plan by value takes a hundredth."""

    workspace: _core.Workspace | None = None
    isa: str | None = None
    recipe: Recipe | None = None
    plan: _core.Plan

    def workspace_for(self, isa: str | None) -> _core.Workspace:
        if self.workspace is None or self.isa != isa:
            self.workspace, self.isa = _core.Workspace(isa), isa
        return self.workspace

    def plan_for(self, recipe: Recipe) -> _core.Plan:
        if self.recipe is not recipe:
            self.recipe, self.plan = recipe, _plan_of(recipe)
        return self.plan


_per_thread = _PerThread()


@functools.lru_cache(maxsize=16)
def _plan_of(recipe: Recipe) -> _core.Plan:
    return recipe.plan()


def prepare(image: bytes | str | os.PathLike[str], recipe: Recipe) -> NDArray[Any]:
    """One image, given as its file's bytes or path, as a tensor of recipe.shape and recipe.dtype.

    Raises ImageError, which names the file and says why: Pillow refuses the image too, or the file
    cannot be read or has more than 256 MB. Raises CpuLevelError for a wrong ZOOFAST_ISA, and
    MemoryError.
    """
    where = "image" if isinstance(image, bytes) else os.fspath(image)
    try:
        data = image if isinstance(image, bytes) else read_file(image)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise ImageError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    plan = _per_thread.plan_for(recipe)
    tensor = np.empty(plan.shape, plan.dtype)
    out = tensor.reshape(-1).view(np.uint8)
    workspace = _per_thread.workspace_for(os.environ.get("ZOOFAST_ISA"))
    outcome = workspace.prepare(data, plan, out)
    refusal = None
    if outcome.status == Status.UNSUPPORTED:
        refusal = prepare_with_pillow(data, recipe, plan, workspace, out)
    elif outcome.status == Status.SIZE:
        refusal = Refusal("wrong size", recipe.size_mismatch(*outcome.size))
    elif outcome.status != Status.OK:
        raise MemoryError(f"{where}: the image needs more memory than there is")
    if refusal is not None:
        raise ImageError(f"{where}: {refusal.reason}")
    return tensor


def prepare_pixels(pixels: NDArray[Any], recipe: Recipe) -> NDArray[Any]:
    """RGB pixels (height, width, 3) uint8, as Pillow decodes them, as a tensor of recipe.shape and
    recipe.dtype.

    Raises ImageError: another shape or dtype, a size that does not fit the recipe, a recipe whose
    pixels are OpenCV's. Raises CpuLevelError for a wrong ZOOFAST_ISA, and MemoryError.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ImageError(
            f"image: {pixels.dtype} {list(pixels.shape)} is not RGB, uint8 [height, width, 3]"
        )
    if recipe.decoder != "pillow":
        raise ImageError(
            f"image: {recipe.name} takes {recipe.decoder}'s pixels; give the file's bytes"
        )
    plan = _per_thread.plan_for(recipe)
    tensor = np.empty(plan.shape, plan.dtype)
    workspace = _per_thread.workspace_for(os.environ.get("ZOOFAST_ISA"))
    outcome = workspace.prepare_rgb(
        np.ascontiguousarray(pixels), plan, tensor.reshape(-1).view(np.uint8)
    )
    if outcome.status == Status.SIZE:
        raise ImageError(f"image: {recipe.size_mismatch(*outcome.size)}")
    if outcome.status != Status.OK:
        raise MemoryError("an image needs more memory than there is")
    return tensor
