"""Result files and class scores ("logits") in C (zoofast/_logits.pyx). Private to zoofast.

isa: the CPU level, as in _core.isa(). All levels give the same bits. Raises CpuLevelError if the
level is unknown or this CPU cannot run it.
"""

import numpy as np
from numpy.typing import DTypeLike, NDArray

OK: int
NOMEM: int
READ: int
EMPTY: int
NUMBER: int
NPY_HEADER: int
BYTES: int

CWD: int  # as dir_fd: names are relative to the working folder

TXT: int
BIN: int
NPY: int

RESULT_DTYPE: np.dtype[np.void]

def parse(text: bytes, isa: str | None = None) -> NDArray[np.float32]:
    """The numbers in `text`, separated by blanks; values as np.float32(token).

    Raises ValueError if a token is not a number.
    """

def format_rows(rows: NDArray[np.float32]) -> bytes:
    """Each number of rows (N, C), C-contiguous, as '%f '; a newline after each row."""

def topk(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best classes of scores (N, C), C-contiguous, and their scores: (N, k), best first.

    Of equal scores the lower class comes first; NaN comes last. Raises ValueError unless
    1 <= k <= C.
    """

def confidence(
    scores: NDArray[np.float32], isa: str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Of each row of scores (N, C): softmax of the largest, sum, and smallest score, each (N,).

    The softmax is NaN if the largest score is not finite.
    """

class Reading:
    """Reads and ranks N files; `names` are relative to the folder dir_fd, `kinds` TXT, BIN or NPY.

    threads - 1 threads begin at once, without the GIL. Call `rank_files` until it returns N, then
    `end`.
    """

    results: NDArray[np.void]  # RESULT_DTYPE, (N,)
    classes: NDArray[np.int32]  # the k best, (N, k); -1 past the end of a short or unreadable row
    values: NDArray[np.float32]  # their scores, (N, k); NaN where the class is -1
    def __init__(
        self,
        dir_fd: int,
        names: list[bytes],
        kinds: NDArray[np.uint8],
        k: int,
        *,
        bin_dtype: DTypeLike = "float32",
        want_confidence: bool = False,
        threads: int = 1,
        isa: str | None = None,
    ) -> None: ...
    def rank_files(self, max_files: int) -> int:
        """Read and rank about `max_files` (>= 1) files in the caller's thread. Returns how many
        files any thread has begun so far. Raises RuntimeError in a process made by fork."""

    def end(self) -> None:
        """Wait for the threads. Files that no thread has begun stay unread. Can be called again."""

def read_file(
    dir_fd: int,
    name: bytes,
    kind: int,
    *,
    bin_dtype: DTypeLike = "float32",
    isa: str | None = None,
) -> tuple[np.void, NDArray[np.float32]]:
    """One file's RESULT_DTYPE and its row, which is empty unless the status is OK."""
