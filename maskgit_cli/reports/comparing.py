"""Stage ``compare``: pictures of several sets side by side, of the same class and number (the paper's
Figure 3), and the settings in which the sets differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskgit_cli.config.stages import CompareConfig
from maskgit_cli.data.classes import listed_classes, readable_name
from maskgit_cli.data.image_sets import ArrayImages, ImageSet, TokenImages, open_image_set
from maskgit_cli.data.sources import list_images
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.figures.grids import save_png
from maskgit_cli.figures.sheets import captioned_sheet, stack_sheets
from maskgit_cli.formats.atomic import check_output
from maskgit_cli.formats.samples import differing_settings, open_samples
from maskgit_cli.runtime.distributed import resolve_device
from maskgit_cli.runtime.progress import SILENT, Reporter

READ_AT_A_TIME = 16


class Compared(NamedTuple):
    """What :func:`compare` made.

    Attributes:
        path: the sheet.
        names: of the sets, as they stand left of their pictures.
        columns: class (empty where sets know none) and name of the pictures shown, from left to right.
        common: how many pictures all sets have.
        differences: settings that differ between sample directories: a value for each set, None where
            a set has no such setting.
    """

    path: Path
    names: list[str]
    columns: list[tuple[str, str]]
    common: int
    differences: dict[str, list[Any]]


class _Side(NamedTuple):
    """One set of pictures: its name, the pictures, and of each its class (or "") and its own name."""

    name: str
    images: ImageSet
    keys: list[tuple[str, str]]
    class_names: list[str]


def compare(
    sources: Sequence[Path],
    out: Path = Path("comparison.png"),
    config: CompareConfig = CompareConfig(),  # noqa: B008 (frozen)
    *,
    names: Sequence[str] = (),
    tokenizer: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Compared:
    """Set the same pictures of several sets one below the other: a row a set, a column a picture.

    Pictures belong together if their class and their name (its number, in a sample directory) are the
    same; where a set knows no classes, if their names are.

    Args:
        sources: sample directories, or what else :func:`~maskgit_cli.data.image_sets.open_image_set` opens.
        out: PNG to write.
        config: which pictures, and how many.
        names: one a set; none takes the names of the directories.
        tokenizer: decodes tokens of sets without pictures; None finds it.
        device: where tokens are decoded.
        overwrite: replace a sheet that is there.
        reporter: told what sets lack.

    Raises:
        ConfigError: names do not go with sets, or there is no such class.
        InputError: a set is missing, holds a name twice, or the sets have no picture in common.
        ArtifactError: a set is unfinished or damaged.
        OutputError: there is a sheet already, or it can't be written.
    """
    if len(sources) < 2:
        raise InputError("name two or more sample directories or folders of images")
    if names and len(names) != len(sources):
        raise ConfigError(f"--name is given {len(names)} times for {len(sources)} sets; name each, or none")
    check_output(out, overwrite)
    place = resolve_device(device)
    opened = [open_image_set(path, tokenizer, place) for path in sources]
    sides = [_side(name, x) for name, x in zip(names or _names(sources), opened, strict=True)]
    sides = _comparable(sides)
    common = _common(sides, reporter)
    chosen = _choose(common, sides, config)
    pictures = [_pictures(side, chosen) for side in sides]
    save_png(out, _sheet(_same_size(pictures, sides, reporter), sides, chosen, config.columns))
    settings = [side.images.origin for side in sides]
    differences = differing_settings([o.path if o.kind == "samples" else None for o in settings])
    return Compared(out, [side.name for side in sides], chosen, len(common), differences)


# --- which pictures ---------------------------------------------------------------------------------


def _names(sources: Sequence[Path]) -> list[str]:
    """What sets are called: by their own name, or all of their path where two have the same."""
    short = [path.resolve().name for path in sources]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, sources, strict=True)]


def _side(name: str, images: ImageSet) -> _Side:
    """List a set's pictures by class and name."""
    files, labels, class_names = _listing(images)
    shown = [readable_name(c) for c in class_names]
    classes = ["" if label < 0 else shown[label] if shown else f"class {label}" for label in labels]
    return _Side(
        name, images, [(c, PurePosixPath(f).stem) for c, f in zip(classes, files, strict=True)], shown
    )


def _listing(images: ImageSet) -> tuple[list[str], np.ndarray, list[str]]:
    """Names, class numbers (N,) and names of classes of a set."""
    origin = images.origin
    if isinstance(images, ArrayImages):
        return [f"{i:06d}" for i in range(len(images))], np.full(len(images), -1), []
    if origin.kind == "images":
        source = list_images(origin.path)
        return source.names, source.labels, source.class_names
    tokens = images.tokens if isinstance(images, TokenImages) else open_samples(origin.path).tokens
    return tokens.names, tokens.labels, tokens.meta.class_names


def _comparable(sides: Sequence[_Side]) -> list[_Side]:
    """Leave classes out where a set has none, and hold each set to one picture a name.

    Raises:
        InputError: a set holds a name twice.
    """
    if any(not kind for side in sides for kind, _ in side.keys):
        sides = [side._replace(keys=[("", name) for _, name in side.keys]) for side in sides]
    for side in sides:
        if len(set(side.keys)) < len(side.keys):
            kind, name = next(key for key in side.keys if side.keys.count(key) > 1)
            of = f" of {kind}" if kind else ""
            raise InputError(f"{side.images.origin.path}: two pictures{of} are called {name}; rename one")
    return list(sides)


