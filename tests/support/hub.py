"""What Hugging Face's hub answers for one data set, as files of a web server (see web)."""

from __future__ import annotations

import json
from pathlib import Path

REPOSITORY = "me/set"
URL = f"hf://datasets/{REPOSITORY}"


def answers(root: Path) -> dict[str, bytes]:
    """The hub's answers by path: about the data set, of all files of `root`, and each file."""
    api, branch = f"/api/datasets/{REPOSITORY}", "main"
    found = {api: json.dumps({"id": REPOSITORY, "sha": "0" * 40, "tags": []}).encode()}
    found[f"{api}/tree/{branch}"] = _tree(root, sorted(root.iterdir()))
    for folder in (path for path in root.iterdir() if path.is_dir()):
        tree = _tree(root, sorted(folder.rglob("*")))
        found[f"{api}/tree/{branch}/{folder.name}"] = tree
    for path in root.rglob("*"):
        if path.is_file():
            name = path.relative_to(root).as_posix()
            found[f"/datasets/{REPOSITORY}/resolve/{branch}/{name}"] = path.read_bytes()
    return found


def _tree(root: Path, paths: list[Path]) -> bytes:
    entries = [
        {
            "type": "directory" if path.is_dir() else "file",
            "oid": f"{i:040x}",
            "size": 0 if path.is_dir() else path.stat().st_size,
            "path": path.relative_to(root).as_posix(),
        }
        for i, path in enumerate(paths)
    ]
    return json.dumps(entries).encode()
