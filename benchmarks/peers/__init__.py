"""One file per peer; each runs in a process of its own, see worker.py.

A peer is a module with

    LABEL   its name in the tables
    EXACT   whether it claims to equal Pillow byte for byte; if its results differ, it is not timed
    PACKAGES  the distributions whose versions the report states

and one of

    prepare(data) -> (3, 224, 224) float32   all of AlexNet's recipe, from one image's bytes
    prepare_files(paths)                     the same for many files, an iterator of such tensors
    decode(data) -> (H, W, 3) uint8          decoding alone

and, where a version is not that of a Python distribution, `versions() -> dict[str, str]`. A peer
uses one thread unless its label says otherwise.
"""
