"""Parsing of ``--labels``: numbers, names, ranges, lists, ``all``, ``uniform``, or a file.

The label of image i is a pure function of the option and i, so that any range of a set of samples can be
generated separately.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskgit_cli.config.arguments import Label, Labels, labels_text, split_labels
from maskgit_cli.data.imagenet import imagenet_meanings
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.formats.atomic import LARGEST_LIST, regular
from maskgit_cli.runtime import rng

NO_CLASS = -1
# Digits of the longest number that is read.
MAX_DIGITS = 20
# What precedes an index where the names of classes are numbers, too.
INDEX = "index:"


def labels_for(
    spec: Labels, indices: np.ndarray, classes: int, class_names: Sequence[str], seed: int
) -> np.ndarray:
    """The labels of images.

    ``all`` assigns classes round-robin: image i gets class i mod C. ``uniform`` draws a class for each
    image. Anything else is a list, assigned round-robin, too: numbers, names and ranges ``3-7`` (7
    included), separated by commas; or ``@FILE`` with one number or name per line (also without the ``@``,
    where the file's name is neither a class nor a number). For numbers see :func:`find_label`.

    Args:
        spec: the option's value, or a list of classes.
        indices: indices of the images in the whole set (B,).
        classes: C, the model's number of classes; 0 for a model without classes.
        class_names: C names; empty where classes only have numbers.
        seed: of ``uniform``.

    Returns:
        int64 (B,), in [0, C), or -1 where the model has no classes.

    Raises:
        ConfigError: the model has no such class; the message suggests the nearest name.
        InputError: the file is missing, empty or not text.
    """
    spec = labels_text(spec)
    indices = np.asarray(indices, np.int64)
    if classes == 0:
        if spec not in ("all", "uniform"):
            raise ConfigError(f"--labels {spec}: the model has no classes; leave --labels out")
        return np.full(len(indices), NO_CLASS, np.int64)
    if spec == "all":
        return indices % classes
    if spec == "uniform":
        u = rng.uniform(seed, indices, 0, 1, rng.LABEL)  # (B, 1)
        return (u[:, 0] * classes).long().numpy()
    chosen = np.array(listed_classes(spec, classes, class_names), np.int64)
    return chosen[indices % len(chosen)]


class _Names(NamedTuple):
    """The classes of each name, as it is and without regard to case, and whether a name is a number."""

    exact: dict[str, list[int]]
    lowered: dict[str, list[int]]
    numbers: bool


@functools.lru_cache(8)
def _lookup(class_names: tuple[str, ...]) -> _Names:
    exact: dict[str, list[int]] = {}
    lowered: dict[str, list[int]] = {}
    for i, name in enumerate(class_names):
        exact.setdefault(name, []).append(i)
        lowered.setdefault(name.casefold(), []).append(i)
    return _Names(exact, lowered, any(name.isdecimal() for name in class_names))


def find_label(text: Label, classes: int, class_names: Sequence[str], option: str = "--label") -> int:
    """The class in [0, C) with this number or name; names are case-insensitive.

    A number is the class of that name if there is one: folders ``0`` to ``11``, sorted as text, are not in
    the order of their numbers. If other names are numbers but this one is not, the number is refused, and
    else it is an index. ``index:3`` is always the class at index 3. A class of ImageNet, which the model may
    list by name or by WordNet id, is found by any of its names: ``goldfish``, ``n01443537``,
    ``Carassius auratus``.

    Raises:
        ConfigError: the model has no such class, or the name is ambiguous; the message suggests names.
    """
    text = str(text).strip()
    names = _lookup(tuple(class_names))
    for found in (names.exact.get(text, []), names.lowered.get(text.casefold(), [])):
        if len(found) > 1:
            several = " or ".join(f"{class_names[i]} ({INDEX}{i})" for i in found)
            raise ConfigError(f"{option} {text}: ambiguous, {several}; choose one by its index")
        if found:
            return found[0]
    if re.fullmatch(r"[+-]?\d+", text):
        return _number(text, classes, class_names, option)
    if text.startswith(INDEX) and re.fullmatch(r"[+-]?\d+", text.removeprefix(INDEX)):
        return _index(text.removeprefix(INDEX), classes, option)
    meanings = _find_imagenet(text, class_names)
    if len(meanings) > 1:
        several = " or ".join(f"{name} ({number})" for number, name in meanings.items())
        raise ConfigError(f"{option} {text}: ambiguous, {several}; choose one of them")
    if meanings:
        return next(iter(meanings))
    raise ConfigError(f"{option} {text}: {_no_such_name(text, classes, class_names)}")


def _find_imagenet(text: str, class_names: Sequence[str]) -> dict[int, str]:
    """Numbers and names of the model's classes that are the ImageNet classes of this name."""
    index_of = {name: i for i, name in enumerate(class_names)}
    return {
        index_of[name]: c.name
        for c in imagenet_meanings(text)
        for name in (c.wordnet_id, c.name)
        if name in index_of
    }


def _number(text: str, classes: int, class_names: Sequence[str], option: str) -> int:
    """The class of a number that is no class's name."""
    if not _lookup(tuple(class_names)).numbers or list(class_names) == [str(i) for i in range(classes)]:
        return _index(text, classes, option)
    shown = text if len(text) <= MAX_DIGITS else f"{text[:MAX_DIGITS]}..."
    reason = f"no class has this name; the model's classes are {_first_names(class_names)}"
    if shown == text and 0 <= int(text) < classes:
        index = f"{INDEX}{int(text)}"
        reason += f"; for the one at index {int(text)}, {class_names[int(text)]}, write {index}"
    raise ConfigError(f"{option} {shown}: {reason}")


def _index(text: str, classes: int, option: str) -> int:
    """The index of a class in decimal digits."""
    shown = text if len(text) <= MAX_DIGITS else f"{text[:MAX_DIGITS]}..."
    if classes == 0:
        raise ConfigError(f"{option} {shown}: the model has no classes")
    # Python does not convert thousands of digits.
    if len(text) > MAX_DIGITS or not 0 <= int(text) < classes:
        raise ConfigError(f"{option} {shown}: the model's classes are 0 to {classes - 1}")
    return int(text)


def _no_such_name(text: str, classes: int, class_names: Sequence[str]) -> str:
    """The reason why no class was found, with a suggestion."""
    if not class_names:
        return f"the model's classes have no names; use a number from 0 to {classes - 1}"
    readable = [readable_name(name) for name in class_names]
    by_lowered = {name.casefold(): name for name in (*class_names, *readable)}
    near = difflib.get_close_matches(text.casefold(), by_lowered, n=1, cutoff=0.5)
    if near:
        return f"no class has this name; did you mean {by_lowered[near[0]]}?"
    return f"no class has this name; the model's classes are {_first_names(readable)}"


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def readable_name(name: str) -> str:
    """The name of a class for people: for a WordNet id of ImageNet, its English name."""
    meanings = imagenet_meanings(name) if re.fullmatch(r"n\d{8}", name) else ()
    return meanings[0].name if meanings else name


def listed_classes(
    spec: Labels, classes: int, class_names: Sequence[str], option: str = "--labels"
) -> list[int]:
    """The classes of a list or a file, in order; see :func:`labels_for`.

    Raises:
        ConfigError: there is no such class, or an entry is empty.
        InputError: the file is missing, empty or not text.
    """
    spec = labels_text(spec, option)
    if spec.casefold() in (name.casefold() for name in class_names):  # a name may hold commas
        return [find_label(spec, classes, class_names, option)]
    path = Path(spec.removeprefix("@"))
    only_numbers = re.fullmatch(r"[\d\s,-]*", spec)
    if spec.startswith("@") or (not only_numbers and os.path.isfile(spec)):
        lines = _read_lines(path, option)
        return [find_label(line, classes, class_names, f"{option} {path}:") for line in lines]
    items = split_labels(spec)
    if not all(items):
        raise ConfigError(f"{option} {spec!r}: an entry of the list is empty")
    return [label for item in items for label in _one_item(item, classes, class_names, option)]


def _one_item(item: str, classes: int, class_names: Sequence[str], option: str) -> list[int]:
    """The classes of a number, a name, or a range of numbers."""
    bounds = re.fullmatch(rf"({INDEX})?(\d+)-(\d+)", item)
    if bounds is None or item.casefold() in _lookup(tuple(class_names)).lowered:
        return [find_label(item, classes, class_names, option)]
    index, *ends = bounds.groups()
    if index or not _lookup(tuple(class_names)).numbers:
        first, last = (_index(end, classes, option) for end in ends)
    else:  # both ends are names, and so is every number between them
        for end in ends:
            find_label(end, classes, class_names, option)
        first, last = map(int, ends)
    if first > last:
        raise ConfigError(f"{option} {item}: an empty range; write {index or ''}{last}-{first}")
    if index:
        return list(range(first, last + 1))
    return [find_label(str(number), classes, class_names, option) for number in range(first, last + 1)]


def _read_lines(path: Path, option: str) -> list[str]:
    """The lines of a text file that are not blank."""
    regular(path, LARGEST_LIST)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{option}: {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option}: {path} cannot be read as text ({error})") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{option}: {path} is empty; write one class per line")
    return lines
