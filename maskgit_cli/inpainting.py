"""Stage ``inpaint``: draw a part of a picture anew (arXiv 2310.14400, Figure 5).

The picture keeps its size. A square window around what is masked is cut out, scaled to the model's
resolution and tokenized; the codes of masked cells are drawn; the result is scaled back and pasted
into masked pixels only, so that every other pixel comes back bit for bit.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from maskgit_cli.artifacts.atomic import parent, sha256_file
from maskgit_cli.artifacts.samples import SampleWriter, read_png, samples_digest, samples_record
from maskgit_cli.artifacts.tokens import TokenFile
from maskgit_cli.config import InpaintConfig
from maskgit_cli.data import read_image, to_model
from maskgit_cli.drawing import Job, SamplerChoice, choose_sampler, fewer_steps, fill_samples
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.grids import image_grid
from maskgit_cli.inference import (
    DECODER_ROWS,
    Generator,
    apply_to_rows,
    choose_model,
    decode_codes,
    load_generator,
)
from maskgit_cli.labels import NO_CLASS, find_label
from maskgit_cli.progress import SILENT, Reporter

# The window is at least this many times as large as what is masked, so that the model sees as much of
# the picture as it draws; unless the picture ends first.
CONTEXT = 2
# A mask's pixels from here on are white.
WHITE = 128
# The sheet shows large pictures at this many pixels on their longer side, this many in a row.
SHEET_SIDE = 512
SHEET_COLUMNS = 8


class Window(NamedTuple):
    """The square of the picture that the model works on, in pixels; it may reach beyond the picture.

    Attributes:
        x: left edge.
        y: upper edge.
        side: width and height.
    """

    x: int
    y: int
    side: int


class Inpainted(NamedTuple):
    """What :func:`inpaint` did.

    Attributes:
        path: the sample directory.
        images: how many variants it holds.
        tokens: how many codes of each were drawn.
        window: the square that the model worked on.
        model: the run or model directory.
        settings: all settings, resolved.
        resumed: whether an earlier call had done some of the work, or all of it.
    """

    path: Path
    images: int
    tokens: int
    window: Window
    model: Path
    settings: dict[str, Any]
    resumed: bool


def inpaint(
    image: Path,
    model: Path | None = None,
    out: Path | None = None,
    mask: Path | None = None,
    config: InpaintConfig | None = None,
    sampler: SamplerChoice = None,
    *,
    batch_size: int = 16,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Inpainted:
    """Draw the masked part of a picture anew, in one or more variants, into a sample directory.

    Args:
        image: a picture of any size that can be read; transparent parts are laid on white.
        model: run or model directory; None is the newest run under ``runs/``, else the built-in model.
        out: the sample directory; None is ``samples/IMAGE-DIGEST`` with a digest of the settings.
        mask: a picture of the same size, white where it is drawn anew; either this or ``config.box``.
        config: what is drawn, and how it is pasted.
        sampler: settings of the sampler, or changes to the preset for the model's resolution. More steps
            than codes to draw are cut down to one code a step.
        batch_size: variants drawn at a time by each process.
        device: where the networks run.
        dtype: precision of the transformer's matrix products.
        overwrite: replace finished samples, and unfinished ones of other settings.
        reporter: told of progress.

    Raises:
        ConfigError: a setting is out of range, the box isn't inside the picture, there is no such class,
            or both or neither of mask and box are given.
        InputError: the picture or mask cannot be read, their sizes differ, or nothing is masked.
        ArtifactError: the model is incomplete, damaged, or gives NaN.
        OutputError: the directory holds something else, or cannot be written.
    """
    config = config or InpaintConfig()
    if (mask is None) == (config.box is None):
        raise ConfigError("say what to draw anew with either --mask or --box")
    picture = read_image(image)  # (3, H, W)
    masked = box_mask(config.box, picture) if config.box is not None else read_mask(mask, picture)
    generator = load_generator(choose_model(model, reporter), config.weights, device, dtype)
    window = choose_window(masked, generator.model.resolution)
    job = _plan(generator, picture, masked, window, config, sampler, reporter)
    parents = [*generator.parents(), parent("image", image.resolve(), sha256_file(image))]
    if mask is not None:
        parents.append(parent("mask", mask.resolve(), sha256_file(mask)))
    record = samples_record("inpaint", _settings(job, config, window), parents, config.n)
    out = out or Path("samples") / f"{image.stem}-{samples_digest(record)}"
    blend = blend_weights(masked, config.feather)  # (H, W)

    def render(codes: Tensor) -> list[Tensor]:
        drawn = decode_codes(generator.tokenizer, codes, generator.device)
        return [paste(picture, square, window, blend) for square in drawn]

    def sheet(writer: SampleWriter, tokens: TokenFile) -> Tensor:
        drawn = [torch.from_numpy(read_png(writer.image_path(row))) for row in range(len(tokens))]
        return _sheet(picture, masked, [x.permute(2, 0, 1) for x in drawn])

    resumed = fill_samples(
        out, record, job, render, sheet, batch_size=batch_size, overwrite=overwrite, reporter=reporter
    )
    tokens = int((job.canvas == generator.model.config.codebook_size).sum())
    return Inpainted(out, config.n, tokens, window, generator.model.path, record["settings"], resumed)


def _plan(
    generator: Generator,
    picture: Tensor,
    masked: Tensor,
    window: Window,
    config: InpaintConfig,
    choice: SamplerChoice,
    reporter: Reporter,
) -> Job:
    """Resolve what depends on model and picture: the class, the canvas, the steps."""
    model = generator.model
    label = NO_CLASS
    if config.label is not None:
        label = find_label(config.label, model.config.classes, model.class_names)
    canvas = _canvas(generator, picture, masked, window, config.mask_rule)
    sampler = choose_sampler(choice, model, label != NO_CLASS)
    unknown = int((canvas == model.config.codebook_size).sum())
    sampler = fewer_steps(sampler, unknown, reporter)
    labels = np.full(config.n, label, np.int64)
    return Job(generator, np.arange(config.n), labels, canvas, sampler, config.seed)


def _settings(job: Job, config: InpaintConfig, window: Window) -> dict[str, Any]:
    """Everything that the pictures depend on, as JSON values."""
    return {
        "n": config.n,
        "label": int(job.labels[0]),
        "box": list(config.box) if config.box is not None else None,
        "mask_rule": config.mask_rule,
        "feather": config.feather,
        "window": list(window),
        "weights": config.weights,
        "seed": config.seed,
        "dtype": str(job.generator.dtype).removeprefix("torch."),
        "sampler": job.sampler.describe(),
    }


# --- what is masked ---------------------------------------------------------------------------------


def box_mask(box: tuple[int, int, int, int], picture: Tensor) -> Tensor:
    """True inside a box (x, y, width, height) in pixels of a picture (3, H, W): bool (H, W).

    Raises:
        ConfigError: the box is empty or not wholly inside the picture.
    """
    x, y, width, height = box
    text = ",".join(map(str, box))
    if width < 1 or height < 1:
        raise ConfigError(f"--box {text}: width and height must be 1 or more")
    if x < 0 or y < 0 or x + width > picture.shape[2] or y + height > picture.shape[1]:
        size = f"{picture.shape[2]}×{picture.shape[1]}"
        raise ConfigError(f"--box {text}: reaches beyond the image, which is {size} pixels")
    masked = torch.zeros(picture.shape[1:], dtype=torch.bool)
    masked[y : y + height, x : x + width] = True
    return masked


def read_mask(path: Path | None, picture: Tensor) -> Tensor:
    """True where a mask for a picture (3, H, W) is white: bool (H, W).

    White is a luma (ITU-R 601) of 128 or more. Transparent pixels (alpha below 128) count as black, so
    that white strokes on a transparent layer are a mask too.

    Raises:
        InputError: the mask cannot be read, has another size than the picture, or no white pixel.
    """
    assert path is not None
    pixels = read_image(path).to(torch.int32)  # (3, H, W)
    if pixels.shape != picture.shape:
        have, want = (f"{x.shape[2]}×{x.shape[1]}" for x in (pixels, picture))
        raise InputError(f"{path}: the mask is {have} pixels, the image {want}; they must have one size")
    luma = 299 * pixels[0] + 587 * pixels[1] + 114 * pixels[2]
    masked = (luma >= 1000 * WHITE) & _opaque(path)
    if not masked.any():
        raise InputError(f"{path}: nothing is masked; paint white what is to be drawn anew")
    return masked


def _opaque(path: Path) -> Tensor:
    """True where a picture, which could be read, isn't transparent: bool (H, W), or () for all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PIL, about large pictures
        with Image.open(path) as image:
            if not image.has_transparency_data:
                return torch.tensor(True)
            upright = ImageOps.exif_transpose(image)
            return torch.from_numpy(np.array(upright.convert("RGBA"))[..., 3] >= WHITE)


