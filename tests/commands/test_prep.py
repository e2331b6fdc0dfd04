"""The installed commands, as users run them: files, messages, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sysconfig
import tarfile
import time
from pathlib import Path

import pytest

from tests.support import folders, golden, in_process, jpegs, oracle

SCRIPTS = Path(sysconfig.get_path("scripts"))
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # but tab and newline
COMMANDS = {
    "zoofast prep": [SCRIPTS / "zoofast", "prep"],
    "zoofast-prep": [SCRIPTS / "zoofast-prep"],
}


def prep(*args: object, **environment: str) -> in_process.Ended:
    return in_process.zoofast("prep", *args, **environment)


def one_line(error: str) -> str:
    """The error message, which must be one line with the usual beginning."""
    assert error.startswith("zoofast: error: "), error
    assert error.count("\n") == 1, error
    return error


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = folders.write(tmp_path_factory.mktemp("cli") / "in", folders.good_files(12))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return folders.recipe_file(tmp_path_factory.mktemp("recipe"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plain_run(images: Path, tmp_path: Path, recipe_file: str, name: str) -> None:
    out = tmp_path / "out"
    words = [*COMMANDS[name], images, out, "--recipe", recipe_file]
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    made = {path.stem: path.read_bytes() for path in out.glob("*.bin")}
    assert made == {
        name.removesuffix(".JPEG"): folders.tensor(data).tobytes()
        for name, data in folders.good_files(12).items()
    }
    for words in ("12 of 12", "skipped, not an image", "images/s", "resize", "write", "digest"):
        assert words in done.stdout
    assert not CONTROL.search(done.stdout)


@pytest.mark.parametrize("guide", golden.GUIDES)
def test_the_guides_bins(shared: Path, tmp_path: Path, guide: str) -> None:
    out = tmp_path / "out"
    source = shared / "imagenet-sample" / "val"
    done = prep(source, out, "--recipe", golden.GUIDES[guide], "--threads", 2, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    made = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*.bin")}
    assert made == golden.sums(shared, guide)


def test_a_tar_gives_what_its_folder_gives(images: Path, tmp_path: Path, recipe_file: str) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(images, "val")
    for source, out in ((images, "folder"), (tmp_path / "in.tar", "tar")):
        assert prep(source, tmp_path / out, "--recipe", recipe_file).returncode == 0
    assert folders.sums(tmp_path / "tar", ".bin") == folders.sums(tmp_path / "folder", ".bin")


def test_failures_are_listed_and_counted(tmp_path: Path, recipe_file: str) -> None:
    source = folders.write(tmp_path / "in", {**folders.good_files(5), **folders.BAD_FILES})
    done = prep(source, tmp_path / "out", "--recipe", recipe_file, "--json", tmp_path / "r.json")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for name in folders.BAD_FILES:
        assert any(line.startswith("zoofast: failed: ") and name in line for line in lines)
    assert "5 of 8" in done.stdout
    assert "failed: truncated" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["failed"] == 3


def test_many_failures_are_not_all_shown(tmp_path: Path, recipe_file: str) -> None:
    source = folders.write(tmp_path / "in", {f"{i:02d}.JPEG": b"x" for i in range(25)})
    done = prep(source, tmp_path / "out", "--recipe", recipe_file, "--quiet")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 11
    assert f"and 15 more; {tmp_path}/out/zoofast-prep.json has all" in done.stderr
    said = json.loads((tmp_path / "out" / "zoofast-prep.json").read_text())
    assert len(said["failures"]) == 25


def test_stop(tmp_path: Path, recipe_file: str) -> None:
    source = folders.write(tmp_path / "in", {**folders.good_files(2), **folders.BAD_FILES})
    done = prep(source, tmp_path / "out", "--recipe", recipe_file, "--on-error", "stop")
    assert done.returncode == 2
    assert "bad_cut.JPEG" in one_line(done.stderr)


def test_json_says_what_the_manifest_says(images: Path, tmp_path: Path, recipe_file: str) -> None:
    out = tmp_path / "out"
    done = prep(images, out, "--recipe", recipe_file, "--json", tmp_path / "r.json", "--verify", 5)
    assert done.returncode == 0
    assert "5 of 5 equal Pillow's bytes" in done.stdout
    said = json.loads((tmp_path / "r.json").read_text())
    assert said == json.loads((out / "zoofast-prep.json").read_text())
    assert (said["prepared"], said["skipped_as_no_image"], said["state"]) == (12, 1, "complete")


def test_json_that_cannot_be_written(images: Path, tmp_path: Path, recipe_file: str) -> None:
    done = prep(images, tmp_path / "out", "--recipe", recipe_file, "--json", tmp_path / "no" / "r")
    assert done.returncode == 2
    assert f"mkdir -p {tmp_path / 'no'}" in one_line(done.stderr)
    assert not (tmp_path / "out").exists()  # refused before any work


def test_verify_fails_the_run(images: Path, tmp_path: Path, recipe_file: str) -> None:
    out = tmp_path / "out"
    assert prep(images, out, "--recipe", recipe_file).returncode == 0
    (out / "img0003.bin").write_bytes(bytes(3 * 32 * 32 * 4))
    done = prep(images, out, "--recipe", recipe_file, "--resume", "--verify", 12)
    assert done.returncode == 1
    assert done.stderr == "zoofast: differs from Pillow: img0003\n"
    assert "11 of 12 equal Pillow's bytes" in done.stdout


def test_quiet(images: Path, tmp_path: Path, recipe_file: str) -> None:
    done = prep(images, tmp_path / "out", "--recipe", recipe_file, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_dry_run_writes_nothing(images: Path, tmp_path: Path, recipe_file: str) -> None:
    done = prep(images, tmp_path / "out", "--recipe", recipe_file, "--dry-run")
    assert done.returncode == 0
    assert "12 images, 1 other file skipped" in done.stdout
    assert "147,456 bytes needed" in done.stdout
    assert not (tmp_path / "out").exists()
    limited = prep(images, tmp_path / "out", "--recipe", recipe_file, "--dry-run", "--limit", 2)
    assert "2 images" in limited.stdout


def test_other_outputs(images: Path, tmp_path: Path, recipe_file: str) -> None:
    done = prep(
        images, tmp_path / "out", "--recipe", recipe_file, "--dtype", "uint8", "--layout", "NHWC",
        "--format", "pack", "--shard", "2/3", "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0
    said = json.loads((tmp_path / "out" / "zoofast-prep.json").read_text())
    assert (said["dtype"], said["layout"], said["shape"]) == ("uint8", "NHWC", [32, 32, 3])
    assert (said["options"]["shard"], said["total"], said["threads"]) == ("2/3", 4, 1)
    names = (tmp_path / "out" / "pack.names.txt").read_text().split()
    assert names == ["img0001", "img0004", "img0007", "img0010"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--recipe", "alexnett"], "did you mean 'alexnet'?"),
        (["--recipe", "gone.toml"], "gone.toml: No such file or directory"),
        (["--recipe", "alexnet", "--dtype", "float16", "--resume", "--format", "tar"], "tar"),
        (["--recipe", "alexnet", "--threads", "0"], "'0' is not a whole number from 1"),
        (["--recipe", "alexnet", "--threads", "two"], "'two' is not a whole number from 1"),
        (["--recipe", "alexnet", "--threads", "99999999999"], "from 1 to 1024"),
        (["--recipe", "alexnet", "--limit", "-3"], "'-3' is not a whole number from 1"),
        (["--recipe", "alexnet", "--shard", "3/2"], "the shards of 2 are 1/2 to 2/2"),
        (["--recipe", "alexnet", "--shard", "0/2"], "the shards of 2"),
        (["--recipe", "alexnet", "--shard", "half"], "of the form I/N, like 1/4"),
        (["--recipe", "alexnet", "--on-error", "ignore"], "ignore"),
        ([], "--recipe"),
    ],
)
def test_bad_arguments(images: Path, tmp_path: Path, args: list[str], words: str) -> None:
    done = prep(images, tmp_path / "out", *args)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_sources(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    clash = folders.write(tmp_path / "clash", {"a.1.JPEG": b"x", "a.2.JPEG": b"x"})
    for source, words in (
        (tmp_path / "gone", "no such folder"),
        (tmp_path / "empty", "no images"),
        (clash, "would overwrite"),
    ):
        done = prep(source, tmp_path / "out", "--recipe", "alexnet")
        assert done.returncode == 2
        assert words in one_line(done.stderr)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["folder", "classes", "list", "link"])
def test_the_folder_of_the_images_is_no_place_for_tensors(
    tmp_path: Path, recipe_file: str, form: str
) -> None:
    images = folders.write(tmp_path / "in" / "n1", folders.good_files(2))
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted(images.iterdir())))
    (tmp_path / "link").symlink_to(images)
    source, out = {
        "folder": (images, images),
        "classes": (tmp_path / "in", images),
        "list": (listed, images),
        "link": (images, tmp_path / "link"),
    }[form]
    before = sorted(path.name for path in images.iterdir())
    for option in ((), ("--overwrite",), ("--resume",)):
        done = prep(source, out, "--recipe", recipe_file, *option)
        assert done.returncode == 2
        assert "holds the images" in one_line(done.stderr)
        assert sorted(path.name for path in images.iterdir()) == before


def test_a_folder_in_use(images: Path, tmp_path: Path, recipe_file: str) -> None:
    out = tmp_path / "out"
    assert prep(images, out, "--recipe", recipe_file, "--limit", 3).returncode == 0
    done = prep(images, out, "--recipe", recipe_file)
    assert done.returncode == 2
    assert "--resume" in one_line(done.stderr)
    done = prep(images, out, "--recipe", recipe_file, "--resume", "--overwrite")
    assert (done.returncode, "exclude each other" in one_line(done.stderr)) == (2, True)
    assert prep(images, out, "--recipe", recipe_file, "--resume").returncode == 0
    assert len(list(out.glob("*.bin"))) == 12
    assert prep(images, out, "--recipe", "alexnet", "--resume").returncode == 2
    assert prep(images, out, "--recipe", recipe_file, "--overwrite").returncode == 0


def test_cpu_levels_by_name(images: Path, tmp_path: Path, recipe_file: str, isa: str) -> None:
    out = tmp_path / "out"
    assert prep(images, out, "--recipe", recipe_file, ZOOFAST_ISA=isa).returncode == 0
    assert json.loads((out / "zoofast-prep.json").read_text())["versions"]["cpu_level"] == isa


def test_an_unknown_cpu_level_is_an_error(images: Path, tmp_path: Path) -> None:
    done = prep(images, tmp_path / "out", "--recipe", "alexnet", ZOOFAST_ISA="mmx")
    assert done.returncode == 2
    assert "ZOOFAST_ISA=mmx: known: scalar" in one_line(done.stderr)


def test_without_arguments_there_is_help() -> None:
    done = subprocess.run([SCRIPTS / "zoofast"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "prep" in done.stdout
    done = subprocess.run([SCRIPTS / "zoofast-prep", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    options = "recipe threads format dtype layout on-error resume overwrite limit shard verify"
    for option in [*options.split(), "dry-run", "json", "quiet"]:
        assert f"--{option}" in done.stdout


def test_the_limit_of_a_files_size(images: Path, tmp_path: Path, recipe_file: str) -> None:
    """A huge image is one failure; the limit can be set."""
    names = sorted(path.name for path in images.iterdir() if path.suffix == ".JPEG")
    source = tmp_path / "in"
    source.mkdir()
    for name in names[:3]:
        (source / name).write_bytes((images / name).read_bytes())
    with (source / "huge.JPEG").open("wb") as file:
        file.truncate(100 << 30)
    done = prep(source, tmp_path / "out", "--recipe", recipe_file)
    assert done.returncode == 1
    assert done.stderr.endswith("huge.JPEG: larger than 256,000,000 bytes\n")
    assert len(list((tmp_path / "out").glob("*.bin"))) == 3
    done = prep(source, tmp_path / "none", "--recipe", recipe_file, "--max-file-size", "1K")
    assert done.returncode == 1
    assert done.stderr.count("larger than 1,024 bytes") == 4


# ---- memory and outside data -----------------------------------------------------


def test_a_ring_that_memory_cannot_hold(tmp_path: Path) -> None:
    """A crop of 16384 x 16384 pixels, with 4 GB of address space, is an error and no traceback."""
    folders.write(tmp_path / "in", folders.good_files(1))
    spec = oracle.Spec(mode="none", size=(0, 0), crop=(16384, 16384), dtype="uint8", layout="NHWC")
    (tmp_path / "r.toml").write_text(spec.toml())
    words = [*COMMANDS["zoofast prep"], tmp_path / "in", tmp_path / "out", "--threads", "2"]
    done = subprocess.run(
        ["bash", "-c", f'ulimit -v 4000000; exec "$@" --recipe {tmp_path}/r.toml', "-", *words],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each has its address space
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert one_line(done.stderr) == (
        "zoofast: error: 6 batches of 8 tensors need 38,654,705,664 bytes of memory\n"
    )


BAD_RECIPES = {
    "digits": "name = " + "9" * 5000,
    "hexadecimal": "name = 0x" + "f" * 5000,
    "nested": "name = " + "[" * 100_000 + "]" * 100_000,
    "tables": "[" + ".".join("a" * 20_000) + "]",
    "not text": "name = \xff",
    "one line": 'name = "a\nb"',
}


@pytest.mark.parametrize("text", BAD_RECIPES.values(), ids=BAD_RECIPES)
def test_a_malformed_recipe_is_one_line(images: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="latin-1")
    done = prep(images, tmp_path / "out", "--recipe", path)
    assert done.returncode == 2
    line = one_line(done.stderr)
    assert "r.toml: " in line and len(line) < 1000
    assert not (tmp_path / "out").exists()


# ---- interrupting ----------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = jpegs.jpeg(400, 500, 3, quality=90)
    return folders.write(
        tmp_path_factory.mktemp("many"), {f"{i:05d}.JPEG": data for i in range(3000)}
    )


@pytest.mark.parametrize(
    ("format", "number", "code"),
    [("bin", signal.SIGINT, 130), ("pack", signal.SIGINT, 130), ("bin", signal.SIGTERM, 143)],
)
def test_an_interrupted_run_is_resumed(
    many: Path, tmp_path: Path, recipe_file: str, format: str, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    args = [many, out, "--recipe", recipe_file, "--format", format]
    process = subprocess.Popen(
        [*map(str, COMMANDS["zoofast-prep"]), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    began = time.monotonic()
    while time.monotonic() - began < 300 and len(list(out.glob("*.bin"))) < 20:
        names = out / "pack.names.txt.part"
        if names.exists() and names.stat().st_size:
            break
        time.sleep(0.005)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code
    assert stdout == ""
    assert stderr == (
        "zoofast: interrupted; the tensors written so far stay; the same command with --resume "
        "continues\n"
    )
    assert json.loads((out / "zoofast-prep.json").read_text())["state"] == "interrupted"
    assert prep(*args, "--resume", "--limit", 300).returncode == 0
    said = json.loads((out / "zoofast-prep.json").read_text())
    assert said["resumed"] > 0
    assert said["resumed"] + said["prepared"] == 300


def on_a_terminal(*args: object, columns: int = 120) -> str:
    """All output of the command on a terminal of `columns`."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        [*map(str, COMMANDS["zoofast-prep"]), *map(str, args)],
        stdout=other,
        stderr=other,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
    )
    os.close(other)
    seen, began = b"", time.monotonic()
    while time.monotonic() - began < 300:
        if select.select([main], [], [], 1)[0]:
            try:
                seen += os.read(main, 65536)
            except OSError:  # the command has ended
                break
    os.close(main)
    assert process.wait(timeout=300) == 0
    return seen.decode()


