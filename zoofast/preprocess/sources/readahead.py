"""Reading ahead, for sources whose bytes Python fetches.

A source is *fetched* when the C core cannot read its images in place: objects of a store, members
of a compressed tar, rows of a Parquet file. A new one is written so:

1. Derive a class from FetchedSource, and give each item its `nbytes`, if known.
2. Write `open_reader(items, max_bytes)`: part `items` into streams, and return
   `ReadAhead(streams, threads)`. A stream gives its items' bytes in order, or the OSError that says
   why an item has none: a `ValueError` or any other exception ends the run. It gives together the
   items that it has at once, since each time costs a lock. What a memoryview shows must not change;
   the memory that it keeps is not counted.
   - Items that can be fetched independently, such as objects: a stream for each few items, and
     `threads` as many as requests may be under way.
   - Items that come one after the other, such as members of a compressed tar: a stream for each
     file. It gives items as soon as it has them, and waits where the reader is full. For local
     files, `read_local(streams)` chooses how many threads.
3. Write `read(item, max_bytes)` for a single image.
4. Write `cache_key(item)` if something tells that an item's bytes have changed, such as an ETag: a
   cache then keeps its pixels. Members of archives need only `stamps`, see Source.

The loader does the rest. An item's OSError becomes that image's Failure, with `strerror` as the
reason; errno EFBIG is for an image of more than `max_bytes` bytes, which is not to be fetched.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from zoofast.base.cpus import usable_cpus

MAX_AHEAD_BYTES = 64_000_000  # fetched and not yet taken
MAX_AHEAD_ITEMS = 1024
LOCAL_AHEAD_BYTES = 16_000_000  # by each thread, see read_local
CPUS_PER_THREAD, MAX_LOCAL_THREADS = 4, 8

Fetched = bytes | memoryview | OSError


@dataclass(frozen=True)
class Stream:
    """Fetches `count` items in a thread: `produce()` gives the bytes, or the OSError, of some items
    at a time, in order.

    If `produce` raises OSError, all items that it has not given fail with this error. nbytes: what
    it has in memory at once before it gives the first item; 0 for a stream that has one item at a
    time.
    """

    count: int
    produce: Callable[[], Generator[Sequence[Fetched], None, None]]
    nbytes: int = 0


class ReadAhead:
    """What `streams` fetch, in their order, by `threads` threads: a context manager.

    At most `max_bytes` bytes and `max_items` items wait to be taken. The stream of the next item
    may exceed this limit by what it gives at once. `close` waits for the threads; `on_close` is
    called before, and ends what they wait for; `on_closed` is called after.
    """

    def __init__(
        self,
        streams: Iterable[Stream],
        threads: int,
        *,
        max_bytes: int = MAX_AHEAD_BYTES,
        max_items: int = MAX_AHEAD_ITEMS,
        on_close: Callable[[], None] = lambda: None,
        on_closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._max_bytes, self._max_items = max_bytes, max_items
        self._on_close, self._on_closed = on_close, on_closed
        self._process = os.getpid()
        lock = threading.Lock()  # guards all below
        self._arrived = threading.Condition(lock)  # an item, or an error
        self._space_freed = threading.Condition(lock)
        self._streams = (stream for stream in streams if stream.count)
        self._upcoming = next(self._streams, None)
        self._next = 0  # the number of the upcoming stream
        self._running: dict[int, _Running] = {}  # streams that began and are not taken to the end
        self._head = 0  # the stream that items are taken of
        self._nbytes = self._items = 0  # fetched or about to be, and not yet taken
        self._error: BaseException | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"fetch {i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops what is fetched and ends the threads. In a process made by fork: does nothing."""
        if os.getpid() != self._process:
            return  # the threads, and the connections that `on_close` ends, are the parent's
        with self._arrived:
            self._closed = True
            self._space_freed.notify_all()
        self._on_close()
        for thread in self._threads:
            thread.join()
        self._on_closed()
        self._running.clear()

    def wait(self) -> None:
        """Waits until the bytes of the next item are there. Raises as `take`."""
        self._check_process()
        with self._arrived:
            while self._ready() is None:
                self._arrived.wait()

    def take(self, count: int = 1, wait: bool = True) -> list[Fetched]:
        """The bytes of the next items, or their OSErrors: those that are there of `count`.

        There are none only if none is there yet and `wait` is False. Raises what a stream raised,
        but for an OSError; IndexError after the last item.
        """
        if wait:
            self.wait()
        self._check_process()
        with self._arrived:
            head = self._ready()
            if head is None:
                return []
            if len(head.ready) <= count:
                fetched = list(head.ready)
                head.ready.clear()
            else:
                fetched = [head.ready.popleft() for _ in range(count)]
            head.left -= len(fetched)
            self._nbytes -= nbytes_of(fetched)
            self._items -= len(fetched)
            if head.left == 0:
                del self._running[self._head]
                self._head += 1
                head = self._running.get(self._head)
            # Threads wait until half of the space is free: each would wake for each item otherwise.
            is_half_free = (
                2 * self._nbytes <= self._max_bytes and 2 * self._items <= self._max_items
            )
            if is_half_free or head is None or not head.ready:
                self._space_freed.notify_all()
            return fetched

    def _check_process(self) -> None:
        """Before the lock, which a process made by fork may find locked."""
        if os.getpid() != self._process:
            raise RuntimeError("a reader's threads are not in a process made by fork")

    def _ready(self) -> _Running | None:
        """The stream of the next item, if its bytes are there. Raises as `take`."""
        head = self._running.get(self._head)
        if head is not None and head.ready:
            return head
        if self._error is not None:
            raise self._error
        if head is None and self._upcoming is None:
            raise IndexError("no items are left")
        return None

    def _work(self) -> None:
        try:
            while (begun := self._begin()) is not None:
                number, stream = begun
                with closing(_all_of(stream)) as results:
                    for fetched in results:
                        if not self._put(number, fetched):
                            return
        except BaseException as error:  # the thread that takes items raises it
            with self._arrived:
                self._error = error
                self._arrived.notify_all()

    def _begin(self) -> tuple[int, Stream] | None:
        """The next stream and its number, once there is space for it; None at the end."""
        with self._space_freed:
            while True:
                stream = self._upcoming
                if self._closed or stream is None:
                    return None
                if self._next == self._head or self._fits(stream.nbytes):
                    break
                self._space_freed.wait()
            number = self._next
            self._upcoming = next(self._streams, None)
            self._next += 1
            self._running[number] = _Running(stream.count, stream.nbytes)
            self._nbytes += stream.nbytes
            return number, stream

    def _put(self, number: int, fetched: Sequence[Fetched]) -> bool:
        """Keeps items of a stream once there is space; False when the reader is closed."""
        nbytes = nbytes_of(fetched)
        with self._space_freed:
            running = self._running[number]
            more = max(0, nbytes - running.reserved)
            while not self._closed:
                is_awaited = number == self._head and not running.ready
                if is_awaited or self._fits(more):
                    break
                self._space_freed.wait()
            running.reserved -= nbytes - more
            running.ready += fetched
            self._nbytes += more
            self._items += len(fetched)
            if len(running.ready) == running.left:  # the last one
                self._nbytes -= running.reserved
                running.reserved = 0
            if number == self._head:
                self._arrived.notify_all()
            return not self._closed

    def _fits(self, nbytes: int) -> bool:
        return self._nbytes + nbytes <= self._max_bytes and self._items < self._max_items


