"""ATC, the compiler from ONNX to .om: the guides' commands, built, checked, run and explained."""

from __future__ import annotations

import codecs
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zoofast.base.lock import output_lock
from zoofast.conversion import aipp_file, models, onnxfile
from zoofast.errors import BackendError, ModelError, OutputError
from zoofast.preprocess.recipe import Recipe

AIPP_CONFIG = "aipp.config"  # the guides' name of the AIPP file
PIPE_BYTES = 65536  # what a pipe holds at most
POLL_MILLISECONDS = 100  # until the end of ATC is noticed where a child keeps its output open
# Runs "$0" "$@". A process beside it waits for the end of standard input, which zoofast alone holds
# open. When zoofast has ended, also by kill -9, it kills the process group, with itself.
IN_A_GROUP = """
exec 3<&0 </dev/null
( { read -r end <&3; kill -KILL 0; } >/dev/null 2>&1 & )
exec "$0" "$@" 3<&-
"""
SUCCESS = "ATC run success"  # in ATC's output when it succeeded
ENVIRONMENT_SCRIPTS = (  # where CANN's installers put set_env.sh
    "/usr/local/Ascend/ascend-toolkit/set_env.sh",
    "/usr/local/Ascend/cann/set_env.sh",
    "~/Ascend/ascend-toolkit/set_env.sh",
    "~/Ascend/cann/set_env.sh",
)

_DEFAULT_OPTIONS = (  # for a model without a guide
    "--framework=5",
    "--model={model}",
    "--output={output}",
    "--input_format=NCHW",
    "--input_shape={shape}",
    "--log=error",
    "--soc_version={soc}",
)
_AIPP_OPTIONS = ("--enable_small_channel=1", "--insert_op_conf={aipp}")

# (pattern in the output of a failed run, what to do), the most specific first.
_CURES = (
    (r"host_env_os", "CANN's environment is not set: source its set_env.sh"),
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
    (r"EZ9999", "an error inside ATC: see the first error in the log, not the last"),
)


@dataclass(frozen=True)
class Command:
    """One call of ATC: its options in order, each as (name with dashes, value)."""

    options: tuple[tuple[str, str], ...]

    def __getitem__(self, name: str) -> str | None:
        """The value of an option, or None. `-` and `_` in an option's name are the same to ATC."""
        values = {key.lstrip("-").replace("-", "_"): value for key, value in self.options}
        return values.get(name)

    @property
    def output(self) -> Path:
        """The .om that the command makes; ATC appends the suffix to the option's value."""
        return Path(f"{self['output']}.om")

    def with_output(self, path: Path) -> Command:
        """The command with another output."""
        return Command(
            tuple((key, str(path) if key == "--output" else value) for key, value in self.options)
        )

    def argv(self) -> list[str]:
        """The arguments, without `atc` itself."""
        return [f"{name}={value}" for name, value in self.options]

    def __str__(self) -> str:
        """The command line for a shell, with a usual shape in double quotes as in the guides."""
        return " ".join(["atc", *(_shell_text(name, value) for name, value in self.options)])


def _shell_text(name: str, value: str) -> str:
    is_plain = re.fullmatch(r"[\w.:,;/+-]*", value)  # means the same within double quotes
    if name in ("--input_shape", "--input-shape") and is_plain:
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
    """The command of the guide of the recipe's model; a usual command where there is no guide.

    model: path of the ONNX; `{batch}` in it stands for the batch size.
    soc: ATC's name of the chip, such as "Ascend310P3".
    output: path of the result without .om; `{batch}` as in `model`; None takes the guide's name.
    aipp: path of the AIPP file. None takes "aipp.config" where the guide uses AIPP, else no AIPP.
    options: other options, name without dashes to value; they replace the guide's or follow them.

    Raises ModelError.
    """
    if batch < 1:
        raise ModelError(f"batch size {batch}: not a whole number from 1")
    known = None
    if recipe.imported is None:  # a model of elsewhere may have a guide's name
        named = (m for m in map(models.load, models.names()) if m.recipe == recipe.name)
        known = next(named, None)
    templates = known.atc if known else _DEFAULT_OPTIONS
    if recipe.on_device is not None and aipp is None:
        aipp = AIPP_CONFIG
    if aipp is not None and not any("{aipp}" in template for template in templates):
        templates += _AIPP_OPTIONS
    if output is None:
        output = known.atc_output if known else f"{recipe.name}_bs{{batch}}"
    height, width = recipe.input_size
    values = {
        "model": _insert_batch(model, batch),
        "output": _insert_batch(output, batch),
        "shape": f"{recipe.input_name}:{batch},3,{height},{width}",
        "soc": soc,
        "aipp": aipp,
    }
    arguments = dict(template.format(**values).split("=", 1) for template in templates)
    for name, value in (options or {}).items():
        _set_option(arguments, name, value)
    return Command(tuple(arguments.items()))


def _insert_batch(path: str, batch: int) -> str:
    return path.replace("{batch}", str(batch))


