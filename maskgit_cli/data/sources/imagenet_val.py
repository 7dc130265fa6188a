"""Labels of ImageNet's validation images, which are distributed in one flat folder without them.

Kaggle has them in ``LOC_val_solution.csv``, the original release in a development kit whose class numbers
are its own: ``meta.mat`` maps them to WordNet ids.
"""

from __future__ import annotations

import csv
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import LARGEST_LIST, regular
from maskgit_cli.runtime.progress import Reporter

SOLUTION = "LOC_val_solution.csv"
GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
# Where the development kit's files are, below the folder that it was extracted in.
DEVKITS = ("", "data", "devkit/data", "ILSVRC2012_devkit_t12/data")
# Kaggle's archive has the labels five folders above the images: ILSVRC/Data/CLS-LOC/val.
LEVELS = 5
_IMAGE = re.compile(r"ILSVRC2012_val_\d{8}\.\w+")
_WORDNET_ID = re.compile(r"n\d{8}")


def validation_labels(
    folder: Path, names: list[str], reporter: Reporter
) -> tuple[np.ndarray | None, list[str]]:
    """Labels int32 (N,) of images that are named like ImageNet's validation images, and the WordNet ids.

    The classes are those of the labels and of the folder ``train`` next to the images, sorted, so that both
    number them alike: the order of all published models. Labels are looked for in the folder and above it.

    Args:
        folder: of the images.
        names: of N images.
        reporter: is warned of validation images without a label.

    Returns:
        None and [] where there are no labels, or an image has another name.

    Raises:
        InputError: a file of labels is damaged.
    """
    if not all(map(_IMAGE.fullmatch, names)):
        return None, []
    found = _wordnet_ids(folder)
    classes = sorted({*found.values(), *_training_classes(folder)})
    known = [found.get(name.split(".")[0], "") for name in names]
    missing = known.count("")
    if missing == len(names):
        reporter.warn(
            f"{folder}: ImageNet's validation images without their labels, so they have no class; put "
            f"{SOLUTION} from Kaggle, or {GROUND_TRUTH} and {META} from the devkit, in the same folder"
        )
        return None, []
    if missing:
        reporter.warn(f"{folder}: {missing:,} of {len(names):,} images are not in the list of labels")
    index_of = {"": -1} | {wordnet_id: i for i, wordnet_id in enumerate(classes)}
    return np.array([index_of[wordnet_id] for wordnet_id in known], np.int32), classes


def _places(folder: Path) -> Iterator[Path]:
    """The folder and those above it, nearest first."""
    absolute = Path(os.path.abspath(folder))
    yield from (absolute, *absolute.parents[: LEVELS - 1])


def _wordnet_ids(folder: Path) -> Mapping[str, str]:
    """The WordNet id of each validation image, by its name without the extension; {} without labels."""
    for place in _places(folder):
        if (place / SOLUTION).is_file():
            return _read_solution(place / SOLUTION)
        for devkit in DEVKITS:
            if (place / devkit / GROUND_TRUTH).is_file() and (place / devkit / META).is_file():
                return _read_devkit(place / devkit)
    return {}


def _training_classes(folder: Path) -> list[str]:
    """The class folders of the training images next to the validation images."""
    train = folder.parent / "train"
    if not train.is_dir():
        return []
    return [name for name in os.listdir(train) if _WORDNET_ID.fullmatch(name)]


def _read_solution(path: Path) -> dict[str, str]:
    """The class of each image of Kaggle's CSV: the first word of the boxes, ``n03995372 85 1 499 272``."""
    regular(path, LARGEST_LIST)
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                image, words = row.get("ImageId"), (row.get("PredictionString") or "").split()
                if not image or not words or not _WORDNET_ID.fullmatch(words[0]):
                    raise InputError(f"{path}: line {len(found) + 2} is not an image with a WordNet id")
                found[image] = words[0]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({' '.join(str(error).split())})") from error
    return found


def _read_devkit(folder: Path) -> dict[str, str]:
    """The class of each image, whose number is a line of the ground truth."""
    path = folder / GROUND_TRUTH
    regular(path, LARGEST_LIST)
    wordnet_id_of = _read_meta(folder / META)
    try:
        numbers = [int(line) for line in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a list of class numbers ({error})") from error
    unknown = set(numbers) - wordnet_id_of.keys()
    if unknown:
        raise InputError(f"{path}: class {min(unknown)} is not in {folder / META}")
    return {f"ILSVRC2012_val_{i:08d}": wordnet_id_of[number] for i, number in enumerate(numbers, 1)}


def _read_meta(path: Path) -> dict[int, str]:
    """The WordNet id of each class number of the development kit."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    regular(path, LARGEST_LIST)
    try:
        synsets = np.atleast_1d(loadmat(path, squeeze_me=True)["synsets"])
        pairs = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        return {int(number): str(wordnet_id) for number, wordnet_id in pairs}
    except (OSError, MatReadError, zlib.error, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not the devkit's {META} ({' '.join(str(error).split())})") from error
