"""What a user can get wrong, as exceptions whose text is one line: what, where, and what to do.

The library raises these; the command line turns them into one line on stderr and exit status 1.
Anything else that escapes is a defect of ours and is shown as one (with ``--debug``, in full).
"""


class MaskGITError(ValueError):
    """Base of every error whose cause the user can mend."""


class ConfigError(MaskGITError):
    """A setting is out of range, or two settings contradict one another."""


class InputError(MaskGITError):
    """A file or folder that was given cannot be used: missing, unreadable, empty, or of the wrong kind."""


class ArtifactError(MaskGITError):
    """A file in one of our formats is incomplete, damaged, of another version, or of another lineage."""


class OutputError(MaskGITError):
    """A result cannot be written: it exists already, the disk is full, or the place is not writable."""


class WeightsError(MaskGITError):
    """Published weights cannot be had, or are not the bytes they should be."""


def counted(number: int, noun: str) -> str:
    """A number and a regular noun in the form that it asks for: ``1 image``, ``2 images``, ``0 images``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
