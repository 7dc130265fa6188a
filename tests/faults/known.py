"""The faults that are known, by test. A mark must go when its fault is cured: such a test fails."""

from typing import NamedTuple


class Known(NamedTuple):
    """A fault that is known.

    Attributes:
        reason: what is wrong, in one line.
        kinds: the kinds of findings that it explains.
        strict: whether it is found every time; False where it depends on the moment.
    """

    reason: str
    kinds: tuple[str, ...]
    strict: bool = True


# By file and test, such as "test_kills.py::test_killed[sample]".
KNOWN: dict[str, Known] = {}
