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

def use(isa: str | None = None) -> None:
    """Sets the CPU level for all that follows: "scalar" or "avx2", which give the same bits;
    None: the best here, or scalar where the environment says ZOOFAST_ISA=scalar.

    Raises ValueError for any other, and for one that this CPU lacks.
    """

def parse(text: bytes) -> NDArray[np.float32]:
    """The numbers in `text`, separated by blanks; values as np.float32(token).

    Raises ValueError at something that is no number.
    """

def format_rows(rows: NDArray[np.float32]) -> bytes:
    """rows (N, C), C-contiguous -> each number as '%f ', a newline after each row."""

def topk(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """scores (N, C), C-contiguous -> the k best classes and their scores, (N, k), best first.

    Equal scores: the lower class first. NaN last. Raises ValueError unless 1 <= k <= C.
    """

def confidence(
    scores: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """scores (N, C) -> softmax of the largest (NaN where that is not finite), sum, smallest."""

class Reading:
    """Files (names relative to dir_fd, kinds TXT, BIN or NPY) being read and ranked.

    threads - 1 threads begin at once and need no GIL. Call `rank_files` until it returns N, then
    `end`.
    """

    results: NDArray[np.void]  # RESULT_DTYPE, (N,)
    classes: NDArray[np.int32]  # the k best, (N, k); -1 where a row is shorter, or not OK
    values: NDArray[np.float32]  # their scores, (N, k); NaN there
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
    ) -> None: ...
    def rank_files(self, max_files: int) -> int:
        """Reads and ranks about `max_files` (>= 1) files in the caller's thread. Returns how many
        files any thread has started with so far."""

    def end(self) -> None:
        """Waits for the threads. Files that none had taken stay unread. Idempotent."""

def read_file(
    dir_fd: int, name: bytes, kind: int, *, bin_dtype: DTypeLike = "float32"
) -> tuple[np.void, NDArray[np.float32]]:
    """One file's row and its RESULT_DTYPE; the row is empty unless status is OK."""
