"""How long work shows itself: a rich bar on a terminal, plain lines when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 10.0  # between two plain lines
LEAST_BAR, TIME_LEFT = 10, 8  # columns of the terminal


class Meter:
    """Counts items and bytes done. Use `progress(...)` to get one."""

    def __init__(self, what: str, total: int, console: Console, quiet: bool) -> None:
        self.what, self.total, self.done, self.nbytes = what, total, 0, 0
        self._kept = 0
        self._console, self._quiet = console, quiet
        self._begin = self._said = time.monotonic()
        self._bar: Progress | None = None

    def begin(self, kept: int = 0) -> None:
        """Rates count from now: what came before, such as loading a model, was no work on items.

        kept: items that are done since an earlier run, and count among the total only.
        """
        self._begin, self._kept, self.done = time.monotonic(), kept, kept

    def advance(self, items: int, nbytes: int = 0, notes: Sequence[str] = ()) -> None:
        """Says that `items` more are done, of `nbytes` bytes. notes: what stands beside the rate as
        far as the line has room, the most important first."""
        self.done += items
        self.nbytes += nbytes
        now = time.monotonic()
        seconds = max(now - self._begin, 1e-9)
        parts = [f"{(self.done - self._kept) / seconds:,.0f}/s", *notes]
        if self.nbytes:
            parts.append(f"{self.nbytes / seconds / 1e6:,.1f} MB/s")
        if self._bar is not None:
            rate = self._fitting(parts)
            self._bar.update(self._bar.task_ids[0], completed=self.done, rate=rate)
        elif not self._quiet and now - self._said >= PLAIN_SECONDS:
            self._said = now
            said = f"{self.what}: {self.done} of {self.total}, {'  '.join(parts)}"
            print(said, file=sys.stderr, flush=True)

    def _fitting(self, parts: list[str]) -> str:
        counts = len(self.what) + 2 * len(str(self.total)) + 1
        room = self._console.width - counts - LEAST_BAR - TIME_LEFT - 4  # the columns' gaps
        while len(parts) > 1 and len("  ".join(parts)) > room:
            parts = parts[:-1]
        return "  ".join(parts)


@contextmanager
def progress(what: str, total: int, quiet: bool = False) -> Iterator[Meter]:
    """A Meter over `total` items, drawn on standard error while the block runs."""
    console = Console(stderr=True)
    meter = Meter(what, total, console, quiet)
    if quiet or not console.is_terminal:
        yield meter
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        bar.add_task(what, total=total, rate="")
        meter._bar = bar
        yield meter


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Says on a terminal what goes on while the block runs, for work without a count.

    Gives a function that shows another text from then on.
    """
    with Console(stderr=True).status(what) as status:
        yield status.update
