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
        number: from 0 to 999, as every published model counts.
        wordnet_id: the name of its folder in the data set, ``n01443537``.
        name: what it is called here; no two classes share one.
        synonyms: its other names in WordNet, some of which are another class's too.
    """

    number: int
    wordnet_id: str
    name: str
    synonyms: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """All it is known by, the id included, in lower case."""
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
    """The classes that a word in lower case means."""
    found: dict[str, tuple[ImageNetClass, ...]] = {}
    for c in imagenet_classes():
        for word in dict.fromkeys(c.words):
            found[word] = (*found.get(word, ()), c)
    return found


def imagenet_meanings(word: str) -> tuple[ImageNetClass, ...]:
    """The classes that a WordNet id, a name or a synonym means, without regard to case; mostly one.

    A word that is one class's name and another's synonym means the former: ``horn`` may be a cornet or a
    French horn, but ``gong`` is the class of that name. The exact spelling tells the dog ``Cardigan``
    from the ``cardigan``.
    """
    found = _by_word().get(word.casefold(), ())
    for same in (lambda name: name == word, lambda name: name.casefold() == word.casefold()):
        named = tuple(c for c in found if same(c.name))
        if len(named) == 1:
            return named
    return found


def same_classes(some: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two lists of class names mean the same, class by class.

    Equal words do, and so do any two words for one class of ImageNet: a folder of images calls its
    classes ``n01440764``, a published model calls them ``tench``.
    """
    return len(some) == len(others) and all(map(_same, some, others))


def _same(some: str, other: str) -> bool:
    if some == other:
        return True
    meanings = imagenet_meanings(some)
    return len(meanings) == 1 and meanings == imagenet_meanings(other)
