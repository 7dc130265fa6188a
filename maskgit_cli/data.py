"""Images in: where they lie, how a file becomes pixels as people see them, and how pixels become views.

Images are uint8 tensors (3, H, W) throughout; :func:`to_model` and :func:`to_pixels` are the only
way between them and the -1..1 that the networks see.
"""

from __future__ import annotations

import csv
import errno
import functools
import hashlib
import json
import logging
import os
import stat
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from maskgit_cli.artifacts.samples import SETTINGS_FILE
from maskgit_cli.config import VIEWS
from maskgit_cli.errors import InputError
from maskgit_cli.interrupts import outlive_interrupts

# The formats of pictures that people keep, by the names PIL gives them. Formats that PIL hands to an
# external program (EPS) or merely recognises (HDF5, GRIB) are left out on purpose.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "TGA", "ICO", "AVIF")
_ENDINGS = "png apng jpg jpeg jpe jfif webp bmp dib gif tif tiff ppm pgm pbm pnm jp2 j2k jpx tga ico avif"
EXTENSIONS = frozenset("." + ending for ending in _ENDINGS.split())
# A picture of 100 megapixels is welcome: it takes about 1 GB while it is read. Beyond 150 it is more
# likely a decompression bomb; PIL's own hard limit is 179.
MAX_PIXELS = 150_000_000
# A strip longer than this is refused: scaled so that its shorter side fits, it would need gigabytes.
MAX_ASPECT = 50
# A far larger image is first shrunk by a whole number (JPEG decodes at 1/2, 1/4 and 1/8 size at once),
# which saves time and memory. Keeping at least four times the wanted side leaves the antialiasing
# to the resize that comes afterwards.
SHRINK_MARGIN = 4
# The largest class number a CSV may hold; a larger one is a mistaken column.
MAX_LABEL = 1_000_000
# Corner crops come from an image this much larger, as in ImageNet practice (256 for crops of 224).
TEN_CROP_SCALE = 256 / 224
# Where the Kaggle copy of ImageNet keeps its training images, below any of its upper folders.
IMAGENET_TRAIN = ("ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train", "CLS-LOC/train")
SPLITS = frozenset({"train", "val", "valid", "validation", "test"})

# EXIF orientations other than 1, which is upright, and what undoes them (CIPA DC-008, tag Orientation).
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# PIL's plugins log about odd files; without a handler Python would print that on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


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


# --- sources ----------------------------------------------------------------------------------------


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


# --- files to pixels --------------------------------------------------------------------------------


@functools.cache
def _formats() -> list[str]:
    """Those of :data:`FORMATS` that the installed PIL reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def read_image(path: Path, side: int | None = None) -> Tensor:
    """Read an image as people see it: uint8 (3, H, W), RGB.

    EXIF orientation is applied, palettes, grey and CMYK become RGB, 16 bits are scaled to 8, anything
    transparent is laid on white, and of an animation it is the first frame.

    Args:
        path: the file.
        side: the shorter side wanted in the end; a far larger image is then shrunk while it is read,
            to no less than :data:`SHRINK_MARGIN` times that side.

    Raises:
        InputError: the file is missing, empty, truncated, too large, or not an image.
    """
    try:
        # An unreadable file can make PIL's plugins raise nearly anything, and warn meanwhile.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(path, side)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: not enough memory to read it") from error
    except Exception as error:
        raise InputError(f"{path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """One line that says why reading failed, without the path."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "empty file" if path.stat().st_size == 0 else "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 10**6} megapixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "damaged image (" + (" ".join(str(error).split()) or type(error).__name__) + ")"


def _decode(path: Path, side: int | None) -> Tensor:
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: not a file")  # opening a pipe would wait forever
    with Image.open(path, formats=_formats()) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            size = f"{width}×{height} pixels"
            raise InputError(f"{path}: {size}, more than {MAX_PIXELS // 10**6} megapixels")
        if side is not None:
            image.draft("", (side * SHRINK_MARGIN, side * SHRINK_MARGIN))
        image.load()
        rgb = _to_rgb(_upright(image))
        shrink = 1 if side is None else min(rgb.size) // (side * SHRINK_MARGIN)
        if shrink > 1:
            rgb = rgb.reduce(shrink)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image by its EXIF orientation, whatever else its EXIF holds."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except (SyntaxError, ValueError, struct.error):
        # The pixels have been read; viewers show a picture with damaged EXIF as it is, and so do we.
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, of which nobody knows what is white")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; PIL's own conversion clips at 255, which turns pictures white."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit pixels, of which nobody knows what is white")
    grey = Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
    if isinstance(image.info.get("transparency"), int):
        alpha = np.where(pixels == image.info["transparency"], 0, 255).astype(np.uint8)
        grey.putalpha(Image.fromarray(alpha))
    return grey


# --- pixels to views --------------------------------------------------------------------------------


