"""Imported before any test, and before the libraries that read these variables once.

Processes that share the machine's cores do not start a thread a core each.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
