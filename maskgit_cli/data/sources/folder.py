"""Image source: a folder of images, flat, with a subfolder per class (ImageFolder), or Kaggle's ImageNet."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np

from maskgit_cli.data.sources.base import Decoding, ImageFiles, Origin, SourceKind
from maskgit_cli.errors import InputError
from maskgit_cli.formats.samples import SETTINGS_FILE

ENDINGS = "png apng jpg jpeg jpe jfif webp bmp dib gif tif tiff ppm pgm pbm pnm jp2 j2k jpx tga ico avif"
EXTENSIONS = frozenset("." + ending for ending in ENDINGS.split())
# Location of the training images in Kaggle's copy of ImageNet, below any of its upper folders.
IMAGENET_TRAIN = ("ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "CLS-LOC/train")
SPLITS = frozenset({"train", "val", "valid", "validation", "test"})


def open_folder(path: Path, _: Decoding) -> ImageFiles:
    """List the images of a folder, in the order of their names.

    Hidden files and folders are ignored; symbolic links are followed. A file that cannot be read is
    listed, too: only reading it shows that it is not an image.

    Raises:
        InputError: there is no image, the folder cannot be read, or its subfolders are not classes.
    """
    root = next((path / below for below in IMAGENET_TRAIN if (path / below).is_dir()), path)
    try:
        images, folders = _children(root)
        by_class = {folder.name: list(_walk(folder, frozenset())) for folder in folders}
    except OSError as error:
        raise InputError(f"{error.filename or root}: {str(error.strerror).lower()}") from error
    counts = [len(group) for group in by_class.values()]
    if images and any(counts):
        raise InputError(
            f"{root}: mixes images ({images[0].name}) and class subfolders; move the images into a subfolder"
        )
    if images:
        return ImageFiles(Origin(path, "images"), images, [image.name for image in images])
    if not any(counts):
        raise InputError(f"{root}: no images found (recognized extensions: {ENDINGS})")
    _check_classes(root, folders)
    paths = [image for group in by_class.values() for image in group]
    names = [image.relative_to(root).as_posix() for image in paths]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return ImageFiles(Origin(path, "images"), paths, names, labels, list(by_class))


def _children(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images and the folders directly in a folder, each in the order of their names."""
    with os.scandir(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    folders = {e.name: folder / e.name for e in visible if _is_folder(e)}
    others = [folder / e.name for e in visible if e.name not in folders]
    return [path for path in others if path.suffix.lower() in EXTENSIONS], list(folders.values())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself; if it is named like an image, reading it reports the error


def _walk(folder: Path, above: frozenset[str]) -> list[Path]:
    """All images below a folder, through symbolic links but never around a loop of them."""
    here = os.path.realpath(folder)
    if here in above:
        return []
    images, folders = _children(folder)
    return images + [image for child in folders for image in _walk(child, above | {here})]


def _check_classes(root: Path, folders: list[Path]) -> None:
    """Refuse ``train/`` and ``val/`` with class subfolders, and sample directories, as classes."""
    if {folder.name.lower() for folder in folders} <= SPLITS and any(_children(f)[1] for f in folders):
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"{root}: its folders ({names}) are splits, not classes; give {folders[0]} instead")
    samples = [folder for folder in folders if (folder / SETTINGS_FILE).is_file()]
    if samples:
        raise InputError(
            f"{root}: its folders are sample directories, not classes; give {samples[0]} instead"
        )


SOURCE = SourceKind("a folder of images", Path.is_dir, open_folder)