def _set_option(arguments: dict[str, str], name: str, value: str) -> None:
    """Replaces the option `name` (without dashes) among `arguments`, or appends it."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise ModelError(f"ATC option {name!r}: give it as name=value, without dashes in front")
    if not value or re.search(r"\s", value):
        raise ModelError(f"ATC option {name}: the value {value!r} is empty or contains blanks")
    plain = name.replace("-", "_")
    same = [key for key in arguments if key.lstrip("-").replace("-", "_") == plain]
    arguments[same[0] if same else f"--{name}"] = value


def check_outputs(commands: Sequence[Command]) -> None:
    """Raises ModelError where several commands make the same .om, of which one would be left."""
    outputs = {os.path.realpath(command.output) for command in commands}
    if len(outputs) < len(commands):
        raise ModelError(
            f"{commands[0].output}: is the .om of several batch sizes; put {{batch}} into its name"
        )


def check(command: Command, recipe: Recipe, batch: int) -> None:
    """Checks what ATC would fail on: the files, the ONNX's input, the batch size. Checks also that
    the AIPP file makes the recipe's input, of which ATC knows nothing.

    Raises ModelError that names the cure; RecipeError for a recipe that AIPP cannot compute.
    """
    path = Path(command["model"] or "")
    port = onnxfile.image_input(onnxfile.read(path), path)
    if port.name != recipe.input_name:
        raise ModelError(
            f"{path}: its input is called {port.name!r}, in the recipe {recipe.name} "
            f"{recipe.input_name!r}; check --recipe"
        )
    height, width = recipe.input_size
    for size, expected in zip(port.shape[1:], (3, height, width), strict=True):
        if size not in (None, expected):
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
    if aipp is not None and not Path(aipp).exists():
        raise ModelError(f"{aipp}: no such file; run `zoofast aipp {recipe.name} -o {aipp}`")
    if aipp is not None:
        aipp_file.check(Path(aipp), recipe)
    if (command["output"] or "").endswith("/") or command.output.is_dir():
        raise ModelError(f"{command.output}: is a folder; name a file, without .om")
    folder = command.output.parent
    if not folder.is_dir():
        raise ModelError(f"{command.output}: the folder does not exist: mkdir -p {folder}")


def environment_script() -> Path | None:
    """The path of CANN's set_env.sh, looked for where CANN is usually installed."""
    scripts = (Path(os.path.expanduser(script)) for script in ENVIRONMENT_SCRIPTS)
    return next((script for script in scripts if os.path.isfile(script)), None)


def find() -> str:
    """The path of the program `atc`. Raises BackendError, which says how to get it."""
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
    """The file beside the .om that keeps ATC's output."""
    return command.output.with_suffix(".atc.log")


def run(command: Command, log: Path, echo: Callable[[str], None]) -> Path:
    """Runs ATC and returns the path of the .om.

    ATC's output goes to `echo` as it comes, and to the file `log`. Processes that ATC has started
    are killed when it has ended, and all together when zoofast ends or `echo` raises. One that has
    left ATC's process group goes on.

    ATC has succeeded when its exit code is 0, its output says so, and the .om is there and not
    empty. Otherwise an earlier .om of that name stays as it is, and ModelError gives ATC's error
    and the cure. Raises BackendError when there is no atc, OutputError when another process
    compiles to the same .om.
    """
    executable = find()
    om = command.output
    folder = om.with_name(f".{om.name}.part")  # ATC writes here, also when it is killed
    with output_lock(om):
        try:
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)  # of a run that was killed
            folder.mkdir()
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
        try:
            argv = [executable, *command.with_output(folder / om.stem).argv()]
            code, output = _run_and_echo(argv, log, echo)
            results = _results(folder, om)
            if code != 0 or SUCCESS not in output or not results:
                raise ModelError(_failure_message(command, code, output, log))
            for path in sorted(folder.iterdir(), key=lambda path: path in results):  # .om last
                _move(path, om.with_name(path.name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return om.with_name(results[0].name)


def _results(folder: Path, om: Path) -> list[Path]:
    """What ATC may have written: X.om, or X_linux_aarch64.om for a model with parts on the CPU."""
    return [
        path
        for path in folder.glob("*.om")
        if path.name == om.name or path.name.startswith(f"{om.stem}_linux_")
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 0
    ]


def _move(path: Path, target: Path) -> None:
    """Renames a file; adds a folder, such as ATC's external weights, to an earlier one."""
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        path.replace(target)


def _run_and_echo(argv: list[str], log: Path, echo: Callable[[str], None]) -> tuple[int, str]:
    """Runs a command, passes its output on; returns the exit code and the whole output."""
    texts: list[str] = []
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            ["/bin/sh", "-c", IN_A_GROUP, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            for data in _output(process):
                text = decode(data)
                texts.append(text)
                file.write(text)
                echo(text)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, "".join(texts)


def _output(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a process writes, as it comes, until the process ends.

    ATC shows its progress as dots on one line, so lines are not waited for. Nor is the end of the
    pipe, since a child of the process may hold it longer.
    """
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    while process.poll() is None:
        if poller.poll(POLL_MILLISECONDS):
            if data := os.read(pipe, PIPE_BYTES):
                yield data
            else:
                process.wait()  # its output is closed, so there is nothing to wait for but its end
    if poller.poll(0) and (data := os.read(pipe, PIPE_BYTES)):
        yield data  # what it wrote last


def _failure_message(command: Command, code: int, output: str, log: Path) -> str:
    if code == 0:
        reason = f"atc ended for {command.output} without its line of success or the file"
    else:
        reason = f"atc failed for {command.output} (exit code {code})"
    error = re.search(r"^E[A-Z]?\d{4,5}:.*$", output, re.MULTILINE)
    if error:
        reason += f": {error[0].strip()}"
    return f"{reason}; {cure(output)}; the whole output is in {log}"


def cure(output: str) -> str:
    """What to do after a run that failed with `output`, in one line."""
    for pattern, text in _CURES:
        if re.search(pattern, output):
            return text
    return "zoofast knows no cure for this output"
