"""When each stage of the work ran: spans, sums by stage, and trace files.

May import errors, the C extensions, base and preprocess.
"""
