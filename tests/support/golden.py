"""What the guides' own scripts made of the sample images."""

from __future__ import annotations

from pathlib import Path

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
