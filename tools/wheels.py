"""Builds the sdist and the wheels of HEAD, and examines them; see docs/install.md.

    python tools/wheels.py [FOLDER]     FOLDER: default dist

Needs git, the packages of tools/wheels.txt and Python 3.11 or newer with its headers. All is built
twice, in different folders and with empty caches of the compiler: the bytes have to be the same.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheels"
GLIBC = "2.17"  # of 2012; manylinux2014
MACHINES = ("x86_64", "aarch64")
MAX_BYTES = 2_000_000
# Parts of glibc, which every Linux with glibc has. _acl opens CANN's library with libdl.
LIBRARIES = {"libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0"}


def fail(message: str) -> NoReturn:
    sys.exit(f"wheels: {message}")


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> str:
    """Standard output of a command. Ends this program with the command's messages if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        fail(f"{' '.join(words)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def main() -> None:
    if sys.version_info < (3, 11):
        fail("needs Python 3.11 or newer, for the stable ABI: make wheels PYTHON3=python3.12")
    output = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    commit = run("git", "rev-parse", "HEAD").strip()
    epoch = int(run("git", "show", "-s", "--format=%ct", "HEAD"))
    if run("git", "status", "--porcelain").strip():
        print("wheels: the working tree has changes that are not committed; HEAD is built")
    folders = [WORK / name for name in ("first", "again in another folder")]
    with ThreadPoolExecutor() as pool:
        built = list(pool.map(lambda folder: build(folder, commit, epoch), folders))
    for first, again in zip(*built, strict=True):
        if first.read_bytes() != again.read_bytes():
            fail(f"{first.name}: a second build of {commit} made other bytes: {again}")
    for wheel in built[0][1:]:
        examine(wheel)
    output.mkdir(parents=True, exist_ok=True)
    sums = []
    for path in built[0]:
        data = path.read_bytes()
        (output / path.name).write_bytes(data)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
        print(f"{output / path.name}: {len(data):,} bytes")
    (output / "SHA256SUMS").write_text("".join(sums))
    shutil.rmtree(WORK / "first")
    shutil.rmtree(WORK / "again in another folder")
    print(f"two builds of {commit} made the same bytes; linked: glibc {GLIBC} or newer only")


def build(folder: Path, commit: str, epoch: int) -> list[Path]:
    """Builds the sdist and, from the sdist, a wheel for each machine. Returns their paths."""
    shutil.rmtree(folder, ignore_errors=True)
    tree = folder / "tree"
    tree.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
    unpack(archive.stdout, tree)
    run(sys.executable, "setup.py", "-q", "sdist", "-d", folder, folder=tree)
    (sdist,) = folder.glob("*.tar.gz")
    tar = repack_sdist(sdist, epoch)
    unpack(tar, folder)
    source = folder / sdist.name.removesuffix(".tar.gz")
    wheels = []
    for machine in MACHINES:
        print(f"building for {machine} in '{folder.name}'", flush=True)
        command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", folder]
        run(
            *command,
            f"--plat-name=manylinux_{GLIBC.replace('.', '_')}_{machine}",
            folder=source,
            ZOOFAST_TARGET=f"{machine}-linux-gnu.{GLIBC}",
            SOURCE_DATE_EPOCH=str(epoch),
            ZIG_LOCAL_CACHE_DIR=str(folder / "zig-local"),
            ZIG_GLOBAL_CACHE_DIR=str(folder / "zig-global"),
        )
        shutil.rmtree(source / "build")
        (wheel,) = folder.glob(f"*_{machine}.whl")
        repack_wheel(wheel, commit, epoch)
        wheels.append(wheel)
    return [sdist, *wheels]


def unpack(data: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder)


