"""A page in headless Chromium: its DOM, and what it wrote to the console."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]


class Page(HTMLParser):
    """The elements of a serialized DOM: (tag, attributes, own text), in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(len(self.elements))
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self.elements[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.elements[self._open[-1]][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(a, "".join(text)) for name, a, text in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "".join("".join(text) for tag, _, text in self.elements if tag != "style")


@dataclass
class Shown:
    page: Page
    console: list[str]


def _chromium(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    command = [program, *FLAGS, f"--user-data-dir={folder}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done


def show(html: Path) -> Shown:
    """Opens a page; skips where Chromium is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        done = _chromium(folder, "--dump-dom", html.as_uri())
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Shown(Page(done.stdout), console)


def screenshot(html: Path, to: Path, width: int, height: int) -> None:
    """Draws a page as a PNG of that size."""
    with tempfile.TemporaryDirectory() as folder:
        size = f"--window-size={width},{height}"
        _chromium(folder, size, f"--screenshot={to}", html.as_uri())
