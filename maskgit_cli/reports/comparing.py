"""Stage ``compare``: matching images of several sets in a grid, one row per set (the paper's Figure 3),
and the settings in which the sets differ.
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

from maskgit_cli.config.arguments import PathArgument, checked, labels_text, optional_path, path_list
from maskgit_cli.config.stages import VIEWS, CompareConfig
from maskgit_cli.data.classes import listed_classes, readable_name
from maskgit_cli.data.images import views
from maskgit_cli.data.sources import ImageSource, open_source
from maskgit_cli.data.sources.tokens import TokenImages
from maskgit_cli.errors import ConfigError, InputError, counted
from maskgit_cli.figures.grids import png_bytes
from maskgit_cli.figures.sheets import captioned_sheet, stack_sheets
from maskgit_cli.formats.atomic import parent, sha256_bytes, sha256_file, write_bytes
from maskgit_cli.formats.claim import Found, Outcome, OutputKind, check_output, claim
from maskgit_cli.formats.decoded import DECODED_FILE, read_decoded
from maskgit_cli.formats.samples import differing_settings
from maskgit_cli.runtime.distributed import resolve_device
from maskgit_cli.runtime.progress import SILENT, Reporter

READ_BATCH = 16
# Views whose first one is a corner of the image, not its center.
CORNER = "ten-crop"
# An image by its class ("" if unknown) and its name.
Key = tuple[str, str]


def sheet_record(path: Path, sha256: str) -> dict[str, Any]:
    """The record of a sheet: a PNG has none of its own, so equal bytes are an equal sheet."""
    return {"parents": [parent("pixels", path, sha256)]}


def _find_sheet(path: Path) -> Found:
    return Found(sheet_record(path, sha256_file(path)), True)


SHEET = OutputKind("a sheet", _find_sheet, folder=False, out="--out", suffix=".png")


class Compared(NamedTuple):
    """Result of :func:`compare`.

    Attributes:
        path: the sheet.
        names: of the sets, as shown left of their rows.
        columns: class (empty if unknown) and name of the images shown, from left to right.
        common: number of images that all sets have.
        differences: settings that differ between sample directories: a value for each set, None where
            a set has no such setting.
    """

    path: Path
    names: list[str]
    columns: list[Key]
    common: int
    differences: dict[str, list[Any]]


class _ImageSet(NamedTuple):
    """One set: its name, its images, the key of each image, and its class names for people."""

    name: str
    images: ImageSource
    keys: list[Key]
    class_names: list[str]


@checked
def compare(
    sources: Sequence[PathArgument],
    out: PathArgument = Path("comparison.png"),
    config: CompareConfig = CompareConfig(),  # noqa: B008 (frozen)
    *,
    names: Sequence[str] = (),
    tokenizer: PathArgument | None = None,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Compared:
    """Arrange matching images of several sets in a grid: a row per set, a column per image.

    Images match if their class and name (in a sample directory, the number) are equal; if a set has no
    classes, only names count. Where a set was decoded or sampled, photographs of other sets are resized and
    cropped as ``tokenize`` does, so that a column shows the same region.

    Args:
        sources: sample directories, or other paths for :func:`~maskgit_cli.data.sources.open_source`.
        out: PNG to write.
        config: which images, and how many.
        names: one per set; empty uses the names of the directories.
        tokenizer: decodes the tokens of sets without images; None finds it.
        device: where tokens are decoded.
        overwrite: replace an existing sheet.
        reporter: receives what is left out.

    Raises:
        ConfigError: the number of names differs from that of sets, there is no such class, or no set is
            decoded by the tokenizer that is given.
        InputError: a set is missing or has duplicate names, or the sets have no image in common.
        ArtifactError: a set is unfinished or damaged.
        OutputError: the sheet exists or cannot be written.
    """
    sources, out, tokenizer = path_list(sources), Path(out), optional_path(tokenizer)
    if len(sources) < 2:
        raise InputError("compare needs two or more sample directories or folders of images")
    if names and len(names) != len(sources):
        raise ConfigError(
            f"--name: {counted(len(names), 'name')} for {len(sources)} sets; name each, or none"
        )
    check_output(out, SHEET)
    target = resolve_device(device)
    opened = [open_source(path, tokenizer, target, reporter) for path in sources]
    if tokenizer is not None and not any(images.decoded for images in opened):
        raise ConfigError(
            f"--tokenizer {tokenizer}: every set has images, so no tokens are decoded; leave it out"
        )
    sets = [_image_set(name, x) for name, x in zip(names or _names(sources), opened, strict=True)]
    sets = _comparable(sets)
    common = _common(sets, reporter)
    chosen = _choose(common, sets, config)
    read = _same_region([_read(one, chosen) for one in sets], sets, reporter)
    images = _same_size(read, sets, reporter)
    png = png_bytes(_sheet(images, sets, chosen, config.columns))
    with claim(
        out, SHEET, sheet_record(out, sha256_bytes(png)), overwrite=overwrite, warn=reporter.warn
    ) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
        else:
            write_bytes(out, png)
    origins = [source.origin for source in opened]
    differences = differing_settings([o.path if o.kind == "samples" else None for o in origins])
    return Compared(out, [one.name for one in sets], chosen, len(common), differences)


# --- which images -----------------------------------------------------------------------------------


def _names(sources: Sequence[Path]) -> list[str]:
    """The sets' own names, or their paths where two names are equal."""
    short = [path.resolve().name for path in sources]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, sources, strict=True)]


