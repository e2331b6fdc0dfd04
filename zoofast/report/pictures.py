"""Thumbnails as text inside the page."""

from __future__ import annotations

import base64
import io
import warnings

from PIL import Image

SIDE = 160  # pixels of the longer side; a page shows at most 80 CSS pixels of them


def thumbnail(data: bytes, side: int = SIDE) -> str | None:
    """An image file's bytes as a data: URI of a small JPEG; None if Pillow cannot decode it."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")  # a thumbnail needs no metadata
            image.draft("RGB", (side, side))
            small = image.convert("RGB")
            small.thumbnail((side, side))
            out = io.BytesIO()
            small.save(out, "JPEG", quality=80, optimize=True)
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise many types on bad input
        return None
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