def read_local(streams: Sequence[Stream]) -> ReadAhead:
    """Reads streams of files on this machine, which take CPUs to decompress or decode.

    The computing threads need the same CPUs, and what is only a little ahead stays in their caches.
    """
    threads = min(1 + usable_cpus() // CPUS_PER_THREAD, MAX_LOCAL_THREADS)
    return ReadAhead(streams, threads, max_bytes=threads * LOCAL_AHEAD_BYTES)


@dataclass
class _Running:
    """A stream that began: the items to be taken, and the bytes of items to come."""

    left: int
    reserved: int
    ready: deque[Fetched] = field(default_factory=deque)


def nbytes_of(fetched: Sequence[Fetched | None]) -> int:
    """The bytes of items; an error, and what was not fetched, have none."""
    return sum([len(each) for each in fetched if each and not isinstance(each, OSError)])


def _all_of(stream: Stream) -> Generator[Sequence[Fetched], None, None]:
    """The stream's results. After an OSError, it is the result of each item that is left."""
    left = stream.count
    try:
        with closing(stream.produce()) as results:
            for fetched in results:
                left -= len(fetched)
                yield fetched
    except OSError as error:
        if left > 0:
            yield [error] * left
            left = 0
    if left != 0:
        raise RuntimeError(f"a stream of {stream.count} items gave {stream.count - left}")
