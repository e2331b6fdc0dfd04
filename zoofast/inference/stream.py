"""Images to logits with nothing on disk: the loader fills batches while the devices compute others.

    loader ──► ring of batches ──► one queue ──► devices' executors ──► answers, as they come
       ▲                                                                     │
       └──────────────────── batch given back to the ring ◄──────────────────┘

The main thread only moves batches. Memory is bounded by the ring: no other batches are allocated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoofast.errors import BackendError
from zoofast.inference.devices import Devices
from zoofast.preprocess.loader import Loader, Prepared
from zoofast.timing.timeline import Timeline

# What the loader holds of the ring, besides the batches that the devices hold. Where the device is
# not this host's CPU, the loader has at least FILLING_IMAGES images, because a device must not wait
# while the threads of a busy host take turns.
FILLING_BATCHES, FILLING_IMAGES = 2, 48


def ring_depth(batch: int, prefetch: int, on_host: bool = False) -> int:
    """How many batches of `batch` images the ring needs to keep the devices and the loader busy.

    prefetch: the batches that the devices hold. on_host: the device is this host's CPU, which the
    loader keeps busy as well; the ring is smaller then and leaves more of the caches to both.
    """
    filling = FILLING_BATCHES if on_host else max(FILLING_BATCHES, -(-FILLING_IMAGES // batch))
    return prefetch + filling


@dataclass
class InferredBatch:
    """A batch and its logits, (n, classes) float32: one row for each of prepared.names.

    number: counts the batches from 0, in source order. The ring may already reuse the memory of
    the batch's tensors, but nothing reuses that of the logits.
    """

    number: int
    prepared: Prepared
    logits: NDArray[np.float32]


def stream(
    loader: Loader,
    devices: Devices,
    output_index: int = 0,
    timeline: Timeline | None = None,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[InferredBatch]:
    """Runs all images of `loader` through `devices`. Yields the batches as their answers come.

    The loader's batch size is the model's; its ring should be `ring_depth` deep. Where a batch is
    short, because it is the last or because images failed, copies of its first image fill it up
    for the device; the logits of the copies are dropped. When `stopped()` is true, no more batches
    are taken from the loader; those in flight are finished. Raises what the loader raises, and
    BackendError.
    """
    devices.begin(loader.ring, timeline)
    classes = int(np.prod(devices.outputs[output_index].shape[1:]))
    in_flight: dict[int, Prepared] = {}
    taken = 0
    more = True
    while more or in_flight:
        more = more and not stopped()
        if more and len(in_flight) < min(devices.prefetch, len(loader.ring)):
            asked_ns = time.monotonic_ns()
            prepared = loader.take()
            if prepared is None:
                more = False
                continue
            if timeline is not None:
                timeline.prepared(taken, prepared, asked_ns)
            number = taken
            taken += 1
            if prepared.names:
                array = prepared.slots.array
                if len(prepared.names) < len(array):
                    array[len(prepared.names) :] = array[0]
                in_flight[number] = prepared
                devices.put(number, prepared.slots, len(prepared.names))
                continue
            logits = np.empty((0, classes), np.float32)
        else:
            number, outputs = devices.get()
            prepared = in_flight.pop(number)
            if outputs[output_index].shape[:1] != devices.outputs[output_index].shape[:1]:
                raise BackendError(
                    f"output {devices.outputs[output_index]} came back as "
                    f"{list(outputs[output_index].shape)}; it has no row for each image"
                )
            rows = outputs[output_index][: len(prepared.names)]
            logits = np.ascontiguousarray(rows.reshape(len(rows), -1), np.float32)
        loader.give_back(prepared)
        yield InferredBatch(number, prepared, logits)
        if timeline is not None:
            timeline.finish(number, len(prepared.names), time.monotonic_ns())
