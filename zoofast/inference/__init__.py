"""Tensors to logits: backends, devices, streams of batches, folders of result files.

May import errors, the C extensions, base, preprocess and timing.
"""
