"""All that zoofast writes to the terminal: lines, tables, progress, and results as data.

Texts may hold names of files, which may hold anything; every text is escaped here.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from zoofast.base.files import write_pieces
from zoofast.base.json_text import json_pieces
from zoofast.base.nodes import NodeReport
from zoofast.base.text import counted, escaped, shown
from zoofast.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text


class _StandardOutput(str):
    """The name of a file that stands for standard output; other names may equal it."""


STDOUT = _StandardOutput("-")
INTERRUPTED = 130  # the exit code of an interrupted command
MIN_BAR, TIME_LEFT = 10, 8  # columns of the terminal
MAX_WIDTH, MIN_TEXT = 1000, 8  # of a table, and of a column of text in it
# What a terminal shows whose encoding lacks the character; other characters become escapes.
REPLACEMENTS = {"µ": "u", "×": "x", "÷": "/", "→": "->", "…": "...", "–": "-", "−": "-", "·": "."}


# ---- standard output and standard error --------------------------------------------------


class _Closed(io.StringIO):
    """Stands for a stream that the shell has closed, as `>&-` does. What is written is lost."""


class _Stream:
    """Standard output or standard error, as a text stream that fails in a defined way.

    A closed pipe (`| head`) is no error: whoever reads it has seen enough, and the work goes on.
    Another error, such as a full disk, raises OutputError once if `raises`.
    """

    def __init__(self, stream: TextIO, name: str, raises: bool) -> None:
        self._stream, self._name, self._raises = stream, name, raises
        self.is_closed = isinstance(stream, _Closed)

    def write(self, text: str) -> int:
        with self._errors():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._errors():
            self._stream.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._discard()
            if self._raises and error.errno != errno.EPIPE:
                raise OutputError(f"{self._name}: {error.strerror}") from error

    def _discard(self) -> None:
        """Sends the rest to nowhere, also what the stream's buffer still holds."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs; ends the text of an UnicodeEncodeError in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(REPLACEMENTS.get(c) or escaped(c) for c in characters), error.end