def repack_sdist(path: Path, epoch: int) -> bytes:
    """Gives all members the commit's time and no owner, in order. Returns the tar file's bytes."""
    tar = io.BytesIO()
    with (
        tarfile.open(path) as old,
        tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    path.write_bytes(gzip.compress(tar.getvalue(), mtime=epoch))
    return tar.getvalue()


def repack_wheel(path: Path, commit: str, epoch: int) -> None:
    """Adds the list of parts and the licence of what is linked; gives members the commit's time."""
    import ziglang

    with zipfile.ZipFile(path) as old:
        files = {info.filename: old.read(info) for info in old.infolist() if not info.is_dir()}
    (metadata,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    info = metadata.removesuffix("/METADATA")
    zig = f"{info}/licenses/LICENSE-zig"
    files[zig] = Path(ziglang.__file__).with_name("LICENSE").read_bytes()
    files[metadata] = files[metadata].replace(
        b"License-File: LICENSE\n", b"License-File: LICENSE\nLicense-File: LICENSE-zig\n"
    )
    files[f"{info}/sboms/zoofast.cdx.json"] = sbom(path.name, files, commit, epoch)
    record = f"{info}/RECORD"
    del files[record]
    lines = []
    for name, data in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, data in files.items():
            member = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
            member.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            new.writestr(member, data, zipfile.ZIP_DEFLATED, 9)


def sbom(wheel: str, files: dict[str, bytes], commit: str, epoch: int) -> bytes:
    """The wheel's parts as CycloneDX 1.6: the extensions, and foreign code that is in them."""
    number = wheel.split("-")[1]
    apache = [{"license": {"id": "Apache-2.0"}}]
    extensions = [
        {
            "type": "file",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}],
        }
        for name, data in sorted(files.items())
        if name.endswith(".so")
    ]
    linked = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version(name)}",
            "name": name,
            "version": version(name),
            "purl": f"pkg:pypi/{name}@{version(name)}",
            "description": description,
            "licenses": licence,
        }
        for name, description, licence in (
            ("cython", "its support code is in the extensions", apache),
            ("ziglang", "its compiler_rt is in the extensions", [{"license": {"id": "MIT"}}]),
        )
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{commit}/{wheel}')}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "component": {
                "type": "library",
                "bom-ref": "zoofast",
                "name": "zoofast",
                "version": number,
                "purl": f"pkg:pypi/zoofast@{number}",
                "licenses": apache,
                "properties": [{"name": "commit", "value": commit}],
            },
        },
        "components": [*extensions, *linked],
        "dependencies": [{"ref": "zoofast", "dependsOn": [part["bom-ref"] for part in linked]}],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def examine(wheel: Path) -> None:
    """Ends this program unless the wheel is what its name promises, small, and links only glibc."""
    from elftools.elf.elffile import ELFFile

    if wheel.stat().st_size > MAX_BYTES:
        fail(f"{wheel.name} has {wheel.stat().st_size:,} bytes; {MAX_BYTES:,} are allowed")
    with zipfile.ZipFile(wheel) as file:
        if file.testzip() is not None:
            fail(f"{wheel.name}: damaged")
        names = file.namelist()
        extensions = [name for name in names if name.endswith(".so")]
        if len(extensions) != 3:
            fail(f"{wheel.name}: has the extensions {extensions}; three are expected")
        if strays := [name for name in names if name.endswith((".c", ".pyx", ".pxd", ".h"))]:
            fail(f"{wheel.name}: has files that only building needs: {strays}")
        for name in extensions:
            dynamic = ELFFile(io.BytesIO(file.read(name))).get_section_by_name(".dynamic")
            needed = {tag.needed for tag in dynamic.iter_tags("DT_NEEDED")}
            if needed - LIBRARIES:
                fail(f"{wheel.name}: {name} links {sorted(needed - LIBRARIES)}")
    tag = wheel.stem.rpartition("-")[2]
    shown = run(sys.executable, "-m", "auditwheel", "show", wheel)
    if f'platform tag: "{tag}"' not in " ".join(shown.split()):
        fail(f"{wheel.name}: auditwheel does not find the platform {tag}: {shown}")
    run(sys.executable, "-m", "abi3audit", "--strict", wheel)


if __name__ == "__main__":
    main()