def test_a_terminal_sees_a_bar(many: Path, tmp_path: Path, recipe_file: str) -> None:
    """Output that is no terminal shows no progress: see test_a_plain_run."""
    args = [tmp_path / "out", "--recipe", recipe_file]
    text = on_a_terminal(many, *args, "--limit", 600)
    assert "\x1b[" in text
    assert re.search(r"\d+/600", text)
    assert "MB/s" in text
    resumed = on_a_terminal(many, *args, "--limit", 700, "--resume", columns=45)  # at any speed
    assert "…" not in text + resumed
    assert "/s" in resumed and "MB/s" not in resumed
    counts = [int(count) for count in re.findall(r"(\d+)/700", resumed)]
    assert counts[-1] == 700
    assert min(count for count in counts if count) >= 600


def test_options_for_one_machine_are_refused_before_ray_starts(
    images: Path, recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(address: str) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr("zoofast.cluster.connection.connect", connect)
    labels = tmp_path / "labels.txt"
    labels.write_text("img0000.JPEG 1\n")
    words = ("--recipe", recipe_file, "--ray", "local", "--trace", tmp_path / "x")
    ended = in_process.zoofast("eval", "m.onnx", images, labels, *words)
    assert ended.returncode == 2
    assert "--trace is for one machine" in one_line(ended.stderr)
