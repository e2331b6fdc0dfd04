"""Sources in stores: nginx, an S3 server and fsspec's memory give what the local folder gives."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.support import (
    eval_case,
    fetched,
    folders,
    hub,
    in_process,
    jpegs,
    models,
    nginx,
    tars,
    web,
)
from zoofast.errors import SourceError
from zoofast.preprocess.folder import PrepOptions, prepare_folder
from zoofast.preprocess.loader import Loader
from zoofast.preprocess.recipe_file import parse_recipe
from zoofast.preprocess.sources import open_source

pytestmark = pytest.mark.slow

RECIPE = parse_recipe(folders.SPEC.toml(), "test")
GOOD = folders.good_files(23)
FILES = {**GOOD, **folders.BAD_FILES}
KEY = {"AWS_ACCESS_KEY_ID": "KEYID", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `val` with a subfolder, a file that is no image and a hidden one; the same in tars,
    in a compressed tar and in Parquet files."""
    import pyarrow
    from pyarrow import parquet

    root = tmp_path_factory.mktemp("root")
    names = sorted(FILES)
    folders.write(root / "val" / "a", {name: FILES[name] for name in names[::2]})
    folders.write(root / "val" / "b c", {name: FILES[name] for name in names[1::2]})
    folders.write(root / "val", {"notes.txt": b"x", ".hidden.JPEG": b"x"})
    tars.make_labelled(root / "val.tar", FILES)
    for i in range(3):
        tars.make_labelled(
            root / f"shard-{i:02d}.tar", {name: FILES[name] for name in names[i * 9 :][:9]}
        )
    (root / "val.tar.gz").write_bytes(gzip.compress((root / "val.tar").read_bytes()))
    column = [{"bytes": data, "path": name} for name, data in FILES.items()]
    labels = [i % models.CLASSES for i in range(len(column))]
    rows = pyarrow.table({"image": column, "label": labels})
    (root / "rows").mkdir()
    (root / "empty").mkdir()
    for i in range(2):
        part = rows.slice(13 * i, 13)
        parquet.write_table(part, root / "rows" / f"val-{i}.parquet", row_group_size=5)
    return root


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx.serving(root, tmp_path_factory.mktemp("nginx") / "work") as url:
        yield url


@pytest.fixture(scope="module")
def bucket(root: Path) -> Iterator[Any]:
    """fsspec's S3 with a bucket that has all of `root`. The environment names server and key."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEY, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        fs = s3fs.S3FileSystem()
        fs.mkdir("bucket")
        fs.put(f"{root}/", "bucket/data/", recursive=True)
        yield fs
    server.stop()


@pytest.fixture
def memory(root: Path) -> Iterator[str]:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.put(f"{root}/", "/data/", recursive=True)
    yield "memory://data"
    fs.rm("/data", recursive=True)


def outputs(where: str | Path, folder: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The sums of the bins of a source, and the failures."""
    with open_source(where) as source:
        report = prepare_folder(source, folder, RECIPE, PrepOptions(threads=2))
    return folders.sums(folder, ".bin"), sorted((f.name, f.cause) for f in report.failures)


