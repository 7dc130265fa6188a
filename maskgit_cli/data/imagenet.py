"""ImageNet's 1,000 classes: their numbers, WordNet ids and names."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).parent.parent / "assets" / "imagenet_classes.txt"


class ImageNetClass(NamedTuple):
    """One class.

    Attributes:
        number: from 0 to 999, the order of every published model.
        wordnet_id: the name of its folder in the dataset, such as ``n01443537``.
        name: unique.
        synonyms: other names in WordNet, some of which are shared with another class.
    """

    number: int
    wordnet_id: str
    name: str
    synonyms: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """All its names, the id included, in lower case."""
        return tuple(word.casefold() for word in (self.wordnet_id, self.name, *self.synonyms))


@functools.cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """The 1,000 classes in order."""
    lines = [line for line in _FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    classes = []
    for number, line in enumerate(lines):
        wordnet_id, name, *others = line.split("\t")
        synonyms = tuple(others[0].split(", ")) if others else ()
        classes.append(ImageNetClass(number, wordnet_id, name, synonyms))
    assert len(classes) == 1000
    return tuple(classes)


def imagenet_names() -> list[str]:
    """The 1,000 names in order, as a model's ``class_names``."""
    return [c.name for c in imagenet_classes()]


@functools.cache
def _by_word() -> dict[str, tuple[ImageNetClass, ...]]:
    """The classes of each name in lower case."""
    found: dict[str, tuple[ImageNetClass, ...]] = {}
    for c in imagenet_classes():
        for word in dict.fromkeys(c.words):
            found[word] = (*found.get(word, ()), c)
    return found


def imagenet_meanings(word: str) -> tuple[ImageNetClass, ...]:
    """The classes with this WordNet id, name or synonym, case-insensitive; mostly one.

    A name takes precedence over another class's synonym: ``horn`` may be a cornet or a French horn, but
    ``gong`` is the class of that name. The exact spelling distinguishes the dog ``Cardigan`` from the
    ``cardigan``.
    """
    found = _by_word().get(word.casefold(), ())
    for same in (lambda name: name == word, lambda name: name.casefold() == word.casefold()):
        named = tuple(c for c in found if same(c.name))
        if len(named) == 1:
            return named
    return found


def same_classes(some: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two lists of class names are equivalent, class by class.

    Equal names are, and so are any two names of one class of ImageNet: a folder of images has the class
    ``n01440764``, a published model ``tench``.
    """
    return len(some) == len(others) and all(map(_same, some, others))


def _same(some: str, other: str) -> bool:
    if some == other:
        return True
    meanings = imagenet_meanings(some)
    return len(meanings) == 1 and meanings == imagenet_meanings(other)
