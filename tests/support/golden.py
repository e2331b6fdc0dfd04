"""What the guides' own scripts made of the sample images."""

from __future__ import annotations

from pathlib import Path

from zoofast.preprocess.recipe import Recipe, resize_order

# guide -> recipe
GUIDES = {
    "AlexNet": "alexnet",
    "ResNet34": "resnet34",
    "SqueezeNet1_1": "squeezenet1_1",
    "InceptionV4": "inceptionv4",
    "NASNetALarge": "nasnetalarge",
}


def sums(shared: Path, guide: str) -> dict[str, str]:
    """name of the bin -> sha256"""
    lines = (shared / "golden" / "bins" / f"{guide}.sha256").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    assert len(sums) == 300
    return sums


def follows_installed_pillow(recipe: Recipe, width: int, height: int) -> bool:
    """Whether the installed Pillow resizes an image of this size as Pillow 13 does.

    The hashes are of Pillow 13. Older releases resize some images in the other order of passes.
    """
    if recipe.resize != "exact" or recipe.filter.startswith("cv2-"):
        return True
    new_height, new_width = recipe.resize_size
    return resize_order() == "pillow-13.0" or height * new_width <= width * new_height
