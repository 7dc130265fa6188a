"""Parsing of ``--labels``: numbers, names, ranges, lists, ``all``, ``uniform``, or a file.

The label of image i is a pure function of the option and i, so that any range of a set of samples can be
generated separately.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskgit_cli.config.arguments import Label, Labels, labels_text, split_labels
from maskgit_cli.data.imagenet import imagenet_meanings
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.formats.atomic import LARGEST_LIST, regular
from maskgit_cli.runtime import rng

NO_CLASS = -1
# Digits of the longest number that is read.
MAX_DIGITS = 20


def labels_for(
    spec: Labels, indices: np.ndarray, classes: int, class_names: Sequence[str], seed: int
) -> np.ndarray:
    """The labels of images.

    ``all`` assigns classes round-robin: image i gets class i mod C. ``uniform`` draws a class for each
    image. Anything else is a list, assigned round-robin, too: numbers, names and ranges ``3-7`` (7
    included), separated by commas; or ``@FILE`` with one number or name per line (also without the ``@``,
    where the file's name is neither a class nor a number).

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


def find_label(text: Label, classes: int, class_names: Sequence[str], option: str = "--label") -> int:
    """The class in [0, C) with this number or name; names are case-insensitive.

    Digits are always a number, even where a class name consists of digits. A class of ImageNet, which the
    model may list by name or by WordNet id, is found by any of its names: ``goldfish``, ``n01443537``,
    ``Carassius auratus``.

    Raises:
        ConfigError: the model has no such class, or the name is ambiguous; the message suggests names.
    """
    text = str(text).strip()
    if re.fullmatch(r"[+-]?\d+", text):
        return _number(text, classes, option)
    lowered = [name.casefold() for name in class_names]
    for spelling, names in ((text, list(class_names)), (text.casefold(), lowered)):
        if spelling in names:
            return names.index(spelling)
    found = _find_imagenet(text, class_names)
    if len(found) > 1:
        several = " or ".join(f"{name} ({number})" for number, name in found.items())
        raise ConfigError(f"{option} {text}: ambiguous, {several}; choose one of them")
    if found:
        return next(iter(found))
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


def _number(text: str, classes: int, option: str) -> int:
    """The number of a class in decimal digits."""
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
    shown = ", ".join(readable[:10]) + (", ..." if len(readable) > 10 else "")
    return f"no class has this name; the model's classes are {shown}"


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
    bounds = re.fullmatch(r"(\d+)-(\d+)", item)
    if bounds is None:
        return [find_label(item, classes, class_names, option)]
    first, last = (_number(bound, classes, option) for bound in bounds.groups())
    if first > last:
        raise ConfigError(f"{option} {item}: an empty range; write {last}-{first}")
    return list(range(first, last + 1))


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
