"""All steps from weights to .om for a known model. A step is skipped when its inputs are unchanged.

The output folder holds a cache file with the digests of what each step read and wrote. Copying the
folder, touching files or changing the clock therefore runs no step again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoofast.base.files import atomic_output
from zoofast.base.parsing import parse_json
from zoofast.base.provenance import file_sha256, sha256
from zoofast.conversion import atc, trial
from zoofast.conversion.aipp import Aipp
from zoofast.conversion.export import ExportTarget, build_network, export
from zoofast.conversion.models import KnownModel, sources
from zoofast.conversion.optimize import optimize
from zoofast.conversion.simplify import simplify
from zoofast.errors import ModelError
from zoofast.preprocess.recipe import Recipe

CACHE_NAME = "zoofast-convert.json"
PROOF_IMAGES = 2  # synthetic images on which PyTorch and the exported ONNX are compared


@dataclass(frozen=True)
class Step:
    """One step of the conversion."""

    name: str
    settings: Mapping[str, Any]  # with the content of `files`, all that the output depends on
    files: tuple[Path, ...]
    output: Path
    make: Callable[[], object] = field(compare=False)  # writes the output
    text: str | None = None  # the whole output, where it is a text that users may edit


@dataclass(frozen=True)
class StepResult:
    """A step whose output exists: made now, or unchanged since an earlier run."""

    step: Step
    made: bool
    seconds: float  # 0 unless made


class StepCache:
    """Remembers in a folder which inputs each output was made from, by digest."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / CACHE_NAME
        self._digests: dict[Path, str] = {}
        try:
            entries = parse_json(self._path.read_bytes())
        except FileNotFoundError:
            entries = {}
        except OSError as error:
            raise ModelError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise ModelError(f"{self._path}: damaged ({error}); delete it to start anew") from error
        if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
            raise ModelError(f"{self._path}: damaged; delete it to start anew")
        self._entries: dict[str, dict[str, Any]] = entries

    def run(self, step: Step) -> StepResult:
        """Makes the step's output unless it exists, unchanged, from the same inputs."""
        key = step.output.name
        inputs = {
            "step": step.name,
            "settings": dict(step.settings),
            "files": [self._digest(path) for path in step.files],
        }
        entry = self._entries.get(key)
        if (
            entry is not None
            and entry["inputs"] == inputs
            and step.output.is_file()
            and entry["output"] == self._digest(step.output)
        ):
            return StepResult(step, made=False, seconds=0.0)
        if step.text is not None and step.output.exists():
            unedited = {sha256(step.text.encode()), entry["output"] if entry else None}
            self._require_unedited(step.output, unedited)
        begin = time.monotonic()
        step.make()
        self._digests.pop(step.output, None)
        self._entries[key] = {"inputs": inputs, "output": self._digest(step.output)}
        with atomic_output(self._path) as partial:
            partial.write_text(json.dumps(self._entries, indent=1), encoding="utf-8")
        return StepResult(step, made=True, seconds=time.monotonic() - begin)

    def _require_unedited(self, path: Path, digests: set[str | None]) -> None:
        if self._digest(path) not in digests:
            raise ModelError(
                f"{path}: is not as zoofast wrote it; delete it to have it written anew, or "
                "compile with it and a recipe that normalizes as it does: "
                f"zoofast atc ONNX --recipe FILE.toml --aipp {path}"
            )

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            try:
                self._digests[path] = file_sha256(path)
            except OSError as error:
                raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
        return self._digests[path]