codecs.register_error("zoofast.replace", _replace)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Within the block, printing never raises UnicodeEncodeError or BrokenPipeError.

    Characters that the encoding of the terminal lacks are replaced. A full disk behind standard
    output raises OutputError, at the latest at the end of the block.
    """
    streams = []
    for stream, name, raises in (
        (sys.stdout, "standard output", True),
        (sys.stderr, "standard error", False),
    ):
        if stream is None:
            stream = _Closed()
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="zoofast.replace")
        streams.append(cast(TextIO, _Stream(stream, name, raises)))
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        yield
        streams[0].flush()


@contextmanager
def only_data_on_stdout(active: bool) -> Iterator[None]:
    """Within the block, what people read goes to standard error, so that standard output holds
    only what `write_result` writes. Raises OutputError where standard output is closed."""
    global _data_stream
    if not active:
        yield
        return
    if isinstance(sys.stdout, _Stream) and sys.stdout.is_closed:
        raise OutputError("standard output is closed; name a file instead of -")
    before, _data_stream = _data_stream, sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _data_stream = before


_data_stream: TextIO | None = None


def write_result(path: str, text: str) -> None:
    """Writes to a file, whole or not at all; to standard output where path is STDOUT."""
    _write(path, [text])


def write_json(path: str, content: Any) -> None:
    """`content` as JSON, as `write_result` writes it. Its values may be Strings."""
    _write(path, json_pieces(content))


def _write(path: str, pieces: Iterable[str]) -> None:
    if path is STDOUT:
        stream = _data_stream or sys.stdout
        for piece in pieces:
            stream.write(piece)
        stream.flush()
    else:
        write_pieces(path, pieces)


# ---- lines and tables --------------------------------------------------------------------


def say(*lines: str) -> None:
    """Prints lines on standard output."""
    for line in lines:
        print(shown(line))


def explain(*sentences: str) -> None:
    """Prints each text on standard output; on a terminal, a line ends between two words."""
    width = terminal_width()
    for text in sentences:
        print(textwrap.fill(shown(text), width, break_long_words=False, break_on_hyphens=False))


def say_command(command: str) -> None:
    """Prints a shell command, indented. On a terminal that is too narrow, it goes on in the next
    line behind a backslash."""
    lines, max_length = [""], terminal_width() - len("   \\")
    for word in re.findall(r"#.*|(?:-\S+ )?(?:'[^']*'|[^\s'])+", shown(command)):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > max_length:
            lines.append("    " + word)
        else:
            lines[-1] += " " * bool(lines[-1]) + word
    print("  " + " \\\n  ".join(lines))


def warn(text: str) -> None:
    """Prints a line that begins with "zoofast:" on standard error."""
    print(f"zoofast: {shown(text)}", file=sys.stderr, flush=True)


def warn_of_failures(failures: Sequence[object], limit: int, where: str = "") -> None:
    """Names failures on standard error, at most `limit`. where: the file that has all."""
    for failure in failures[:limit]:
        warn(f"failed: {failure}")
    if len(failures) > limit:
        warn(f"and {len(failures) - limit} more" + (f"; {where} has all" if where else ""))


def styled(text: str, style: str) -> Text:
    """A line of text as a cell of a Table. style: such as "red" or "bold"."""
    from rich.text import Text

    return Text(shown(text), style=style)


def stacked(*lines: str | Text) -> Text:
    """Several lines as one cell of a Table."""
    from rich.text import Text

    return Text("\n").join(styled(line, "") if isinstance(line, str) else line for line in lines)


class Table:
    """Cells of plain text under headings; without headings, names and values.

    words: so many columns from the left are text; the others are numbers, aligned right. frame:
    lines around the cells.
    """

    def __init__(self, *headings: str, title: str = "", words: int = 1, frame: bool = True) -> None:
        from rich import box
        from rich.table import Table as RichTable

        self._title = title
        self._table = RichTable(
            box=box.HEAVY_HEAD if frame else None, pad_edge=frame, show_header=any(headings)
        )
        if not headings:
            self._table.add_column(overflow="fold", style="bold")
            self._table.add_column(overflow="fold", justify="right")
        for i, heading in enumerate(headings):
            justify: Literal["left", "right"] = "right" if i >= words else "left"
            self._table.add_column(styled(heading, ""), justify=justify, overflow="fold")
        self._numbers = self._table.columns[words:] if headings else []

    def add(self, *cells: str | Text, style: str | None = None) -> None:
        """A row. style: of all its cells, such as "red"."""
        texts = [styled(cell, "") if isinstance(cell, str) else cell for cell in cells]
        self._table.add_row(*texts, style=style)
        for column, text in zip(
            self._numbers, texts[len(texts) - len(self._numbers) :], strict=True
        ):
            width = max((line.cell_len for line in text.split("\n")), default=0)
            column.min_width = max(column.min_width or 0, width)  # numbers are not broken

    def _keep_numbers(self) -> int:
        """Fixes the columns of numbers, so that only text is broken; returns the least width."""
        for column in self._numbers:
            words = str(column.header).split()
            column.width = max([column.min_width or 0, *map(len, words)])
        texts = len(self._table.columns) - len(self._numbers)
        return texts * (MIN_TEXT + 3) + sum((column.width or 0) + 3 for column in self._numbers) + 1

    def add_line(self) -> None:
        """A line below the last row."""
        self._table.add_section()

    def print(self) -> None:
        """Prints the table, as wide as the terminal; wider only if numbers would be cut. Where
        there is no terminal, the table is as wide as its cells."""
        from rich.measure import Measurement

        console = _console()
        wide = console.options.update(max_width=MAX_WIDTH)
        natural = Measurement.get(console, wide, self._table).maximum
        width = min(terminal_width(), natural)
        if width < natural:
            width = max(width, self._keep_numbers())
        if self._title:
            console.print(styled(self._title, "bold"), soft_wrap=True)
        _console(width=width).print(self._table)


def print_nodes(nodes: Sequence[NodeReport]) -> None:
    """A row for each node of a cluster."""
    any_lost = any(node.lost for node in nodes)
    headings = ["node", "threads", "tasks", "images", "images/s", *(["given up"] * any_lost)]
    table = Table(*headings, title="nodes")
    for node in nodes:
        row = [node.name, str(node.threads), str(node.tasks), f"{node.images:,}"]
        row.append(f"{node.images_per_second:,.0f}")
        if any_lost:
            row.append("yes" if node.lost else "")
        table.add(*row)
    table.print()


def warn_of_misreads(nodes: Sequence[NodeReport]) -> None:
    """Names an image for each node that is still in use and could not read all of its images."""
    for node in nodes:
        if node.misread and not node.lost:
            tasks = counted(len(node.misread), "task")
            warn(
                f"{node.name}: could not read images of {tasks}, such as {node.misread[0]}; other "
                "nodes read them"
            )


def terminal_width() -> int:
    """Columns of the terminal; MAX_WIDTH where there is none."""
    console = _console()
    return console.width if console.is_terminal or "COLUMNS" in _environment() else MAX_WIDTH


def _console(stderr: bool = False, width: int | None = None) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, width=width, highlight=False, _environ=_environment())


def _environment() -> dict[str, str]:
    """The environment without a COLUMNS or LINES that is no size: some shells of editors set 0,
    which rich would take for the width."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "LINES") or re.fullmatch("[1-9][0-9]{0,4}", value)
    }