KINDS = ["val", "val/", "val.tar", "shard-{00..02}.tar", "shard-*.tar"]
KINDS += ["val.tar.gz", "rows/val-{0..1}.parquet", "rows/"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("store", ["http", "s3", "memory", "file"])
def test_a_store_gives_what_the_folder_gives(
    root: Path, server: str, bucket: Any, memory: str, tmp_path: Path, store: str, kind: str
) -> None:
    base = {"http": server, "s3": "s3://bucket/data", "memory": memory, "file": f"file://{root}"}
    local = "shard-*.tar" if kind.startswith("shard") else kind.rstrip("/")
    expected = outputs(root / local, tmp_path / "local")
    assert len(expected[0]) == len(GOOD) and len(expected[1]) == len(folders.BAD_FILES)
    assert outputs(f"{base[store]}/{kind}", tmp_path / "remote") == expected
    with open_source(f"{base[store]}/{kind}") as source, open_source(root / local) as other:
        assert [item.name for item in source.items] == [item.name for item in other.items]
        hidden = store == "http" and kind in ("val", "val/")  # nginx does not list them
        assert len(source.skipped) == len(other.skipped) - hidden
        assert source.read_labels() == other.read_labels()
        assert source.read(source.items[3]) == other.read(other.items[3])
    assert not fetched.threads()


@pytest.mark.parametrize("program", ["nginx", "python"])
def test_the_names_and_the_order_of_index_pages_are_those_of_the_folder(
    tmp_path: Path, program: str
) -> None:
    """Also where a URL encodes a character, and where a name is no UTF-8."""
    root = tmp_path / "root"
    names = ["cat (1).jpg", "cat!.jpg", "zebra.jpg", "écureuil.jpg", "a (b)/c.jpg", "a!/d.jpg"]
    names += ["a.b/e.jpg", "été/sub.jpg", "🐈.jpg", "日本.jpg", "100%25.jpg", "q?r#s.jpg"]
    names += map(os.fsdecode, (b"caf\xe9.jpg", b"\xff\xc3/\xe9.jpg"))
    for name, data in zip(names, GOOD.values(), strict=False):
        folder, _, file = name.rpartition("/")
        folders.write(root / folder, {file: data})
    local = outputs(root, tmp_path / "local")
    assert len(local[0]) == len(names)
    is_nginx = program == "nginx"
    with nginx.serving(root, tmp_path / "nginx") if is_nginx else web.python_serving(root) as url:
        assert outputs(f"{url}/", tmp_path / "remote") == local
        with open_source(url.replace("http:", "HTTP:")) as source, open_source(root) as other:
            assert [item.name for item in source.items] == [item.name for item in other.items]
            assert list(map(source.read, source.items)) == list(map(other.read, other.items))
        below = os.fsdecode(b"\xff\xc3")
        if is_nginx:  # http.server has other URLs for bytes that are no UTF-8
            with open_source(f"{url}/{below}/") as source:
                assert [item.name for item in source.items] == [os.fsdecode(b"\xe9")]
    first, second = (
        json.loads((tmp_path / folder / "zoofast-prep.json").read_text())["names"]
        for folder in ("local", "remote")
    )
    assert first == second


@pytest.mark.parametrize("store", ["http", "s3"])
def test_eval_writes_the_same_result(
    root: Path, server: str, bucket: Any, tmp_path: Path, store: str
) -> None:
    where = {"http": f"{server}/val.tar", "s3": "s3://bucket/data/val/"}[store]
    models.write_model(tmp_path / "m.onnx")
    folders.recipe_file(tmp_path, eval_case.SPEC)
    eval_case.write_labels(tmp_path / "labels.txt", [Path(name).stem for name in GOOD])
    words = ["eval", tmp_path / "m.onnx", where, tmp_path / "labels.txt"]
    words += ["--recipe", tmp_path / "recipe.toml", "-o", tmp_path / "result.json", "--quiet"]
    done = in_process.zoofast(*words, "--journal", tmp_path / "journal")
    assert done.returncode == 1  # the bad files
    assert (tmp_path / "result.json").read_text() == eval_case.result_of(GOOD)


def test_hugging_face_hub_gives_what_the_folder_gives(root: Path, tmp_path: Path) -> None:
    """In a process of its own, since huggingface_hub reads its settings when it is imported."""
    script = """if True:
        import sys
        from pathlib import Path
        from tests.preprocess.test_remote import outputs
        from tests.support import hub
        from zoofast.errors import SourceError
        from zoofast.preprocess.sources import open_source
        root, out = Path(sys.argv[1]), Path(sys.argv[2])
        for kind in ("val", "val.tar", "val.tar.gz", "rows"):
            expected = outputs(root / kind, out / "local" / kind)
            assert expected[0] and outputs(f"{hub.URL}/{kind}", out / "hub" / kind) == expected
        for url in (f"{hub.URL}/gone.tar", "hf://datasets/me/gone/val.tar"):
            try:
                open_source(url)
            except SourceError as error:
                assert f"{url}: not found" in str(error), error
            else:
                raise AssertionError(url)
    """
    with web.serving(hub.answers(root)) as server:
        environment = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_1", "HF_HOME": str(tmp_path)}
        subprocess.run(
            [sys.executable, "-c", script, root, tmp_path],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
        path = f"/datasets/{hub.REPOSITORY}/resolve/main/val.tar"
        assert server.sent[path] <= 2 * len(server.files[path])  # to list it, and to read it
        tokens = {token for asked, _, token in server.requests if asked == path}
        assert tokens == {"Bearer hf_1"}


def test_a_killed_run_goes_on(server: str, root: Path, tmp_path: Path) -> None:
    """Against a slow server, which then gets faster. What was done is not fetched again.

    The images need many requests, so that the first answers are there long before the last.
    """
    recipe = folders.recipe_file(tmp_path)
    pictures = [jpegs.jpeg(300, 400, i, quality=95) for i in range(20)]
    files = {f"{i:03d}.JPEG": pictures[i % 20] for i in range(300)}
    tars.make_labelled(root / "long.tar", files)
    out = tmp_path / "out"
    words = [eval_case.ZOOFAST, "prep", f"{server}/slow/long.tar", out, "--recipe", recipe]
    with subprocess.Popen(list(map(str, words))) as run:
        deadline = time.monotonic() + 300
        while len(folders.sums(out, ".bin") if out.is_dir() else ()) < 8:
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
    done = len(folders.sums(out, ".bin"))
    assert 8 <= done < len(files)
    again = ["prep", f"{server}/long.tar", out, "--recipe", recipe, "--resume"]
    ended = in_process.zoofast(*again, "--json", tmp_path / "report.json")
    assert ended.returncode == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["resumed"], report["prepared"]) == (done, len(files) - done)
    expected, _ = outputs(root / "long.tar", tmp_path / "local")
    assert folders.sums(out, ".bin") == expected


@pytest.mark.parametrize("kind", ["val.tar", "val.tar.gz", "rows/val-0.parquet"])
def test_servers_that_fail_now_and_then(tmp_path: Path, root: Path, kind: str) -> None:
    """Cut connections, 429 and 503: the same bins. Then the file changes: failures that say so."""
    waits: list[float] = []
    data = (root / kind).read_bytes()
    expected = outputs(root / kind, tmp_path / "local")
    with web.serving({f"/{kind}": data}) as server:
        with open_source(f"{server.url}/{kind}") as source:
            source.store.sleep = waits.append  # type: ignore[attr-defined]
            server.faults.extend([503, ("cut", 5000), ("cut", 0), 429, ("cut", 20_000)])
            report = prepare_folder(source, tmp_path / "out", RECIPE, PrepOptions(threads=2))
            failed = sorted((f.name, f.cause) for f in report.failures)
            assert (folders.sums(tmp_path / "out", ".bin"), failed) == expected
            assert len(waits) >= 3 and not server.faults  # a short answer is not cut
            server.files[f"/{kind}"] = data + b"x" * 512
            report = prepare_folder(source, tmp_path / "new", RECIPE, PrepOptions(threads=2))
        changed = f"it changed after it was listed: it has {len(data) + 512:,} bytes now"
        assert len(report.failures) == len(expected[0]) + len(expected[1])
        assert all(changed in f.reason and ".JPEG" in f.path for f in report.failures)


def test_errors_of_stores_name_the_url(server: str, bucket: Any, tmp_path: Path) -> None:
    for where, words in {
        f"{server}/gone.tar": r"/gone.tar: not found \(HTTP status 404\)",
        f"{server}/gone-*.tar": r"/gone-\*.tar: no file matches",
        f"{server}/val.tar.7z": r"/val.tar.7z: not found \(HTTP status 404\)",
        f"{server}/gone/": r"/gone/: not found \(HTTP status 404\)",
        f"{server}/empty/": "/empty/: no images",
        "s3://bucket/gone.tar": "s3://bucket/gone.tar: not found",
        "s3://bucket/nothing/": "s3://bucket/nothing/: no images",
        "s3://no-bucket/val/": "s3://no-bucket/val/?: (not found|no images)",
        "unknown://x/y": "unknown://x/y: .*not known",
        "gs://x/y": "gs://x/y: .*gcsfs",
    }.items():
        with pytest.raises(SourceError, match=words):
            open_source(where)


def test_objects_that_change_or_go(bucket: Any, tmp_path: Path) -> None:
    names = sorted(GOOD)[:4]
    for name in names:
        bucket.pipe(f"bucket/live/{name}", GOOD[name])
    with open_source("s3://bucket/live") as source:
        bucket.rm(f"bucket/live/{names[1]}")
        bucket.pipe(f"bucket/live/{names[2]}", GOOD[names[2]][:-9])
        with Loader(source, RECIPE, threads=1) as loader:
            (batch,) = loader
    assert batch.names == [Path(names[i]).stem for i in (0, 3)]
    reasons = {f.path: f.reason for f in batch.failures}
    assert reasons == {
        f"s3://bucket/live/{names[1]}": "not found",
        f"s3://bucket/live/{names[2]}": "it changed after it was listed: it has another size now",
    }


def test_a_tar_of_a_bucket_that_is_replaced(bucket: Any, root: Path, tmp_path: Path) -> None:
    """By one of the same size, after it was listed: each of its images fails, by name."""
    for i in range(2):
        bucket.put(f"{root}/shard-{i:02d}.tar", f"bucket/moving/shard-{i}.tar")
    data = bucket.cat_file("bucket/moving/shard-1.tar")
    with open_source("s3://bucket/moving/shard-*.tar") as source:
        names = [item.name for item in source.items if item.archive == 1]
        another = type(bucket)(skip_instance_cache=True)
        another.pipe("bucket/moving/shard-1.tar", data[:-1] + b"x")
        report = prepare_folder(source, tmp_path, RECIPE, PrepOptions(threads=1))
    changed = {f.name: f.reason for f in report.failures if f.cause == "unreadable"}
    assert sorted(changed) == sorted(names)
    assert set(changed.values()) == {"it changed after it was listed: it has another ETag or time"}


def test_members_larger_than_the_read_ahead_take_the_memory_of_a_few(
    server: str, root: Path, request: pytest.FixtureRequest
) -> None:
    """16 members of 64 MB, in a process that never holds eight of them."""
    request.addfinalizer((root / "large.tar").unlink)
    with (root / "large.tar").open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(16):
            info = tarfile.TarInfo(f"{i}.JPEG")
            info.size = 64_000_000
            file.write(info.tobuf())
            file.truncate(file.seek(64_000_000, 1))
        tar.offset = file.tell()
    script = """if True:
        import re, sys
        from pathlib import Path
        from zoofast import Loader, load_recipe, open_source
        def peak():  # not ru_maxrss, which begins at the value of the parent process
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        before = peak()
        with open_source(sys.argv[1]) as source:
            with Loader(source, load_recipe("squeezenet1_1"), batch_size=1, threads=1) as loader:
                causes = [failure.cause for batch in loader for failure in batch.failures]
        assert causes == ["not an image"] * 16, causes
        print(peak() - before)
    """
    command = [sys.executable, "-c", script, f"{server}/large.tar"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 64_000_000 < int(ended.stdout) * 1024 < 8 * 64_000_000


SECRETS = ("s3cr3t", "passw0rd", "X-Sig")


@pytest.mark.parametrize("fault", [None, 404, 503, ("tag", "x")])
def test_no_message_or_file_holds_a_secret(
    root: Path, tmp_path: Path, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of prep, eval and profile, whether they end well or not."""
    monkeypatch.setattr("zoofast.preprocess.sources.stores.FIRST_DELAY", 0.001)
    monkeypatch.chdir(tmp_path)
    models.write_model(tmp_path / "m.onnx")
    recipe = folders.recipe_file(tmp_path, eval_case.SPEC)
    with web.serving({"/val.tar": (root / "val.tar").read_bytes()}) as server:
        url = server.url.replace("//", "//me:passw0rd@") + "/val.tar?X-Sig=s3cr3t%2F&b=1"
        prep = f"prep {url} out --recipe {recipe} --json prep.json"
        judge = f"eval m.onnx {url} --labels-from source --recipe {recipe} --journal journal"
        judge += " --json eval.json -o result.json --report eval.html"
        profile = f"profile {url} --recipe {recipe} --seconds 0.01 --only-recipe"
        profile += " --json profile.json --report profile.html"
        wrong = f"prep {url} out2 --recipe {recipe} --nonsense={url}"
        for command in (prep, judge, profile, wrong):
            if fault is not None:
                server.faults.extend([fault] * 30 if fault != ("tag", "x") else [None, fault])
            ended = in_process.zoofast(*command.split())
            assert ended.returncode == (2 if command == wrong else 1) or fault is not None
            assert not any(secret in ended.stdout + ended.stderr for secret in SECRETS)
            server.faults.clear()
        assert any("X-Sig=s3cr3t%2F&b=1" in path for path, _, _ in server.requests)
        assert any(authorization for _, _, authorization in server.requests)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert not any(secret.encode() in text for secret in SECRETS), path


def test_compressed_tars_one_after_the_other(root: Path, tmp_path: Path) -> None:
    """The end of a tar, which is not read, disturbs no other: a request reads each."""
    waits: list[float] = []
    names = [f"shard-{i:02d}.tar" for i in range(3)]
    files = {f"/{name}.gz": gzip.compress((root / name).read_bytes()) for name in names}
    with (
        web.serving(files) as server,
        open_source(f"{server.url}/shard-{{00..02}}.tar.gz") as source,
    ):
        source.store.sleep = waits.append  # type: ignore[attr-defined]
        listed = len(server.requests)
        with Loader(source, RECIPE, threads=1) as loader:
            assert sum(len(batch.items) for batch in loader) == len(FILES)
        for item in (source.items[-1], source.items[0], source.items[9]):
            assert source.read(item) == FILES[item.name + ".JPEG"]
    assert len(server.requests) == listed + 3 + 3 and not waits


def test_a_server_without_ranges(server: str, root: Path, tmp_path: Path) -> None:
    """A tar is read from its start on, as a compressed one is; files are read whole."""
    for kind in ("val.tar", "val.tar.gz", "val/"):
        expected = outputs(root / kind, tmp_path / "local" / kind)
        assert outputs(f"{server}/plain/{kind}", tmp_path / "remote" / kind) == expected
    with pytest.raises(SourceError, match="sends no ranges of it; copy it to a disk"):
        open_source(f"{server}/plain/rows/val-0.parquet")
