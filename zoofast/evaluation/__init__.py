"""Images to accuracy in one run, with a journal from which a stopped run continues.

May import errors, the C extensions, base, preprocess, timing, inference and scoring.
"""
