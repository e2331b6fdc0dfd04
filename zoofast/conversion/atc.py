"""ATC, the compiler from ONNX to .om: builds the guides' command lines, checks, runs, explains."""

from __future__ import annotations

import codecs
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zoofast.conversion import models, onnxfile
from zoofast.errors import BackendError, ModelError
from zoofast.preprocess.recipe import Recipe

AIPP_CONFIG = "aipp.config"  # where the guides keep it
SUCCESS = "ATC run success"
ENVIRONMENTS = (
    "/usr/local/Ascend/ascend-toolkit/set_env.sh",
    "/usr/local/Ascend/cann/set_env.sh",
    "~/Ascend/ascend-toolkit/set_env.sh",
)

_OWN_MODEL = (  # the guides' options, for models that none of them has
    "--framework=5",
    "--model={model}",
    "--output={output}",
    "--input_format=NCHW",
    "--input_shape={shape}",
    "--log=error",
    "--soc_version={soc}",
)
_WITH_AIPP = ("--enable_small_channel=1", "--insert_op_conf={aipp}")

# What the codes of a failed run mean in practice, the most telling first.
_CURES = (
    (r"host_env_os", "the CANN environment is not set: source its set_env.sh"),
    (r"libascend_hal\.so", "no driver here: put CANN's stub folder at the end of LD_LIBRARY_PATH"),
    (r"FrameLocalsProxy", "this CANN is too old for this Python: use Python 3.7 to 3.10"),
    (r"np\.float_|numpy.*2\.\d", "CANN's compiler needs NumPy 1: pip install 'numpy<2'"),
    (
        r"EC0010|No module named",
        "CANN's compiler misses a Python package: pip install "
        "'numpy<2' decorator sympy cffi attrs psutil scipy protobuf",
    ),
    (
        r"EZ3002",
        "this chip lacks an operator, or its dynamic shape: check --soc, or fix the batch with "
        "`zoofast simplify --batchsize N`",
    ),
    (r"E19010", "ATC knows no such operator: export with a lower --opset (11 always works)"),
    (r"E19005", "ATC cannot read the ONNX: export it anew"),
    (r"E10016", "--input_shape names an input that the ONNX does not have: check --recipe"),
    (r"E10052", "the AIPP file is wrong: write it with `zoofast aipp`"),
    (r"E10001", "an input has a dynamic size, or an option a wrong value: check --recipe"),
    (r"E10003|E10013|E10014|E10015", "an option has a wrong value: check --option"),
    (r"E10054", "an option is missing: check --option"),
    (r"507033", "the NPU cannot be opened: is the driver loaded, may this user use it?"),
    (r"E20001", "an operator does not compile: check --soc; see the log for its name"),
    (r"EZ9999", "an error inside ATC: the log's first error, not its last, tells which"),
)


@dataclass(frozen=True)
class Command:
    """One call of ATC: options in order, as (name with its dashes, value)."""

    options: tuple[tuple[str, str], ...]

    def __getitem__(self, name: str) -> str | None:
        """The value of an option; `-` and `_` in names are the same to ATC."""
        values = {key.lstrip("-").replace("-", "_"): value for key, value in self.options}
        return values.get(name)

    @property
    def output(self) -> Path:
        """The .om that the guides speak of; ATC appends the suffix."""
        return Path(f"{self['output']}.om")

    def argv(self) -> list[str]:
        """The arguments, without `atc` itself."""
        return [f"{name}={value}" for name, value in self.options]

    def __str__(self) -> str:
        """The line for a shell, shapes in double quotes as in the guides."""
        return " ".join(["atc", *(_shell_text(name, value) for name, value in self.options)])


def _shell_text(name: str, value: str) -> str:
    if name in ("--input_shape", "--input-shape"):
        return f'{name}="{value}"'
    return f"{name}={shlex.quote(value)}"


