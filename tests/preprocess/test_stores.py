"""What a store lists, and when its HTTP is left to aiohttp. Needs fsspec: slow tests."""

from __future__ import annotations

from typing import Any

import pytest

from zoofast.preprocess.sources.stores import Store

pytestmark = pytest.mark.slow


class Listing:
    """A file system whose listings are cached until they are invalidated."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.invalidate_cache = lambda key: self.calls.append("invalidate")

    def unstrip_protocol(self, key: str) -> str:
        return f"s3://{key}"

    def find(self, key: str, detail: bool) -> dict[str, Any]:
        self.calls.append("find")
        kinds = {"b/a.jpg": "file", "b/d": "directory", "b/o": "other"}
        return {name: {"type": kind, "size": 5, "ETag": "1"} for name, kind in kinds.items()}

    def glob(self, key: str) -> list[str]:
        self.calls.append("glob")
        return ["b/2", "b/1"]

    def info(self, key: str) -> dict[str, Any]:
        self.calls.append("info")
        return {"type": "file", "size": 5, "ETag": "1", "mtime": 3}


def test_listings_are_new_sorted_and_of_files() -> None:
    store: Any = Store.__new__(Store)
    store.fs, store.is_http, store.is_plain_http, store.dead = Listing(), False, False, 0
    store._host, store._outer = "", []
    assert [file.key for file in store.find("b")] == ["b/a.jpg"]
    assert store.glob("b/*") == ["b/1", "b/2"]
    assert store.info("b/1").version == "1"
    assert store.fs.calls == ["invalidate", "find", "invalidate", "glob", "invalidate", "info"]


def test_options_of_aiohttp_are_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    assert Store("http://host/x").is_plain_http
    for options in ({"client_kwargs": {"trust_env": True}}, {"ssl": False}):
        monkeypatch.setitem(fsspec.config.conf, "http", options)
        assert not Store("http://host/x").is_plain_http
    monkeypatch.setitem(fsspec.config.conf, "http", {"headers": {"X": "1"}})
    assert Store("http://host/x").is_plain_http
