"""Classes of labels that are text, as a CSV or an archive holds them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskgit_cli.errors import InputError

# The largest class index; a larger one suggests that the wrong column was read.
MAX_LABEL, MAX_DIGITS = 1_000_000, 20


def classes_of(path: Path, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Class indices int32 (N,), and the name of each class.

    If all labels are numbers they are the indices, and the name of each class is its index. Otherwise the
    labels are names, and the classes are in their order. An empty label is none, and so is the index -1.

    Args:
        path: where the labels are, for messages.
        labels: of N images.

    Raises:
        InputError: an index is out of range, or spelled in two ways.
    """
    different = set(labels) - {""}
    if different and all(map(_is_number, different)):
        index_of = {label: _index(path, label) for label in different}
        _check_spelling(path, index_of)
        class_names = [str(i) for i in range(max(index_of.values()) + 1)]
    else:
        class_names = sorted(different)
        index_of = {name: i for i, name in enumerate(class_names)}
    index_of[""] = -1
    return np.fromiter((index_of[label] for label in labels), np.int32, len(labels)), class_names


def _check_spelling(path: Path, index_of: dict[str, int]) -> None:
    """Refuse ``1`` and ``01`` among the same labels: as indices they are one class, as names they are two."""
    seen: dict[int, str] = {}
    for label in sorted(index_of):
        other = seen.setdefault(index_of[label], label)
        if other != label:
            raise InputError(
                f"{path}: labels {other} and {label} are names of two classes or one index; "
                "write the index in one way, or give the classes names that are not numbers"
            )


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _index(path: Path, text: str) -> int:
    """The class index of a label."""
    if len(text) > MAX_DIGITS:  # Python does not convert thousands of them
        raise InputError(f"{path}: label {text[:MAX_DIGITS]}... is out of range; is it the right column?")
    label = int(text)
    if label < -1:
        raise InputError(f"{path}: label {label} is negative; -1 or an empty cell is no class")
    if label > MAX_LABEL:
        raise InputError(f"{path}: label {label} is above {MAX_LABEL}; is it the right column?")
    return label
