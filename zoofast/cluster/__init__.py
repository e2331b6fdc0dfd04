"""The work of `prep` and `eval` on the nodes of a Ray cluster.

`driver` gives ranges of the images to nodes and takes their results, in any order. `work` is what
runs on a node. Only `connection` imports Ray, when it is used. May import errors, the C extensions,
base, preprocess, timing, inference, scoring and evaluation.
"""
