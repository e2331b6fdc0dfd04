"""ACL called as a simple client does: copy a batch in, execute, copy the outputs out, in turn.

    python serial_acl.py LIBRARY MODEL BINS BATCH CLASSES DEVICES OUT.npy

Runs the files of the folder BINS, in the order of their names, on DEVICES devices, a thread each.
Prints the seconds, and writes the outputs. `aclemu_fake_logits` of the emulation says what they
must be.
"""

from __future__ import annotations

import ctypes as c
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2


def call(function, *arguments):
    code = function(*arguments)
    if code:
        sys.exit(f"{function.__name__}: {code}")


class Device(threading.Thread):
    def __init__(self, acl, number, model, tensors, batch, outputs, begin):
        super().__init__()
        self.acl, self.number, self.model, self.batch = acl, number, model, batch
        self.tensors, self.outputs, self.begin = tensors, outputs, begin

    def run(self):
        acl, nbytes = self.acl, self.batch * self.tensors[0].nbytes
        call(acl.aclrtSetDevice, self.number)
        model, host = c.c_uint32(), c.c_void_p()
        call(acl.aclmdlLoadFromFile, self.model.encode(), c.byref(model))
        call(acl.aclrtMallocHost, c.byref(host), c.c_size_t(nbytes))
        row = self.outputs[0].nbytes
        inputs, to = self.buffer(nbytes)
        results, out = self.buffer(self.batch * row)
        self.begin.wait()
        for first in range(0, len(self.tensors), self.batch):
            part = self.tensors[first : first + self.batch]
            c.memmove(host, part.ctypes.data, part.nbytes)
            size = c.c_size_t(nbytes)
            call(acl.aclrtMemcpy, to, size, host, size, HOST_TO_DEVICE)
            call(acl.aclmdlExecute, model, inputs, results)
            address = c.c_void_p(self.outputs[first:].ctypes.data)
            size = c.c_size_t(len(part) * row)
            call(acl.aclrtMemcpy, address, size, out, size, DEVICE_TO_HOST)

    def buffer(self, nbytes):
        memory = c.c_void_p()
        call(self.acl.aclrtMalloc, c.byref(memory), c.c_size_t(nbytes), 0)
        data = c.c_void_p(self.acl.aclmdlCreateDataset())
        made = c.c_void_p(self.acl.aclCreateDataBuffer(memory, c.c_size_t(nbytes)))
        call(self.acl.aclmdlAddDatasetBuffer, data, made)
        return data, memory


def main():
    library, model, bins, batch, classes, devices, out = sys.argv[1:]
    acl = c.CDLL(library)
    acl.aclmdlCreateDataset.restype = acl.aclCreateDataBuffer.restype = c.c_void_p
    files = sorted(Path(bins).glob("*.bin"))
    tensors = np.stack([np.fromfile(file, np.uint8) for file in files])
    outputs = np.zeros((len(files), int(classes)), np.float32)
    call(acl.aclInit, None)
    count, begin = int(devices), threading.Barrier(int(devices) + 1)
    parts = [slice(len(files) * i // count, len(files) * (i + 1) // count) for i in range(count)]
    threads = [
        Device(acl, i, model, tensors[part], int(batch), outputs[part], begin)
        for i, part in enumerate(parts)
    ]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    for tensor, output in zip(tensors, outputs, strict=True):
        expected = np.zeros_like(output)
        acl.aclemu_fake_logits(
            c.c_void_p(tensor.ctypes.data), c.c_size_t(tensor.nbytes),
            c.c_void_p(expected.ctypes.data), c.c_size_t(len(expected)),
        )  # fmt: skip
        assert np.array_equal(output, expected)
    np.save(out, outputs)
    print(json.dumps({"seconds": seconds, "images": len(files)}))


main()
