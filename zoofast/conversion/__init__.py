"""Weights to ONNX to .om: export, simplify, optimize, AIPP and ATC, with the known models.

May import errors, the C extensions, base and preprocess. torch and onnx are imported inside the
functions that need them.
"""
