"""Logits and labels to accuracy: readers of results and labels, top-k, scores, comparisons.

May import errors, the C extensions, base, and inference.record, which says what a run recorded. It
needs preprocess for the types of annotations only.
"""