def build(
    recipe: Recipe,
    model: str,
    batch: int,
    soc: str,
    *,
    output: str | None = None,
    aipp: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Command:
    """The guide's command for the model of `recipe`; ATC's usual one for a model without a guide.

    `model` is the ONNX and `output` the result without .om, `{batch}` in them standing for the
    batch size; None takes the guide's name. `soc` is ATC's name of the chip. `aipp` is the AIPP
    file; a recipe whose guide uses AIPP has "aipp.config" by default. `options` replace or follow
    the others. Raises ModelError.
    """
    if batch < 1:
        raise ModelError(f"batch size {batch}: not a whole number from 1")
    known = next((m for m in map(models.load, models.names()) if m.recipe == recipe.name), None)
    template = known.atc if known else _OWN_MODEL
    if recipe.on_device is not None and aipp is None:
        aipp = AIPP_CONFIG
    if aipp is not None and not any("{aipp}" in option for option in template):
        template += _WITH_AIPP
    if output is None:
        output = known.atc_output if known else f"{recipe.name}_bs{{batch}}"
    height, width = recipe.input_size
    fill = {
        "model": _for_batch(model, batch),
        "output": _for_batch(output, batch),
        "shape": f"{recipe.input_name}:{batch},3,{height},{width}",
        "soc": soc,
        "aipp": aipp,
    }
    made = dict(option.format(**fill).split("=", 1) for option in template)
    for name, value in (options or {}).items():
        _add(made, name, value)
    return Command(tuple(made.items()))


def _for_batch(path: str, batch: int) -> str:
    return path.replace("{batch}", str(batch))


def _add(made: dict[str, str], name: str, value: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise ModelError(f"ATC option {name!r}: give it as name=value, without dashes in front")
    if not value or re.search(r"\s", value):
        raise ModelError(f"ATC option {name}: the value {value!r} is empty or has blanks in it")
    plain = name.replace("-", "_")
    same = [key for key in made if key.lstrip("-").replace("-", "_") == plain]
    made[same[0] if same else f"--{name}"] = value


def check(command: Command, recipe: Recipe, batch: int) -> None:
    """Finds what ATC would fail on: files, the ONNX's input against the recipe, the batch size.

    Raises ModelError that names the cure.
    """
    path = Path(command["model"] or "")
    port = onnxfile.image_input(onnxfile.read(path), path)
    if port.name != recipe.input_name:
        raise ModelError(
            f"{path}: its input is called {port.name!r}, the recipe {recipe.name} says "
            f"{recipe.input_name!r}; check --recipe"
        )
    height, width = recipe.input_size
    for found, wanted in zip(port.shape[1:], (3, height, width), strict=True):
        if found not in (None, wanted):
            raise ModelError(
                f"{path}: its input is {port}, the recipe {recipe.name} makes "
                f"3,{height},{width}; check --recipe"
            )
    if port.batch not in (None, batch):
        raise ModelError(
            f"{path}: its batch is fixed to {port.batch}, not {batch}; run `zoofast simplify` with "
            f"--batchsize {batch}, and put {{batch}} into the file name to compile several"
        )
    aipp = command["insert_op_conf"]
    if aipp is not None and not Path(aipp).is_file():
        raise ModelError(f"{aipp}: no such file; run `zoofast aipp {recipe.name} -o {aipp}`")
    folder = command.output.parent
    if not folder.is_dir():
        raise ModelError(f"{command.output}: the folder does not exist: mkdir -p {folder}")


def environment_script() -> Path | None:
    """CANN's set_env.sh, where it is usually installed."""
    scripts = (Path(script).expanduser() for script in ENVIRONMENTS)
    return next((script for script in scripts if script.is_file()), None)


def find() -> str:
    """The path of `atc`. BackendError says how to get it: set the environment, or go elsewhere."""
    executable = shutil.which("atc")
    if executable is not None:
        return executable
    script = environment_script()
    if script is not None:
        raise BackendError(f"atc is installed, but not in PATH: source {script}")
    raise BackendError(
        "atc is not on this machine; it comes with CANN, and needs no NPU itself: "
        "run the command where CANN is"
    )


def log_path(command: Command) -> Path:
    """Where the output of the command is kept: beside the .om."""
    return command.output.with_suffix(".atc.log")


def run(command: Command, log: Path, echo: Callable[[str], None]) -> Path:
    """Runs ATC, its output going to `echo` as it comes and to the file `log`; returns the .om.

    Done is when ATC ends with code 0, says so, and the .om is there. Else an earlier .om of that
    name is put back and ModelError gives ATC's own words and the cure. Raises BackendError when
    there is no atc.
    """
    executable = find()
    aside = {path: path.with_name(f".{path.name}.previous") for path in _results(command)}
    for path, kept in aside.items():
        path.replace(kept)
    try:
        code, said = _watch([executable, *command.argv()], log, echo)
        made = _results(command)
        if code != 0 or SUCCESS not in said or not made:
            raise ModelError(_explain(command, code, said, log))
    except BaseException:
        for path in _results(command):
            path.unlink()
        for path, kept in aside.items():
            kept.replace(path)
        raise
    for kept in aside.values():
        kept.unlink()
    return made[0]


def _results(command: Command) -> list[Path]:
    """What ATC may call its output: X.om, or X_linux_aarch64.om for models with host parts."""
    om = command.output
    return [
        path
        for path in om.parent.glob("*.om")
        if path.name == om.name or path.name.startswith(f"{om.stem}_linux_")
    ]


def _watch(argv: list[str], log: Path, echo: Callable[[str], None]) -> tuple[int, str]:
    """The exit code and the whole output of a command whose output is also passed on."""
    said: list[str] = []
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        assert process.stdout is not None
        try:
            # ATC draws its progress as dots on one line: pass on what there is, not lines.
            while data := os.read(process.stdout.fileno(), 65536):
                text = decode(data)
                said.append(text)
                file.write(text)
                echo(text)
        except BaseException:
            process.kill()
            raise
    return process.returncode, "".join(said)


def _explain(command: Command, code: int, said: str, log: Path) -> str:
    own = re.search(r"^E[A-Z]?\d{4,5}:.*$", said, re.MULTILINE)
    parts = [f"atc failed for {command.output} (exit code {code})"]
    if code == 0:
        parts = [f"atc ended for {command.output} without its line of success or the file"]
    if own:
        parts.append(own[0].strip())
    return f"{': '.join(parts)}; {cure(said)}; all it said is in {log}"


def cure(said: str) -> str:
    """What to do about the output of a failed run, in one line."""
    for pattern, text in _CURES:
        if re.search(pattern, said):
            return text
    return "no code that is known here"
