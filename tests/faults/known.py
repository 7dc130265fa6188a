"""The faults that are known today, by test. A mark must go when its fault is cured: such a test fails."""

from typing import NamedTuple


class Known(NamedTuple):
    """A fault that is known.

    Attributes:
        reason: what is wrong, in one line.
        kinds: the kinds of findings that it explains.
    """

    reason: str
    kinds: tuple[str, ...]


KNOWN: dict[str, Known] = {}