def _image_set(name: str, images: ImageSource) -> _ImageSet:
    class_names = [readable_name(c) for c in images.class_names]
    classes = [
        "" if label < 0 else class_names[label] if class_names else f"class {label}"
        for label in images.labels
    ]
    keys = [(c, PurePosixPath(n).stem) for c, n in zip(classes, images.names, strict=True)]
    return _ImageSet(name, images, keys, class_names)


def _comparable(sets: list[_ImageSet]) -> list[_ImageSet]:
    """Sets whose keys have no class if a set has images without one.

    Raises:
        InputError: a set has two images of one key.
    """
    if any(not kind for one in sets for kind, _ in one.keys):
        sets = [one._replace(keys=[("", name) for _, name in one.keys]) for one in sets]
    for one in sets:
        if len(set(one.keys)) < len(one.keys):
            kind, name = next(key for key in one.keys if one.keys.count(key) > 1)
            of = f" of {kind}" if kind else ""
            raise InputError(f"{one.images.origin.path}: two images{of} are named {name}; rename one")
    return sets


def _common(sets: Sequence[_ImageSet], reporter: Reporter) -> list[Key]:
    """The keys that all sets have, in the order of the first set.

    Raises:
        InputError: there is none.
    """
    everywhere = set[Key].intersection(*(set(one.keys) for one in sets))
    common = [key for key in sets[0].keys if key in everywhere]
    if not common:
        firsts = ", ".join(f"{one.name} has {' '.join(one.keys[0]).strip()}" for one in sets)
        raise InputError(f"the sets have no image of the same class and name: {firsts}, ...")
    if any(len(one.keys) > len(common) for one in sets):
        counts = ", ".join(f"{len(one.keys)} in {one.name}" for one in sets)
        reporter.info(f"{len(common)} images are common to all sets, of {counts}")
    return common


def _choose(common: Sequence[Key], sets: Sequence[_ImageSet], config: CompareConfig) -> list[Key]:
    """The images to show: the first ones of each class, equally many, class by class.

    Raises:
        ConfigError: there is no such class.
    """
    by_class: dict[str, list[Key]] = {}
    for key in common:
        by_class.setdefault(key[0], []).append(key)
    if config.classes is not None:
        by_class = {kind: by_class[kind] for kind in _wanted(labels_text(config.classes), by_class, sets)}
    most = max(map(len, by_class.values()))
    rounds = range(most if config.per_class is None else min(most, config.per_class))
    # The first image of each class, then the second: a limit cuts off evenly.
    ordered = [keys[i] for i in rounds for keys in by_class.values() if i < len(keys)]
    limit = config.n if config.n is not None else len(ordered) if config.per_class else CompareConfig.shown
    kept = set(ordered[:limit])
    return [key for keys in by_class.values() for key in keys if key in kept]


def _wanted(spec: str, by_class: dict[str, Any], sets: Sequence[_ImageSet]) -> list[str]:
    """The classes of ``--classes``, in its order.

    Raises:
        ConfigError: no set has such a class, or not all of them have.
    """
    if "" in by_class:
        raise ConfigError(f"--classes {spec}: not every set has class labels")
    names = next((one.class_names for one in sets if one.class_names), [])
    numbers = [int(kind.removeprefix("class ")) for kind in by_class] if not names else []
    classes = len(names) or max(numbers) + 1
    labels = listed_classes(spec, classes, names, "--classes")
    wanted = list(dict.fromkeys(names[label] if names else f"class {label}" for label in labels))
    for kind in wanted:
        if kind not in by_class:
            raise ConfigError(f"--classes {spec}: no image of {kind} is common to all sets")
    return wanted


# --- the sheet --------------------------------------------------------------------------------------


def _read(one: _ImageSet, chosen: Sequence[Key]) -> list[Tensor]:
    """The chosen images of a set, each uint8 (3, H, W)."""
    index_of = {key: i for i, key in enumerate(one.keys)}
    indices = sorted(index_of[key] for key in chosen)  # sources are read in ascending order
    read = [image for batch in one.images.batches(indices, READ_BATCH) for image in batch]
    images = dict(zip(indices, read, strict=True))
    return [images[index_of[key]] for key in chosen]