def _resize(image: Tensor, side: int) -> Tensor:
    """Scale uint8 (3, H, W) so that its shorter side is ``side`` pixels, antialiased bilinear.

    Bilinear with antialiasing is what the report's tokenizer and transformer were trained on.
    """
    height, width = image.shape[-2:]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise InputError(f"{width}×{height} pixels: more than {MAX_ASPECT} times as long as wide")
    return transforms.resize(image, [side], interpolation=InterpolationMode.BILINEAR, antialias=True)


def fit_square(image: Tensor, side: int) -> Tensor:
    """The central square of uint8 (3, H, W), its shorter side scaled to ``side``: (3, side, side).

    Raises:
        InputError: the image is a strip, more than :data:`MAX_ASPECT` times as long as wide.
    """
    return transforms.center_crop(_resize(image, side), [side, side]).contiguous()


def views(image: Tensor, side: int, kind: str) -> Tensor:
    """Views of uint8 (3, H, W) that are tokenized: uint8 (V, 3, side, side).

    ``none`` is the central square; ``flip`` adds its mirror image; ``ten-crop`` scales the shorter
    side to 8/7 of ``side`` and takes [top left, top right, bottom left, bottom right, centre], then
    the mirror images of these five in the same order.

    Raises:
        InputError: the image is a strip, more than :data:`MAX_ASPECT` times as long as wide.
    """
    assert kind in VIEWS, kind
    if kind == "none":
        return fit_square(image, side)[None]
    if kind == "flip":
        squares = fit_square(image, side)[None]  # (1, 3, side, side)
    else:
        squares = torch.stack(
            transforms.five_crop(_resize(image, round(side * TEN_CROP_SCALE)), [side, side])
        )
    return torch.cat([squares, squares.flip(-1)])


def to_model(images: Tensor) -> Tensor:
    """Pixels uint8 in 0..255 to float32 in -1..1, of any shape."""
    return images.to(torch.float32) / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Floats, nominally in -1..1 and clamped to it, to the nearest uint8 pixels, of any shape."""
    return ((images.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


# --- loading ----------------------------------------------------------------------------------------


class ImageDataset(Dataset):
    """The images of a source as (index, uint8 (V, 3, side, side) or None, reason it is None or "").

    Args:
        source: the images.
        side: side in pixels of the squares.
        kind: which :func:`views` are taken.
    """

    def __init__(self, source: Source, side: int, kind: str = "none") -> None:
        self.source = source
        self.side = side
        self.kind = kind

    def __len__(self) -> int:
        return len(self.source.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, str]:
        path = self.source.paths[index]
        try:
            return index, views(read_image(path, self.side), self.side, self.kind), ""
        except InputError as error:
            return index, None, str(error).removeprefix(f"{path}: ")


class ImageBatch(NamedTuple):
    """What :func:`collate_images` makes of B items of an :class:`ImageDataset`, R of them readable.

    Attributes:
        indices: which images these are, int64 (R,).
        images: uint8 (R, V, 3, side, side); None if R is 0.
        skipped: (index, reason) of the B - R others.
    """

    indices: Tensor
    images: Tensor | None
    skipped: list[tuple[int, str]]


def collate_images(items: list[tuple[int, Tensor | None, str]]) -> ImageBatch:
    """Join items of an :class:`ImageDataset`, for a ``DataLoader``'s ``collate_fn``."""
    images = [image for _, image, _ in items if image is not None]
    indices = torch.tensor([index for index, image, _ in items if image is not None], dtype=torch.int64)
    skipped = [(index, reason) for index, image, reason in items if image is None]
    return ImageBatch(indices, torch.stack(images) if images else None, skipped)


def load_batches(
    dataset: ImageDataset, batches: Iterable[list[int]], workers: int, pinned: bool
) -> Iterator[ImageBatch]:
    """The images of each batch of indices, read by other processes.

    Args:
        dataset: the images.
        batches: the indices; as many batches as are wanted.
        workers: number of processes; 0 reads in this one.
        pinned: put images where a GPU can fetch them by itself.

    Raises:
        InputError: a process was killed, as happens where memory runs out.
    """
    with warnings.catch_warnings():
        # The number of workers is the user's choice, even where it is more than there are cores.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=_Batches(batches),
            num_workers=workers,
            collate_fn=collate_images,
            pin_memory=pinned,
            worker_init_fn=outlive_interrupts,
        )
        iterator = iter(loader)
    try:
        yield from iterator
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a process that reads images was killed, most likely for want of memory; use fewer --workers"
        ) from error


class _Batches(Sampler[list[int]]):
    """A ``DataLoader``'s batch sampler from any iterable."""

    def __init__(self, batches: Iterable[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def source_digest(source: Source) -> str:
    """Sha256 of the images' names and labels and the class names: which images, not what is in them."""
    listing = {"names": source.names, "labels": source.labels.tolist(), "class_names": source.class_names}
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
