"""Image source: a folder of images, flat, with a subfolder per class (ImageFolder), or Kaggle's ImageNet."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from maskgit_cli.data.sources.base import (
    ENDINGS,
    ImageFiles,
    Opening,
    Origin,
    SourceKind,
    is_image_name,
    listing,
)
from maskgit_cli.data.sources.imagenet_val import validation_labels
from maskgit_cli.errors import InputError
from maskgit_cli.formats.samples import SETTINGS_FILE

# Location of the training images in Kaggle's copy of ImageNet, below any of its upper folders.
IMAGENET_TRAIN = ("ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "CLS-LOC/train")
# Parts of a data set, in the order in which they are suggested; also train2017, val_256.
SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")
_SPLIT = re.compile(rf"({'|'.join(SPLITS)})[-_]?\d*")
# Files that are counted at a time.
COUNTED = 1000


def open_folder(path: Path, opening: Opening) -> ImageFiles:
    """List the images of a folder, in the order of their names.

    Hidden files and folders are ignored; symbolic links are followed. A file that cannot be read is
    listed, too: only reading it shows that it is not an image. The labels of ImageNet's validation images
    are read from a list near them.

    Raises:
        InputError: there is no image, the folder cannot be read, or its subfolders are not classes.
    """
    root = next((path / below for below in IMAGENET_TRAIN if (path / below).is_dir()), path)
    try:
        with listing(path, opening.reporter) as found:
            images, folders = _children(str(root), found)
            names, counts = list(images), []
            for folder in folders:
                before = len(names)
                names += _walk(os.path.join(root, folder), f"{folder}/", frozenset(), found)
                counts.append(len(names) - before)
    except OSError as error:
        raise InputError(f"{error.filename or root}: {str(error.strerror).lower()}") from error
    if images and any(counts):
        raise InputError(
            f"{root}: mixes images ({images[0]}) and class subfolders; move the images into a subfolder"
        )
    if images:
        labels, classes = validation_labels(root, images, opening.reporter)
        return ImageFiles(Origin(path, "images"), root, names, labels, classes)
    if not names:
        raise InputError(f"{root}: no images found (recognized extensions: {ENDINGS})")
    _check_classes(root, folders)
    repeated = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return ImageFiles(Origin(path, "images"), root, names, repeated, folders)


def _children(folder: str, found: Callable[[int], None]) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders directly in a folder, each in their order."""
    images, folders, count = [], [], 0
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries, 1):
            if count % COUNTED == 0:
                found(COUNTED)
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(entry.name)
            elif is_image_name(entry.name):
                images.append(entry.name)
        found(count % COUNTED)
    return sorted(images), sorted(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself; if it is named like an image, reading it reports the error


def _walk(folder: str, prefix: str, above: frozenset[str], found: Callable[[int], None]) -> list[str]:
    """All images below a folder, through symbolic links but never around a loop of them.

    Args:
        folder: the path of the folder.
        prefix: of the names that are returned.
        above: real paths of the folders that this one was reached through.
        found: counts files.
    """
    here = os.path.realpath(folder)
    if here in above:
        return []
    images, folders = _children(folder, found)
    names = [prefix + image for image in images]
    for child in folders:
        names += _walk(os.path.join(folder, child), f"{prefix}{child}/", above | {here}, found)
    return names


def first_split(folders: list[str]) -> str | None:
    """The part of a data set to begin with, ``train`` if it is there, if all folders are such parts."""
    kinds = [_SPLIT.fullmatch(folder.lower()) for folder in folders]
    splits = [match[1] for match in kinds if match]
    if not splits or len(splits) < len(folders):
        return None
    return min(zip(splits, folders, strict=True), key=lambda pair: SPLITS.index(pair[0]))[1]


def _check_classes(root: Path, folders: list[str]) -> None:
    """Refuse ``train/`` and ``val/``, and sample directories, as classes."""
    split = first_split(folders)
    if split is not None:
        names = ", ".join(folders)
        raise InputError(
            f"{root}: its folders ({names}) are splits, not classes; give {root / split} instead"
        )
    samples = [folder for folder in folders if (root / folder / SETTINGS_FILE).is_file()]
    if samples:
        raise InputError(
            f"{root}: its folders are sample directories, not classes; give {root / samples[0]} instead"
        )


SOURCE = SourceKind("a folder of images", Path.is_dir, open_folder)