def _is_entry(entry: object) -> bool:
    """Whether the value has the form that StepCache.run writes."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("inputs"), dict)
        and isinstance(entry.get("output"), str)
    )


def onnx_steps(
    known: KnownModel,
    recipe: Recipe,
    weights: Path | None,
    batches: Sequence[int],
    folder: Path,
    *,
    opset: int,
    seed: int = 0,
) -> list[Step]:
    """The steps up to the files that ATC reads.

    They write the AIPP file where the guide has one, export, and simplify and rewrite for each
    batch size where the guide does so. recipe: the model's. weights: as in build_network.
    """
    steps = []
    if recipe.on_device is not None:
        steps.append(_aipp_step(recipe, folder / atc.AIPP_CONFIG))
    exported = folder / f"{known.onnx}.onnx"
    steps.append(_export_step(known, recipe, weights, exported, opset, seed))
    if known.simplify:
        for batch in batches:
            steps += _fixed_batch_steps(known, exported, batch, folder)
    return steps


def _export_step(
    known: KnownModel, recipe: Recipe, weights: Path | None, output: Path, opset: int, seed: int
) -> Step:
    def make() -> None:
        target = ExportTarget.from_known_model(known, recipe)
        images = trial.images(recipe, None, PROOF_IMAGES)
        export(build_network(target, weights, seed), target, output, opset, images=images)

    settings = {
        "model": known.name,
        "opset": opset,
        "random": seed if weights is None else None,
        "zoofast": version("zoofast"),
        "torch": _version("torch"),
    }
    files = () if weights is None else sources.weights_files(weights)
    library = sources.library_of(known)
    if library is not None:
        settings |= {
            "source": known.recipe,
            "arguments": dict(known.arguments),
            "recipe": recipe.digest,
            library: _version(library),
        }
        files = (*sources.files_of(known), *files)
    return Step("export", settings, files, output, make)


def _aipp_step(recipe: Recipe, output: Path) -> Step:
    text = Aipp.from_recipe(recipe).text()

    def make() -> None:
        with atomic_output(output) as partial:
            partial.write_text(text, encoding="ascii")

    return Step("aipp", {"text": text}, (), output, make, text)


def _fixed_batch_steps(known: KnownModel, exported: Path, batch: int, folder: Path) -> list[Step]:
    simplified = folder / f"{known.onnx}_sim{batch}.onnx"
    steps = [
        Step(
            "simplify",
            {"batch": batch, "zoofast": version("zoofast"), "onnxsim": _version("onnxsim")},
            (exported,),
            simplified,
            lambda: simplify(exported, simplified, batch),
        )
    ]
    if known.rewrites:
        rewritten = folder / known.atc_input(batch)
        steps.append(
            Step(
                "optimize",
                {"rewrites": list(known.rewrites), "zoofast": version("zoofast")},
                (simplified,),
                rewritten,
                lambda: optimize(simplified, rewritten, known.rewrites),
            )
        )
    return steps


def atc_commands(
    known: KnownModel,
    recipe: Recipe,
    batches: Sequence[int],
    folder: Path,
    soc: str,
    options: Mapping[str, str],
) -> list[atc.Command]:
    """An ATC command for each batch size; the files have the guide's names, in `folder`.

    Raises ModelError where `options` give several commands one output.
    """
    commands = [
        atc.build(
            recipe,
            str(folder / known.atc_input(batch)),
            batch,
            soc,
            output=str(folder / Path(known.atc_output).name),
            aipp=None if recipe.on_device is None else str(folder / atc.AIPP_CONFIG),
            options=options,
        )
        for batch in batches
    ]
    atc.check_outputs(commands)
    return commands


def atc_step(recipe: Recipe, command: atc.Command, batch: int, echo: Callable[[str], None]) -> Step:
    """The step that runs `command`; another atc, by its path, runs the step again."""
    files = [Path(path) for name in ("model", "insert_op_conf") if (path := command[name])]

    def make() -> None:
        atc.check(command, recipe, batch)
        result = atc.run(command, atc.log_path(command), echo)
        if result != command.output:
            # The cache and the guide's next command use the name without the system's suffix.
            result.replace(command.output)

    settings = {"command": str(command), "atc": str(Path(atc.find()).resolve())}
    return Step("atc", settings, tuple(files), command.output, make)


def _version(package: str) -> str | None:
    """The version of a Python package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
