"""Classes as users write them: numbers, names, ranges, lists, ``all``, ``uniform``, or a file.

The label of image i is a pure function of the words and i, so that any part of a set of samples can
be drawn anywhere.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskgit_cli.data.imagenet import imagenet_meanings
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.runtime import rng

NO_CLASS = -1


def labels_for(
    spec: str, indices: np.ndarray, classes: int, class_names: Sequence[str], seed: int
) -> np.ndarray:
    """The classes of images, from the words a user chose.

    ``all`` goes round the classes, image i getting class i mod C. ``uniform`` draws a class for each
    image by the seed. Anything else is a list that images go round in the same way: numbers, names and
    ranges ``3-7`` (7 included), separated by commas; or ``@FILE`` with one number or name a line (also
    without the ``@``, where the file's name is neither a class nor numbers).

    Args:
        spec: the words.
        indices: numbers of the images in the whole set (B,).
        classes: C, how many the model knows; 0 for a model without classes, whose images are all -1.
        class_names: C names, or none where classes have numbers only.
        seed: of ``uniform``.

    Returns:
        int64 (B,), in [0, C), or -1 where the model has no classes.

    Raises:
        ConfigError: a class that the model doesn't have; the message suggests the nearest name.
        InputError: the file is missing, empty or not text.
    """
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


def find_label(text: str, classes: int, class_names: Sequence[str], option: str = "--label") -> int:
    """The class in [0, C) that a number or a name means; names are compared without regard to case.

    Digits always mean a number, also where a class is called by digits. Where the model has a class of
    ImageNet, under its name or its WordNet id, all names of that class mean it: ``goldfish``,
    ``n01443537`` and ``Carassius auratus``.

    Raises:
        ConfigError: the model has no such class, or the word means several; the message suggests names.
    """
    text = text.strip()
    if re.fullmatch(r"[+-]?\d+", text):
        return _checked_number(int(text), classes, option)
    lowered = [name.casefold() for name in class_names]
    for spelling, names in ((text, list(class_names)), (text.casefold(), lowered)):
        if spelling in names:
            return names.index(spelling)
    meant = _imagenet_classes_of(text, class_names)
    if len(meant) > 1:
        several = " or ".join(f"{name} ({number})" for number, name in meant.items())
        raise ConfigError(f"{option} {text}: this may be {several}; name one of them")
    if meant:
        return next(iter(meant))
    raise ConfigError(f"{option} {text}: {_no_such_name(text, classes, class_names)}")


def _imagenet_classes_of(text: str, class_names: Sequence[str]) -> dict[int, str]:
    """The model's classes, by number, that are those of ImageNet which a word means; with their names."""
    places = {name: i for i, name in enumerate(class_names)}
    return {
        places[known]: c.name
        for c in imagenet_meanings(text)
        for known in (c.wordnet_id, c.name)
        if known in places
    }


def _checked_number(number: int, classes: int, option: str) -> int:
    if classes == 0:
        raise ConfigError(f"{option} {number}: the model has no classes")
    if not 0 <= number < classes:
        raise ConfigError(f"{option} {number}: the model's classes are 0 to {classes - 1}")
    return number


def _no_such_name(text: str, classes: int, class_names: Sequence[str]) -> str:
    """What to say of a name that no class has."""
    if not class_names:
        return f"the model's classes have no names, only numbers 0 to {classes - 1}"
    readable = [readable_name(name) for name in class_names]
    by_lowered = {name.casefold(): name for name in (*class_names, *readable)}
    near = difflib.get_close_matches(text.casefold(), by_lowered, n=1, cutoff=0.5)
    if near:
        return f"no class has this name; did you mean {by_lowered[near[0]]}?"
    shown = ", ".join(readable[:10]) + (", ..." if len(readable) > 10 else "")
    return f"no class has this name; the model knows {shown}"


def readable_name(name: str) -> str:
    """What a class is called: in English where its name is a WordNet id of ImageNet, else by its name."""
    meanings = imagenet_meanings(name) if re.fullmatch(r"n\d{8}", name) else ()
    return meanings[0].name if meanings else name


def listed_classes(
    spec: str, classes: int, class_names: Sequence[str], option: str = "--labels"
) -> list[int]:
    """The classes that a list or a file names, in order; see :func:`labels_for`.

    Raises:
        ConfigError: a class that there isn't, or an empty entry.
        InputError: the file is missing, empty or not text.
    """
    if spec.casefold() in (name.casefold() for name in class_names):  # a name may hold commas
        return [find_label(spec, classes, class_names, option)]
    path = Path(spec.removeprefix("@"))
    only_numbers = re.fullmatch(r"[\d\s,-]*", spec)
    if spec.startswith("@") or (not only_numbers and os.path.isfile(spec)):
        lines = _read_lines(path, option)
        return [find_label(line, classes, class_names, f"{option} {path}:") for line in lines]
    items = [item.strip() for item in spec.split(",")]
    if not all(items):
        raise ConfigError(f"{option} {spec!r}: an entry of the list is empty")
    return [label for item in items for label in _one_item(item, classes, class_names, option)]


def _one_item(item: str, classes: int, class_names: Sequence[str], option: str) -> list[int]:
    """The classes of a number, a name, or a range of numbers."""
    bounds = re.fullmatch(r"(\d+)-(\d+)", item)
    if bounds is None:
        return [find_label(item, classes, class_names, option)]
    first, last = (_checked_number(int(bound), classes, option) for bound in bounds.groups())
    if first > last:
        raise ConfigError(f"{option} {item}: the range ends before it begins; write {last}-{first}")
    return list(range(first, last + 1))


def _read_lines(path: Path, option: str) -> list[str]:
    """The lines of a text file that aren't blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{option}: no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option}: {path} cannot be read as text ({error})") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{option}: {path} is empty; write one class a line")
    return lines
