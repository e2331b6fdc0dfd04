"""Gives ranges of the images to the nodes of a cluster, and takes what they answer.

Each node has an actor with the model loaded, and two tasks: the one that it computes, and the next.
What a lost node had is given to the others. A range that has failed three times ends the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoofast.base.nodes import NodeReport
from zoofast.base.text import counted
from zoofast.cluster.connection import FailedError, LostError, Node, RayCluster
from zoofast.cluster.ranges import MAX_ATTEMPTS, Range, Ranges, parts_of, task_images
from zoofast.cluster.work import (
    BLOCK_IMAGES,
    Done,
    EvalWork,
    Listed,
    Opened,
    PrepWork,
    Refused,
    names_of_block,
)
from zoofast.errors import BackendError
from zoofast.evaluation.answers import Places
from zoofast.preprocess.cache import PixelCache
from zoofast.preprocess.sources import Item

IN_FLIGHT = 2  # tasks of a node
WAIT_SECONDS = 0.5
JOIN_SECONDS = 2.0  # between two looks for new nodes
START_SECONDS = 120.0  # for a node to start its process, which waits for free CPUs
SILENT_SECONDS = 1800.0  # for a node to list the images and load the model, or to compute a task
MAX_STARTS = 3  # of a node's process
UNREADABLE = "unreadable"  # a cause of failures which may be the node's fault, not the image's
MAX_MISREADS = 3  # tasks of a node with images that other nodes can read; an error may pass

# The places of a task's images, what became of them, and the node that computed them.
Answer = tuple[Places, Done, NodeReport]


@dataclass(eq=False)
class _Member:
    """A node that takes part."""

    node: Node
    report: NodeReport
    actor: Any = None
    starts: int = 0
    has_model: bool = False  # the file's bytes were sent to the process
    has_begun: bool = False  # the process has answered
    opening: Any = None  # the call of `ping`, then of `open`
    heard: float = 0.0  # when the node last answered, or was idle; monotonic
    opened: Opened | None = None
    tasks: dict[Any, Range] = field(default_factory=dict)  # call -> what it computes, in order

    @property
    def in_play(self) -> bool:
        return not self.report.lost


class Driver:
    """The nodes of a cluster at work. A context manager, which ends their processes."""

    def __init__(
        self,
        cluster: RayCluster,
        work: EvalWork | PrepWork,
        items: Sequence[Item],
        read_model: Callable[[], NDArray[np.uint8]],
        threads: int | None = None,
        cache: PixelCache | None = None,
    ) -> None:
        """items: all that the work is about. read_model: reads the model's file, if a node lacks
        it. threads: of each node; None for the CPUs that Ray counts there. cache: its `tell` gets
        the warnings of the nodes' caches; None for a run without."""
        self._cluster, self._work, self._items = cluster, work, items
        self._read_model, self._threads, self._cache = read_model, threads, cache
        self._model: Any = None  # in Ray's object store
        self._members: dict[str, _Member] = {}
        self._joined = 0.0  # when nodes were last looked for, monotonic
        self._ranges = Ranges({})
        self._first: Opened | None = None
        self.lost_devices: dict[str, str] = {}  # node and device -> why
        self._has_dropped = False  # an answer of a node that could not read an image

    @property
    def reports(self) -> list[NodeReport]:
        return [member.report for member in self._members.values()]

    @property
    def concurrency(self) -> int:
        """How many batches the devices of all nodes compute at the same time."""
        members = self._members.values()
        return sum(member.opened.concurrency for member in members if member.opened)

    @property
    def lost(self) -> dict[str, str]:
        """Node, or its device -> why it was given up."""
        return self.lost_devices | {each.name: each.lost for each in self.reports if each.lost}

    @property
    def leaves_files(self) -> bool:
        """Whether nodes may have written files of which no answer tells."""
        return self._has_dropped or bool(self.lost)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exception: object) -> None:
        for member in self._members.values():
            if member.actor is not None:
                self._cluster.stop(member.actor)

    def open(self) -> Opened:
        """Waits for the first node that is ready. Raises BackendError."""
        while True:
            self._join()
            for member in self._members.values():
                if member.opened is not None:
                    return member.opened
            self._check_any_left()
            list(self._step())

    def results(self, places: Places, in_order: bool = False) -> Iterator[Answer]:
        """Computes the images at `places`; yields the answers in the order in which they come.

        in_order: nodes begin with the first images, also where a cache would have others.

        Raises BackendError: no node is left, or a range has failed three times.
        """
        has_parts = self._cache is not None and not in_order
        self._ranges = Ranges(self._parts(places) if has_parts else {"": places})
        while self._ranges.left or any(member.tasks for member in self._members.values()):
            self._join()
            self._give()
            yield from self._step()
            self._check_any_left()

    def _parts(self, places: Places) -> dict[str, Places]:
        """What each node takes first: the same images in each run, whose pixels its cache has."""
        # Also of a node that is lost: when it is lost does not change the others' parts.
        members = sorted(self._members.values(), key=lambda member: member.node.name)
        shares = {member.node.id: self._cpus(member) for member in members}
        batch = 1 if self._first is None else self._first.batch
        return parts_of(places, len(self._items), shares, batch)

    def _join(self) -> None:
        """Starts a process on each node that is new."""
        if time.monotonic() - self._joined < JOIN_SECONDS and self._members:
            return
        self._joined = time.monotonic()
        for node in self._cluster.nodes():
            if node.id not in self._members:
                self._members[node.id] = member = _Member(node, NodeReport(node.name))
                self._start(member)
        if not self._members:
            raise BackendError("the Ray cluster has no node with a CPU; start one: ray start")

    def _start(self, member: _Member) -> None:
        member.starts += 1
        member.opened, member.has_begun, member.has_model = None, False, False
        member.heard = time.monotonic()
        member.actor = self._cluster.start(member.node, self._work, self._cpus(member))
        member.opening = self._cluster.call(member.actor, "ping")

    def _cpus(self, member: _Member) -> int:
        return min(self._threads or member.node.cpus, member.node.cpus)

    def _give(self) -> None:
        ready = self._ready()
        in_play = sum(member.in_play for member in self._members.values())  # some still begin
        nodes = [member.node.id for member in ready]
        for member in ready:
            opened = member.opened
            assert opened is not None
            if not member.tasks:
                member.heard = time.monotonic()
            while len(member.tasks) < IN_FLIGHT:
                rate, left = member.report.images_per_second, self._ranges.left
                images = task_images(rate, left, in_play, opened.batch, opened.most)
                taken = self._ranges.take(images, member.node.id, nodes)
                if taken is None:
                    break
                call = self._cluster.call(member.actor, "run", taken.places)
                member.tasks[call] = taken

    def _step(self) -> Iterator[Answer]:
        """Waits for a call to end, but not long; takes what has ended."""
        calls = {member.opening: member for member in self._members.values() if member.opening}
        calls |= {call: each for each in self._members.values() for call in each.tasks}
        ended = self._cluster.wait(list(calls), WAIT_SECONDS)
        now = time.monotonic()  # to take what has ended may take long
        for call in ended:
            member = calls[call]
            if call != member.opening and call not in member.tasks:
                continue  # the node was lost in this step
            try:
                answer = self._cluster.get(call)
            except (LostError, FailedError) as error:
                self._restart(member, call, str(error))
                continue
            member.heard = time.monotonic()
            if call == member.opening:
                self._opened(member, answer)
            else:
                yield from self._answered(member, call, answer)
        self._lose_silent(now)

    def _lose_silent(self, now: float) -> None:
        """Gives up the nodes that have not answered for too long before `now`."""
        for member in self._members.values():
            silent = now - member.heard
            if member.opening and not member.has_begun and silent > START_SECONDS:
                self._lose(
                    member,
                    f"has not begun within {START_SECONDS:,.0f} s; if others use its "
                    f"{counted(self._cpus(member), 'CPU')}, --threads N asks for fewer",
                )
            elif (member.opening or member.tasks) and silent > SILENT_SECONDS:
                self._lose(member, f"has not answered for {SILENT_SECONDS:,.0f} s")

    def _opened(self, member: _Member, answer: Opened | Refused | None) -> None:
        """Takes the answer of `ping`, which is None, or of `open`."""
        member.opening = None
        if answer is None:
            member.has_begun = True
            member.opening = self._cluster.call(member.actor, "open")
        elif isinstance(answer, Opened):
            first = self._first = self._first or answer
            model, other = (f"{each.input}, {each.classes} classes" for each in (answer, first))
            if model != other:
                self._lose(member, f"its model has {model}; another node's has {other}")
                return
            member.opened = answer
            member.report.threads, member.report.devices = answer.threads, answer.devices
        elif answer.missing_model and not member.has_model:
            if self._model is None:
                self._model = self._cluster.put(self._read_model())
            member.has_model = True
            member.opening = self._cluster.call(member.actor, "open", self._model)
        else:
            listed = answer.listed
            difference = "" if listed is None else f": {self._difference(listed)}"
            self._lose(member, answer.reason + difference)

    def _difference(self, listed: Listed) -> str:
        """The first image in which a node's list differs from ours."""
        ours = names_of_block(self._items, listed.block)
        pairs = enumerate(zip_longest(ours, listed.names, fillvalue="none"))
        place, our, their = next((i, our, their) for i, (our, their) in pairs if our != their)
        number = listed.block * BLOCK_IMAGES + place + 1
        return (
            f"{listed.images:,}, not {len(self._items):,}; number {number:,} is {their} there, "
            f"{our} here"
        )

    def _answered(self, member: _Member, call: Any, answer: Done | Refused) -> Iterator[Answer]:
        if isinstance(answer, Refused):
            if answer.is_node:
                self._fail(member.tasks.pop(call), member, answer.reason)
                self._lose(member, answer.reason)
            else:
                self._restart(member, call, answer.reason)
            return
        done_range = member.tasks.pop(call)
        report = member.report
        for text in answer.warnings:
            if self._cache is not None:
                self._cache.tell(f"{report.name}: {text}")
        path = next((each.path for each in answer.failures if each.cause == UNREADABLE), "")
        if path and not done_range.unreadable and self._ready(member):
            # The node may be at fault: another one tries the same images.
            done_range.unreadable, done_range.unreadable_on = path, member.node.id
            done_range.failed_on.add(member.node.id)
            self._has_dropped = True
            self._ranges.put_back(done_range)
            return
        if done_range.unreadable and not path and done_range.unreadable_on != member.node.id:
            self._misread(self._members[done_range.unreadable_on], done_range.unreadable)
        report.images += len(answer.is_good)
        report.tasks += 1
        report.seconds += answer.seconds
        report.waited += answer.waited
        report.nbytes_in += answer.stats.nbytes_in
        for device, why in answer.lost_devices.items():
            self.lost_devices[f"{report.name}, device {device}"] = f"{report.name}: {why}"
        yield done_range.places, answer, report

    def _misread(self, member: _Member, path: str) -> None:
        """Notes an image that a node could not read and another could; gives the node up if it has
        MAX_MISREADS of them."""
        member.report.misread.append(path)
        if len(member.report.misread) == MAX_MISREADS:
            self._lose(
                member,
                f"could not read images of {MAX_MISREADS} tasks, which other nodes can read; the "
                f"last is {path}",
            )

    def _ready(self, apart_from: _Member | None = None) -> list[_Member]:
        """The nodes that can take tasks."""
        members = self._members.values()
        return [each for each in members if each.opened is not None and each is not apart_from]

    def _fail(self, failed: Range, member: _Member, reason: str) -> None:
        """Gives a range to another node. Raises BackendError if it has failed too often."""
        failed.attempts += 1
        failed.failed_on.add(member.node.id)
        if failed.attempts >= MAX_ATTEMPTS:
            first, last = (self._items[int(place)].path for place in failed.places[[0, -1]])
            raise BackendError(
                f"{counted(len(failed.places), 'image')}, {first} to {last}: failed on "
                f"{MAX_ATTEMPTS} attempts; the last on {member.report.name}: {reason}"
            )
        self._ranges.put_back(failed)

    def _restart(self, member: _Member, call: Any, reason: str) -> None:
        """Starts another process on a node whose process has ended, or has failed in `call`, if the
        node is still there. What `call` was about has failed; the next task has not begun."""
        failed = member.tasks.pop(call, None)
        following = list(member.tasks.values())
        member.tasks.clear()
        is_alive = any(node.id == member.node.id for node in self._cluster.nodes())
        if is_alive and member.starts < MAX_STARTS:
            self._cluster.stop(member.actor)
            self._start(member)
        else:
            self._lose(member, reason)
        if failed is not None:
            self._fail(failed, member, reason)
        for each in following:
            self._ranges.put_back(each)

    def _lose(self, member: _Member, reason: str) -> None:
        """Gives a node up, and its tasks to the others."""
        if not member.in_play:
            return
        member.report.lost = f"{member.report.name}: {reason}"
        member.opened = member.opening = None
        tasks = list(member.tasks.values())
        member.tasks.clear()
        self._cluster.stop(member.actor)
        for each in tasks:
            self._ranges.put_back(each)

    def _check_any_left(self) -> None:
        if not any(member.in_play for member in self._members.values()):
            reasons = [each.lost for each in self.reports]
            raise BackendError(f"no node is left: {'; '.join(reasons)}")
