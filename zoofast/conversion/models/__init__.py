"""The known models: where their weights come from, how they convert, how fast NPUs run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from zoofast.base.parsing import parse_toml
from zoofast.errors import ModelError


@dataclass(frozen=True)
class KnownModel:
    """One model of the guides; the head of known.toml explains the fields."""

    name: str
    guide: str
    factory: str
    weights: str
    url: str
    onnx: str
    recipe: str
    atc: tuple[str, ...]
    atc_output: str
    fps: Mapping[str, Mapping[int, float]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    simplify: bool = False
    rewrites: tuple[str, ...] = ()

    def atc_input(self, batch: int | str) -> str:
        """The name of the ONNX that ATC compiles for a batch size."""
        if not self.simplify:
            return f"{self.onnx}.onnx"
        return f"{self.onnx}_sim{batch}{'_merge' if self.rewrites else ''}.onnx"

    @property
    def package(self) -> str:
        """The Python package that holds the network."""
        return self.factory.partition(".")[0]

    def best(self, chip: str) -> tuple[int, float]:
        """The (batch size, images/s) with the guide's highest rate on `chip`, such as "310P3"."""
        if chip not in self.fps:
            chips = ", ".join(self.fps)
            raise ModelError(f"{self.name}: no figures for chip {chip!r}; its guide has {chips}")
        return max(self.fps[chip].items(), key=lambda entry: entry[1])


@cache
def _models() -> dict[str, KnownModel]:
    text = resources.files(__name__).joinpath("known.toml").read_text(encoding="utf-8")
    return {name: _model(name, table) for name, table in parse_toml(text).items()}


def _model(name: str, table: dict[str, Any]) -> KnownModel:
    fps = {
        chip: {int(batch): float(rate) for batch, rate in rates.items()}
        for chip, rates in table.pop("fps").items()
    }
    atc, rewrites = tuple(table.pop("atc")), tuple(table.pop("rewrites", ()))
    return KnownModel(name=name, fps=fps, atc=atc, rewrites=rewrites, **table)


def names() -> list[str]:
    """The names of all known models, in the order of known.toml."""
    return list(_models())


def load(name: str) -> KnownModel:
    """The known model `name`; ModelError lists the known names."""
    try:
        return _models()[name]
    except KeyError:
        raise ModelError(f"unknown model {name!r}; known are {', '.join(_models())}") from None
