"""User-facing errors: exceptions whose text is one line that says what is wrong, where, and what to do.

The library raises them; the command line prints them on stderr and exits with status 1. Any other
exception is a defect of this package (``--debug`` shows its traceback).
"""


class MaskGITError(ValueError):
    """Base class of all user-facing errors."""


class ConfigError(MaskGITError):
    """A setting is of the wrong type or out of range, or two settings contradict each other."""


class InputError(MaskGITError):
    """An input file or folder is missing, unreadable, empty, or of the wrong kind."""


class ArtifactError(MaskGITError):
    """An artifact is incomplete, damaged, of another version, or was made with a different tokenizer."""


class OutputError(MaskGITError):
    """A result cannot be written: it exists already, the disk is full, or permission is denied."""


class WeightsError(MaskGITError):
    """Published weights are not available, or differ from what was published."""


def counted(number: int, noun: str) -> str:
    """A number with a regular noun: ``1 image``, ``2 images``, ``0 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