# --- the window -------------------------------------------------------------------------------------


def choose_window(masked: Tensor, resolution: int) -> Window:
    """The square that the model works on, for a mask (H, W) with something masked.

    Its side is that of the model's resolution, or :data:`CONTEXT` times the longer side of the masked
    part's bounding box if that is more; but no more than the shorter side of the picture, unless the
    bounding box is longer than that. It is centred on the bounding box as far as the picture reaches.

    Args:
        masked: True where the picture is drawn anew.
        resolution: of the model, in pixels.
    """
    height, width = masked.shape
    top, bottom = _extent(masked.any(1))
    left, right = _extent(masked.any(0))
    longest = max(bottom - top, right - left)
    side = max(longest, min(max(resolution, CONTEXT * longest), height, width))
    return Window(_place(left, right, side, width), _place(top, bottom, side, height), side)


def _extent(line: Tensor) -> tuple[int, int]:
    """First and one past the last True of bool (N,)."""
    found = line.nonzero()
    return int(found[0]), int(found[-1]) + 1


def _place(start: int, stop: int, side: int, length: int) -> int:
    """Where a line of ``side`` pixels begins that is centred on start..stop, inside 0..length if it fits."""
    if side >= length:
        return (length - side) // 2  # as much beyond one end as beyond the other
    return min(max((start + stop - side) // 2, 0), length - side)


def cut(x: Tensor, window: Window) -> Tensor:
    """A window of (C, H, W); beyond the picture its last rows and columns are repeated."""
    rows = torch.arange(window.y, window.y + window.side).clamp(0, x.shape[1] - 1)
    columns = torch.arange(window.x, window.x + window.side).clamp(0, x.shape[2] - 1)
    return x[:, rows][:, :, columns]


def _inside(masked: Tensor, window: Window) -> Tensor:
    """A window of a mask (H, W), True also beyond the picture: nobody knows what is there."""
    rows, columns = (torch.arange(start, start + window.side) for start in (window.y, window.x))
    above_or_below = (rows < 0) | (rows >= masked.shape[0])
    beside = (columns < 0) | (columns >= masked.shape[1])
    return cut(masked[None], window)[0] | above_or_below[:, None] | beside


def _resize(image: Tensor, side: int) -> Tensor:
    """Scale a square uint8 (3, S, S) to (3, side, side); the same pixels if it has that size already."""
    if image.shape[-1] == side:
        return image
    smooth = InterpolationMode.BICUBIC if side > image.shape[-1] else InterpolationMode.BILINEAR
    # In floats, as PyTorch's own way with uint8 fails where the result is a single pixel.
    scaled = transforms.resize(image.float(), [side, side], interpolation=smooth, antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


# --- from pixels to codes and back ------------------------------------------------------------------


def masked_cells(masked: Tensor, grid: int, rule: str) -> Tensor:
    """Which codes are drawn anew: bool (grid, grid) for the window's mask (S, S).

    The window's S pixels are divided evenly into ``grid`` cells a side, so that a cell's edge may go
    through a pixel. ``any`` draws a code if a masked pixel touches its cell, ``majority`` if more than
    half of the cell's area is masked.
    """
    side = masked.shape[0]
    pixel, cell = torch.arange(side), torch.arange(grid)[:, None]
    # Lengths in units of 1/(side·grid) of the window, in which all edges are whole numbers.
    ends = torch.minimum((pixel + 1) * grid, (cell + 1) * side)
    overlap = (ends - torch.maximum(pixel * grid, cell * side)).clamp(min=0).double()  # (grid, S)
    area = overlap @ masked.double() @ overlap.T  # (grid, grid), exact: whole numbers below 2^53
    return area > 0 if rule == "any" else 2 * area > side * side


def _canvas(generator: Generator, picture: Tensor, masked: Tensor, window: Window, rule: str) -> Tensor:
    """The window's codes (h, w) with the mask code where one is to be drawn.

    Raises:
        ConfigError: the rule leaves nothing to draw.
    """
    sizes = generator.model.config
    cells = masked_cells(_inside(masked, window), sizes.grid, rule)
    if not cells.any():
        grid = f"{sizes.grid}×{sizes.grid}"
        raise ConfigError(f"--mask-rule {rule}: none of the {grid} cells is mostly masked; use any")
    square = to_model(_resize(cut(picture, window), generator.model.resolution))[None]  # (1, 3, S, S)
    encode = generator.tokenizer.network.encode
    codes = apply_to_rows(encode, (square,), generator.device, DECODER_ROWS)[0]  # (h, w)
    return codes.masked_fill(cells, sizes.codebook_size)


def blend_weights(masked: Tensor, feather: int) -> Tensor:
    """How much of the drawn picture each pixel takes: float32 (H, W), 0 outside the mask.

    Inside it, a pixel d pixels away from the nearest one outside (diagonals count 1) takes d/(feather+1),
    and 1 from there on. The picture's own border is no edge of the mask.
    """
    outside = (~masked).float()[None]  # (1, H, W)
    weights = torch.zeros_like(outside)
    for _ in range(feather + 1):
        weights += 1 - outside
        outside = F.max_pool2d(outside, 3, stride=1, padding=1)
    return (weights / (feather + 1))[0]


def paste(picture: Tensor, drawn: Tensor, window: Window, blend: Tensor) -> Tensor:
    """The picture uint8 (3, H, W) with what was drawn, uint8 (3, S, S), where ``blend`` (H, W) isn't 0."""
    square = _resize(drawn, window.side)
    height, width = blend.shape
    rows = slice(max(window.y, 0), min(window.y + window.side, height))
    columns = slice(max(window.x, 0), min(window.x + window.side, width))
    part = square[
        :, rows.start - window.y : rows.stop - window.y, columns.start - window.x : columns.stop - window.x
    ]
    weight, old = blend[rows, columns], picture[:, rows, columns]
    mixed = (old + weight * (part.float() - old)).round().to(torch.uint8)
    result = picture.clone()
    result[:, rows, columns] = torch.where(weight > 0, mixed, old)
    return result


def _sheet(picture: Tensor, masked: Tensor, drawn: list[Tensor]) -> Tensor:
    """The picture, its mask in white on black, and what was drawn, side by side."""
    mask = masked.to(torch.uint8).mul(255).expand(3, -1, -1)
    images = torch.stack([picture, mask, *drawn])  # (2 + n, 3, H, W)
    longer = max(images.shape[2:])
    if longer > SHEET_SIDE:
        size = [max(1, round(x * SHEET_SIDE / longer)) for x in images.shape[2:]]
        images = transforms.resize(images, size, antialias=True)
    return image_grid(images, min(len(images), SHEET_COLUMNS))