class _Region(NamedTuple):
    """The part of an image that a model's images show: the first of the views at a resolution."""

    side: int
    views: str


def _region_of(images: ImageSource, shown: Sequence[Tensor]) -> _Region | None:
    """The region that a set shows of its originals; None of photographs, which are originals themselves.

    Args:
        images: the set.
        shown: those of its images that are shown.

    Raises:
        ArtifactError: the record of a folder of decoded images is damaged.
    """
    if isinstance(images, TokenImages):
        return _Region(images.tokens.meta.resolution, images.tokens.meta.views)
    if images.origin.kind == "samples" and _are_squares(shown):
        return _Region(shown[0].shape[1], "none")
    if not (images.origin.path / DECODED_FILE).is_file():
        return None
    record = read_decoded(images.origin.path)
    side, kind = record.get("resolution"), record.get("tokenized_views")
    return _Region(side, kind) if isinstance(side, int) and kind in VIEWS else None


def _are_squares(images: Sequence[Tensor]) -> bool:
    """Whether images (3, H, W) are squares of one size."""
    return {image.shape[1:] for image in images} == {(images[0].shape[1],) * 2}


def _same_region(
    images: Sequence[list[Tensor]], sets: Sequence[_ImageSet], reporter: Reporter
) -> list[list[Tensor]]:
    """The images of each set; photographs cropped to the region that was tokenized, if one set shows that.

    Squares of one size show the same region as they are, unless tokens are of a corner.
    """
    found = [_region_of(one.images, row) for one, row in zip(sets, images, strict=True)]
    region = max(filter(None, found), default=None)
    if region is None:
        return list(images)
    cropped = []
    for one, row, own in zip(sets, images, found, strict=True):
        whole = _are_squares(row) and region.views != CORNER
        if own is not None or one.images.origin.kind == "samples" or whole:
            cropped.append(row)
            continue
        reporter.info(f"{one.name}: cropped to {region.side}×{region.side} as tokenize does")
        cropped.append([views(image, region.side, region.views)[0] for image in row])
    return cropped


def _same_size(
    images: Sequence[Sequence[Tensor]], sets: Sequence[_ImageSet], reporter: Reporter
) -> list[Tensor]:
    """Enlarge all images to the largest size among them: uint8 (N, 3, H, W) for each set."""
    sizes = [{(image.shape[1], image.shape[2]) for image in row} for row in images]
    height, width = (max(size[axis] for found in sizes for size in found) for axis in (0, 1))
    for one, found in zip(sets, sizes, strict=True):
        if found != {(height, width)}:
            shown = "several sizes" if len(found) > 1 else "×".join(map(str, reversed(next(iter(found)))))
            reporter.info(f"{one.name} has images of {shown}, enlarged to fit {width}×{height}")
    return [torch.stack([_enlarged(image, height, width) for image in row]) for row in images]


def _enlarged(image: Tensor, height: int, width: int) -> Tensor:
    """Enlarge uint8 (3, h, w) to fit, centered on white (3, height, width); the aspect ratio is kept."""
    h, w = image.shape[1:]
    factor = min(height / h, width / w)
    if factor.is_integer():
        large = image.repeat_interleave(int(factor), 1).repeat_interleave(int(factor), 2)
    else:
        resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
            (round(w * factor), round(h * factor)), Image.Resampling.LANCZOS
        )
        large = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    canvas = torch.full((3, height, width), 255, dtype=torch.uint8)
    top, left = (height - large.shape[1]) // 2, (width - large.shape[2]) // 2
    canvas[:, top : top + large.shape[1], left : left + large.shape[2]] = large
    return canvas


def _sheet(
    images: Sequence[Tensor], sets: Sequence[_ImageSet], chosen: Sequence[Key], columns: int
) -> Tensor:
    """Bands of up to ``columns`` images, each with a row per set, one below the other."""
    bands = []
    columns = math.ceil(len(chosen) / math.ceil(len(chosen) / columns))  # bands of about one length
    for start in range(0, len(chosen), columns):
        keys = chosen[start : start + columns]
        band = torch.cat([row[start : start + columns] for row in images])
        # Samples are named by their number, with leading zeros.
        shown = [f"#{int(name)}" if name.isdecimal() else name for _, name in keys]
        headers = [f"{kind} {name}".strip() for (kind, _), name in zip(keys, shown, strict=True)]
        bands.append(captioned_sheet(band, len(keys), headers=headers, row_names=[one.name for one in sets]))
    return stack_sheets(bands)
