"""One file per peer; each runs in a process of its own, see worker.py.

A peer is a module with

    LABEL   what the tables call it
    EXACT   whether it claims to equal Pillow byte for byte; such a peer is not timed unless it does
    PACKAGES  the distributions whose versions the report states

and one of

    prepare(data) -> (3, 224, 224) float32   the whole job on one image's bytes, AlexNet's recipe
    prepare_files(paths)                     the same for many files, an iterator of such tensors
    decode(data) -> (H, W, 3) uint8          decoding alone

optionally `versions() -> dict[str, str]` for what is no Python distribution. Peers use one thread,
unless their label says otherwise.
"""
