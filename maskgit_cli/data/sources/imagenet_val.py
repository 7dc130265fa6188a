"""Classes of ImageNet's validation images, which lie in one flat folder: they are in a file beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskgit_cli.data.sources.csv_list import read_table
from maskgit_cli.errors import InputError
from maskgit_cli.formats.atomic import LARGEST_LIST, regular

_NAME = re.compile(r"(ILSVRC2012_val_(\d{8}))\.\w+")
_WORDNET_ID = re.compile(r"n\d{8}")
# Kaggle's file, one line per image: "ILSVRC2012_val_00000001,n03995372 85 1 499 272"; boxes are not read.
SOLUTION = "LOC_val_solution.csv"
# The development kit's, one number per line for the images in their order, and the table of these numbers.
GROUND_TRUTH, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
DEVKIT = ("", "data", "ILSVRC2012_devkit_t12/data", "devkit/data")
# Folders above the images in Kaggle's layout, ILSVRC/Data/CLS-LOC/val, and one more for the root.
LEVELS = 5


def is_imagenet_val(names: Sequence[str]) -> bool:
    """Whether all file names are those of ImageNet's validation images."""
    return bool(names) and all(_NAME.fullmatch(name) for name in names)


def validation_classes(folder: Path, names: Sequence[str]) -> tuple[np.ndarray, list[str]] | None:
    """Class indices int32 (N,) of validation images, and the WordNet id of each class, sorted as in training.

    Args:
        folder: of the images; :data:`SOLUTION` or the development kit is there, or in a folder above.
        names: of the images (N,).

    Returns:
        None if neither is there.

    Raises:
        InputError: the file cannot be read, or does not have one of the images.
    """
    above = [folder, *folder.resolve().parents[:LEVELS]]
    for root in above:
        if (root / SOLUTION).is_file():
            return _classes(root / SOLUTION, names, _solution(root / SOLUTION))
        for data in DEVKIT:
            if (root / data / GROUND_TRUTH).is_file():
                return _classes(root / data / GROUND_TRUTH, names, _ground_truth(root / data))
    return None


def _classes(path: Path, names: Sequence[str], found: dict[str, str]) -> tuple[np.ndarray, list[str]]:
    """Class indices and names of images, from the WordNet id of each image's name without its ending."""
    class_names = sorted(set(found.values()))
    index_of = {name: index for index, name in enumerate(class_names)}
    images = [name.rpartition(".")[0] for name in names]
    missing = next((name for name in images if name not in found), None)
    if missing is not None:
        raise InputError(f"{path}: has no line for {missing}; get the complete file")
    return np.fromiter((index_of[found[image]] for image in images), np.int32, len(images)), class_names


def _solution(path: Path) -> dict[str, str]:
    """The WordNet id of each image of Kaggle's file."""
    found = {}
    for number, cells in read_table(path)[1:]:
        wordnet_id = cells[1].split(" ")[0] if len(cells) > 1 else ""
        if not _WORDNET_ID.fullmatch(wordnet_id):
            raise InputError(f"{path}: line {number} has no WordNet id; get the file again")
        found[cells[0]] = wordnet_id
    return found


def _ground_truth(folder: Path) -> dict[str, str]:
    """The WordNet id of each image of the development kit, whose numbers are in no published order."""
    path = folder / GROUND_TRUTH
    regular(path, LARGEST_LIST)
    lines = path.read_text(encoding="ascii", errors="replace").split()
    ids = _synsets(folder / SYNSETS)
    unknown = next((line for line in lines if line not in ids), None)
    if unknown is not None:
        raise InputError(f"{path}: {unknown[:20]} is not a number of a class in {SYNSETS}")
    return {f"ILSVRC2012_val_{number:08d}": ids[line] for number, line in enumerate(lines, 1)}


def _synsets(path: Path) -> dict[str, str]:
    """The WordNet id of each of the development kit's numbers, as text."""
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            f"{path}: reading it needs SciPy: pip install scipy; or put Kaggle's {SOLUTION} beside the images"
        ) from error
    try:
        table = loadmat(path, squeeze_me=True)["synsets"]
        return {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in table}
    except Exception as error:  # the library on other files can raise nearly anything
        raise InputError(f"{path}: not the development kit's table of classes") from error
