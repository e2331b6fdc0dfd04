"""The error types. A message names the file or value at fault and, if there is one, the cure."""

from __future__ import annotations


class ZoofastError(Exception):
    """The base of all errors that zoofast raises on purpose. The command line prints one line."""


class RecipeError(ZoofastError):
    """A recipe is unknown, or a key in its file is missing, unknown or out of range."""


class SourceError(ZoofastError):
    """The images cannot be listed: a missing folder, an empty list, two inputs with one name."""


class CpuLevelError(ZoofastError, ValueError):
    """ZOOFAST_ISA names a CPU level that is unknown or that this CPU cannot run."""


class ImageError(ZoofastError):
    """An image cannot be prepared. The message begins with its path."""


class OutputError(ZoofastError):
    """An output cannot be written: full disk, no permission, or it holds another run."""


class LabelError(ZoofastError):
    """A label file cannot be read, or labels and results do not match."""


class ResultError(ZoofastError):
    """A result file (logits) cannot be read."""


class BackendError(ZoofastError):
    """A model cannot be loaded or run, or a package that it needs is missing."""


class ModelError(ZoofastError):
    """A model cannot be exported, simplified, rewritten or converted."""
