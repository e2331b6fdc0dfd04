"""Logits and labels to accuracy: readers of results and labels, top-k, scores, comparisons.

May import errors, the C extensions and base. It needs no package of preprocessing or inference.
"""
