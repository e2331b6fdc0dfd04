"""All steps from weights to .om for a known model; a step is skipped when nothing it reads changed.

What a step read and made is kept by content digest in a journal in the output folder, so that
copying the folder, touching files or changing the clock does not matter.
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
from zoofast.base.provenance import file_sha256
from zoofast.conversion import atc, trial
from zoofast.conversion.aipp import Aipp
from zoofast.conversion.export import Target, build_network, export
from zoofast.conversion.models import KnownModel
from zoofast.conversion.optimize import optimize
from zoofast.conversion.simplify import simplify
from zoofast.errors import ModelError
from zoofast.preprocess.recipe_file import load_recipe

JOURNAL = "zoofast-convert.json"
PROOF_IMAGES = 2  # drawn ones, of PyTorch against the exported ONNX


@dataclass(frozen=True)
class Step:
    """One step: what it depends on (`settings`, and the content of `files`), makes, and how."""

    name: str
    settings: Mapping[str, Any]
    files: tuple[Path, ...]
    output: Path
    make: Callable[[], object] = field(compare=False)


@dataclass(frozen=True)
class Done:
    """A step that has its output: made in `seconds`, or kept from before (0)."""

    step: Step
    made: bool
    seconds: float


class Journal:
    """Which outputs in a folder are what their steps would make again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL
        self._digests: dict[Path, str] = {}
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            entries = {}
        except (OSError, ValueError) as error:
            raise ModelError(f"{self._path}: damaged ({error}); delete it to start anew") from error
        self._entries: dict[str, Any] = entries

    def do(self, step: Step) -> Done:
        """Makes the step's output, unless the journal has it and it is still whole."""
        key = step.output.name
        reads = {
            "step": step.name,
            "settings": dict(step.settings),
            "files": [self._digest(path) for path in step.files],
        }
        entry = self._entries.get(key)
        if (
            entry is not None
            and entry["reads"] == reads
            and step.output.is_file()
            and entry["made"] == self._digest(step.output)
        ):
            return Done(step, made=False, seconds=0.0)
        begin = time.monotonic()
        step.make()
        self._digests.pop(step.output, None)
        self._entries[key] = {"reads": reads, "made": self._digest(step.output)}
        with atomic_output(self._path) as partial:
            partial.write_text(json.dumps(self._entries, indent=1), encoding="utf-8")
        return Done(step, made=True, seconds=time.monotonic() - begin)

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            try:
                self._digests[path] = file_sha256(path)
            except OSError as error:
                raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
        return self._digests[path]


def onnx_steps(
    known: KnownModel,
    weights: Path | None,
    batches: Sequence[int],
    folder: Path,
    *,
    opset: int,
    seed: int = 0,
) -> list[Step]:
    """The steps up to what ATC reads: export, and where the guide has them simplify and rewrites.

    `weights` None means random ones, drawn with `seed`. Also the AIPP file, where the guide has
    one.
    """
    exported = folder / f"{known.name}.onnx"

    def export_it() -> None:
        target = Target.of(known)
        images = trial.images(load_recipe(known.recipe), None, PROOF_IMAGES)
        export(build_network(target, weights, seed), target, exported, opset, images=images)

    steps = [
        Step(
            "export",
            {
                "model": known.name,
                "opset": opset,
                "random": seed if weights is None else None,
                "zoofast": version("zoofast"),
                "torch": _version("torch"),
            },
            () if weights is None else (weights,),
            exported,
            export_it,
        )
    ]
    if known.simplify:
        for batch in batches:
            steps += _fixed_steps(known, exported, batch, folder)
    recipe = load_recipe(known.recipe)
    if recipe.on_device is not None:
        config = folder / atc.AIPP_CONFIG
        text = Aipp.of(recipe).text()

        def write_it() -> None:
            with atomic_output(config) as partial:
                partial.write_text(text, encoding="ascii")

        steps.append(Step("aipp", {"text": text}, (), config, write_it))
    return steps


def _fixed_steps(known: KnownModel, exported: Path, batch: int, folder: Path) -> list[Step]:
    simple = folder / f"{known.name}_sim{batch}.onnx"
    versions = {"zoofast": version("zoofast"), "onnxsim": _version("onnxsim")}
    steps = [
        Step(
            "simplify",
            {"batch": batch, **versions},
            (exported,),
            simple,
            lambda: simplify(exported, simple, batch),
        )
    ]
    if known.rewrites:
        merged = _atc_input(known, batch, folder)
        steps.append(
            Step(
                "optimize",
                {"rewrites": list(known.rewrites), "zoofast": version("zoofast")},
                (simple,),
                merged,
                lambda: optimize(simple, merged, known.rewrites),
            )
        )
    return steps


def _atc_input(known: KnownModel, batch: int, folder: Path) -> Path:
    if not known.simplify:
        return folder / f"{known.name}.onnx"
    return folder / f"{known.name}_sim{batch}{'_merge' if known.rewrites else ''}.onnx"


def commands(
    known: KnownModel, batches: Sequence[int], folder: Path, soc: str, options: Mapping[str, str]
) -> list[atc.Command]:
    """The ATC commands, one per batch size, with the guide's names in `folder`."""
    recipe = load_recipe(known.recipe)
    return [
        atc.build(
            recipe,
            str(_atc_input(known, batch, folder)),
            batch,
            soc,
            output=str(folder / Path(known.atc_output).name),
            aipp=None if recipe.on_device is None else str(folder / atc.AIPP_CONFIG),
            options=options,
        )
        for batch in batches
    ]


def atc_step(
    known: KnownModel, command: atc.Command, batch: int, echo: Callable[[str], None]
) -> Step:
    """The step that runs `command`. It is made anew for another CANN (by where its atc lies)."""
    model, aipp = command["model"], command["insert_op_conf"]
    files = [Path(path) for path in (model, aipp) if path is not None]

    def compile_it() -> None:
        atc.check(command, load_recipe(known.recipe), batch)
        made = atc.run(command, atc.log_path(command), echo)
        if made != command.output:
            # The journal and the guides' next command know the name without the system's suffix.
            made.replace(command.output)

    settings = {"command": str(command), "atc": str(Path(atc.find()).resolve())}
    return Step("atc", settings, tuple(files), command.output, compile_it)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
