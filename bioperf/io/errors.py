"""What is wrong with a file, in one line: ``FILE: what is wrong; what to do``."""

__all__ = ["InputError", "OutputError"]


class InputError(ValueError):
    """A file that cannot be used as input; the message names the file, the fault and the remedy."""


class OutputError(OSError):
    """A path that cannot be written; the message names the path, the fault and the remedy."""