def _common(sides: Sequence[_Side], reporter: Reporter) -> list[tuple[str, str]]:
    """The pictures that all sets have, in the order of the first.

    Raises:
        InputError: there is none.
    """
    everywhere = set[tuple[str, str]].intersection(*(set(side.keys) for side in sides))
    common = [key for key in sides[0].keys if key in everywhere]
    counts = ", ".join(f"{len(side.keys)} in {side.name}" for side in sides)
    if not common:
        firsts = ", ".join(f"{side.name} begins with {' '.join(side.keys[0]).strip()}" for side in sides)
        raise InputError(f"the sets have no picture of the same class and name: {firsts}")
    if any(len(side.keys) > len(common) for side in sides):
        reporter.info(f"{len(common)} pictures are common to all sets, of {counts}")
    return common


def _choose(
    common: Sequence[tuple[str, str]], sides: Sequence[_Side], config: CompareConfig
) -> list[tuple[str, str]]:
    """The pictures to show: of every class equally many, the first ones, class after class.

    Raises:
        ConfigError: there is no such class.
    """
    by_class: dict[str, list[tuple[str, str]]] = {}
    for key in common:
        by_class.setdefault(key[0], []).append(key)
    if config.classes is not None:
        by_class = {kind: by_class[kind] for kind in _wanted(config.classes, by_class, sides)}
    most = max(map(len, by_class.values()))
    rounds = range(most if config.per_class is None else min(most, config.per_class))
    # A first picture of each class, then a second: a number that cuts off cuts off evenly.
    turns = [keys[i] for i in rounds for keys in by_class.values() if i < len(keys)]
    limit = config.n if config.n is not None else len(turns) if config.per_class else CompareConfig.shown
    kept = set(turns[:limit])
    return [key for keys in by_class.values() for key in keys if key in kept]


def _wanted(words: str, by_class: dict[str, Any], sides: Sequence[_Side]) -> list[str]:
    """The classes that a user's words mean, in their order.

    Raises:
        ConfigError: no set has such a class, or not all of them.
    """
    if "" in by_class:
        raise ConfigError(f"--classes {words}: not every set knows the classes of its pictures")
    names = next((side.class_names for side in sides if side.class_names), [])
    numbers = [int(kind.removeprefix("class ")) for kind in by_class] if not names else []
    classes = len(names) or max(numbers) + 1
    labels = listed_classes(words, classes, names, "--classes")
    wanted = list(dict.fromkeys(names[label] if names else f"class {label}" for label in labels))
    for kind in wanted:
        if kind not in by_class:
            raise ConfigError(f"--classes {words}: no picture of {kind} is common to all sets")
    return wanted


# --- the sheet --------------------------------------------------------------------------------------


def _pictures(side: _Side, chosen: Sequence[tuple[str, str]]) -> list[Tensor]:
    """The chosen pictures of a set, each uint8 (3, H, W)."""
    place = {key: i for i, key in enumerate(side.keys)}
    rows = sorted(place[key] for key in chosen)  # sets are read in ascending order
    read = [image for batch in side.images.batches(rows, READ_AT_A_TIME) for image in batch]
    images = dict(zip(rows, read, strict=True))
    return [images[place[key]] for key in chosen]


def _same_size(
    pictures: Sequence[Sequence[Tensor]], sides: Sequence[_Side], reporter: Reporter
) -> list[Tensor]:
    """Enlarge all pictures to the largest among them; a list of sets, each uint8 (N, 3, H, W)."""
    sizes = [{(image.shape[1], image.shape[2]) for image in images} for images in pictures]
    height, width = (max(size[axis] for found in sizes for size in found) for axis in (0, 1))
    for side, found in zip(sides, sizes, strict=True):
        if found != {(height, width)}:
            shown = "several sizes" if len(found) > 1 else "×".join(map(str, reversed(next(iter(found)))))
            reporter.info(f"{side.name} has pictures of {shown}, enlarged here to fit {width}×{height}")
    return [torch.stack([_fitted(image, height, width) for image in images]) for images in pictures]


def _fitted(image: Tensor, height: int, width: int) -> Tensor:
    """Enlarge uint8 (3, h, w) as far as it fits, on white (3, height, width); pixels stay square."""
    h, w = image.shape[1:]
    factor = min(height / h, width / w)
    if factor.is_integer():
        large = image.repeat_interleave(int(factor), 1).repeat_interleave(int(factor), 2)
    else:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        resized = picture.resize((round(w * factor), round(h * factor)), Image.Resampling.LANCZOS)
        large = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    canvas = torch.full((3, height, width), 255, dtype=torch.uint8)
    top, left = (height - large.shape[1]) // 2, (width - large.shape[2]) // 2
    canvas[:, top : top + large.shape[1], left : left + large.shape[2]] = large
    return canvas


def _sheet(
    pictures: Sequence[Tensor], sides: Sequence[_Side], chosen: Sequence[tuple[str, str]], columns: int
) -> Tensor:
    """Bands of up to ``columns`` pictures, each with a row a set, one below the other."""
    bands = []
    columns = math.ceil(len(chosen) / math.ceil(len(chosen) / columns))  # bands of about one length
    for start in range(0, len(chosen), columns):
        keys = chosen[start : start + columns]
        images = torch.cat([images[start : start + columns] for images in pictures])
        # Samples are called by their number, with zeros before it.
        shown = [f"#{int(name)}" if name.isdecimal() else name for _, name in keys]
        headers = [f"{kind} {name}".strip() for (kind, _), name in zip(keys, shown, strict=True)]
        names = [side.name for side in sides]
        bands.append(captioned_sheet(images, len(keys), headers=headers, row_names=names))
    return stack_sheets(bands)