# ---- progress ----------------------------------------------------------------------------


class Meter:
    """Counts items and bytes. `progress` makes one."""

    def __init__(self, what: str, total: int, console: Console) -> None:
        self.what, self.total, self.done, self.nbytes = what, total, 0, 0
        self._resumed = 0
        self._console = console
        self._begin = time.monotonic()
        self._bar: Progress | None = None

    def begin(self, resumed: int = 0) -> None:
        """Starts the clock of the rate; without this call, it starts when the block begins.

        resumed: items that an earlier run did. They count in the total, and not in the rate.
        """
        self._begin, self._resumed, self.done = time.monotonic(), resumed, resumed

    def advance(self, items: int, nbytes: int = 0, notes: Sequence[str] = ()) -> None:
        """Counts `items` more, of `nbytes` bytes. notes: shown beside the rate as far as the line
        has space, the most important first."""
        self.done += items
        self.nbytes += nbytes
        if self._bar is None:
            return
        seconds = max(time.monotonic() - self._begin, 1e-9)
        parts = [f"{(self.done - self._resumed) / seconds:,.0f}/s", *map(shown, notes)]
        if self.nbytes:
            parts.append(f"{self.nbytes / seconds / 1e6:,.1f} MB/s")
        rate = self._fitting(parts)
        self._bar.update(self._bar.task_ids[0], completed=self.done, rate=rate)

    def _fitting(self, parts: list[str]) -> str:
        counts = len(self.what) + 2 * len(str(self.total)) + 1
        space = self._console.width - counts - MIN_BAR - TIME_LEFT - 4  # between the columns
        while len(parts) > 1 and len("  ".join(parts)) > space:
            parts = parts[:-1]
        return "  ".join(parts)


@contextmanager
def progress(what: str, total: int, quiet: bool = False) -> Iterator[Meter]:
    """A Meter over `total` items, with a bar on standard error if that is a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = _console(stderr=True)
    meter = Meter(what, total, console)
    if quiet or not console.is_terminal:
        yield meter
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        bar.add_task(what, total=total, rate="")
        meter._bar = bar
        yield meter


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """For work without a count: on a terminal, shows `what` and the elapsed time. Yields a
    function that changes `what`."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = _console(stderr=True)
    if not console.is_terminal:
        yield lambda what: None
        return
    spinner = Progress(
        SpinnerColumn("line" if console.options.ascii_only else "dots"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with spinner:
        task = spinner.add_task(shown(what), total=None)
        yield lambda what: spinner.update(task, description=shown(what))
