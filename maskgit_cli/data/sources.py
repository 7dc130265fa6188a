"""Where images lie: folders, ImageNet, CSVs."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskgit_cli.data.images import _ENDINGS, EXTENSIONS
from maskgit_cli.errors import InputError
from maskgit_cli.formats.samples import SETTINGS_FILE

# The largest class number a CSV may hold; a larger one is a mistaken column.
MAX_LABEL = 1_000_000
# Where the Kaggle copy of ImageNet keeps its training images, below any of its upper folders.
IMAGENET_TRAIN = ("ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "CLS-LOC/train")
SPLITS = frozenset({"train", "val", "valid", "validation", "test"})


class Source(NamedTuple):
    """A list of images.

    Attributes:
        paths: the N files.
        names: their N paths relative to the source, with forward slashes.
        labels: class numbers int32 (N,), -1 where there is none.
        class_names: name of each class, empty if there are none.
    """

    paths: list[Path]
    names: list[str]
    labels: np.ndarray
    class_names: list[str]


def list_images(path: Path, class_names: list[str] | None = None) -> Source:
    """List the images of a folder a class, a flat folder, the Kaggle ImageNet layout, or a CSV.

    Folders are listed in the order of their names; a CSV keeps its own order. A CSV has the columns
    ``path,label``, with or without that line at its top; relative paths are relative to it, and a
    label is a number, a name, or empty for none. Hidden files and folders are ignored.

    Args:
        path: the folder or the CSV.
        class_names: number the classes as this list does, rather than by the sorted names.

    Raises:
        InputError: nothing is there, there is no image, or a class isn't in ``class_names``.
    """
    if not path.exists():
        raise InputError(f"{path}: no such folder or file")
    if path.is_dir():
        return _list_folder(_imagenet_train(path), class_names)
    if path.suffix.lower() == ".csv":
        return _list_csv(path, class_names)
    raise InputError(f"{path}: neither a folder of images nor a .csv of path,label")


def _imagenet_train(path: Path) -> Path:
    for below in IMAGENET_TRAIN:
        if (path / below).is_dir():
            return path / below
    return path


def _list_folder(root: Path, class_names: list[str] | None) -> Source:
    try:
        images, folders = _children(root)
        inside = {folder.name: list(_walk(folder, frozenset())) for folder in folders}
    except OSError as error:
        raise InputError(f"{error.filename or root}: {str(error.strerror).lower()}") from error
    count = sum(map(len, inside.values()))
    if not images and not count:
        raise InputError(f"{root}: no image in it (known endings: {_ENDINGS})")
    if images and count:
        raise InputError(
            f"{root}: has images beside class folders ({images[0].name}); move them into a folder, or away"
        )
    if images:
        names = [image.name for image in images]
        return Source(images, names, np.full(len(images), -1, np.int32), class_names or [])
    _check_classes(root, folders)
    paths = [image for group in inside.values() for image in group]
    classes = [name for name, group in inside.items() for _ in group]
    labels, known = _number(classes, class_names or sorted(inside), root)
    return Source(paths, [image.relative_to(root).as_posix() for image in paths], labels, known)


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
        return False  # a link to itself; if it is called like an image, reading it says what is wrong


def _walk(folder: Path, above: frozenset[str]) -> list[Path]:
    """All images below a folder, through symbolic links but never around a loop of them."""
    here = os.path.realpath(folder)
    if here in above:
        return []
    images, folders = _children(folder)
    return images + [image for child in folders for image in _walk(child, above | {here})]


def _check_classes(root: Path, folders: list[Path]) -> None:
    """``train/`` and ``val/`` full of class folders are no classes, nor are what `sample` wrote."""
    if {folder.name.lower() for folder in folders} <= SPLITS and any(_children(f)[1] for f in folders):
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"{root}: its folders ({names}) are splits, not classes; give {folders[0]} instead")
    samples = [folder for folder in folders if (folder / SETTINGS_FILE).is_file()]
    if samples:
        raise InputError(f"{root}: its folders are sample directories, no classes; give {samples[0]} instead")


def _number(classes: list[str], class_names: list[str], where: Path) -> tuple[np.ndarray, list[str]]:
    """Class numbers int32 (N,) of class names; an empty name is no class, -1."""
    numbers = {name: i for i, name in enumerate(class_names)} | {"": -1}
    for name in classes:
        if name not in numbers:
            raise InputError(f"{where}: class {name!r} is not one of the {len(class_names)} known classes")
    return np.array([numbers[name] for name in classes], np.int32), class_names


def _list_csv(path: Path, class_names: list[str] | None) -> Source:
    rows = _read_csv(path)
    if not rows:
        raise InputError(f"{path}: no image in it")
    files, labels = [name for name, _ in rows], [label for _, label in rows]
    if all(_is_number(label) for label in labels if label) and any(labels):
        numbers = [int(label) if label else -1 for label in labels]
        known = class_names or [str(i) for i in range(_largest_label(path, numbers) + 1)]
        if min(numbers) < -1 or max(numbers) >= len(known):
            worst = min(numbers) if min(numbers) < -1 else max(numbers)
            raise InputError(f"{path}: label {worst} is outside 0..{len(known) - 1}")
        array = np.array(numbers, np.int32)
    else:
        array, known = _number(labels, class_names or sorted(set(labels) - {""}), path)
    return Source([path.parent / name for name in files], files, array, known)


def _read_csv(path: Path) -> list[tuple[str, str]]:
    """(path, label) of each line that isn't blank or the heading."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({' '.join(str(error).split())})") from error
    heading = [cell.lower() for cell in lines[0]] if lines else []
    columns = (0, 1)
    if "path" in heading and "label" in heading:
        columns = (heading.index("path"), heading.index("label"))
        lines[0] = []
    rows = []
    for number, cells in enumerate(lines, start=1):
        if not any(cells):
            continue
        if len(cells) <= max(columns) or not cells[columns[0]]:
            raise InputError(f"{path}: line {number} is not path,label")
        rows.append((cells[columns[0]].replace("\\", "/"), cells[columns[1]]))
    return rows


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _largest_label(path: Path, numbers: list[int]) -> int:
    if max(numbers) > MAX_LABEL:
        raise InputError(f"{path}: label {max(numbers)} is more than {MAX_LABEL}; is it the right column?")
    return max(numbers)


def source_digest(source: Source) -> str:
    """Sha256 of the images' names and labels and the class names: which images, not what is in them."""
    listing = {"names": source.names, "labels": source.labels.tolist(), "class_names": source.class_names}
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
