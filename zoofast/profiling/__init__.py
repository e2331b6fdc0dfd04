"""What limits this host: time by stage, scaling over threads, disk rates, and a verdict.

May import errors, the C extensions, base, preprocess, timing, inference, scoring, evaluation and
conversion.
"""
