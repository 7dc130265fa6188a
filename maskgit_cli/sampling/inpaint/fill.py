"""Windows of images filled by the model: cut out, tokenized, sampled, decoded, and pasted back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from maskgit_cli.config.arguments import Label
from maskgit_cli.config.base import require
from maskgit_cli.config.inpaint import InpaintConfig
from maskgit_cli.config.samplers import SamplerConfig
from maskgit_cli.data.classes import NO_CLASS, find_label
from maskgit_cli.errors import ConfigError
from maskgit_cli.networks.inference import DECODER_ROWS, apply_to_rows
from maskgit_cli.networks.loading import Model
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.inpaint.regions import Edit, Region, find_region
from maskgit_cli.sampling.inpaint.windows import Window, WindowPlan, plan_windows
from maskgit_cli.sampling.model import Pipeline
from maskgit_cli.sampling.samplers.registry import sample_tokens


class Variant(NamedTuple):
    """One variant of an image that is being inpainted.

    Attributes:
        image: uint8 (3, H, W), changed in place as windows are filled.
        plan: its windows.
        alpha: opacity of what is generated, float32 (H, W).
        number: of the variant, from 0.
        seed: of its first window.
    """

    image: Tensor
    plan: WindowPlan
    alpha: Tensor
    number: int
    seed: int


class Variants:
    """The variants of some edits, whose images are read when they are needed.

    Args:
        edits: what is inpainted; position i is variant i mod n of edit i // n.
        model: the transformer.
        config: the settings that all edits share.
    """

    def __init__(self, edits: Sequence[Edit], model: Model, config: InpaintConfig) -> None:
        self.edits = edits
        self.model = model
        self.config = config
        self._loaded: tuple[int, Region, WindowPlan, Tensor] | None = None

    def region(self, number: int) -> Region:
        """The image of an edit and its region to inpaint."""
        return self._load(number)[1]

    def _load(self, number: int) -> tuple[int, Region, WindowPlan, Tensor]:
        """An edit with its windows and opacity; the last one is kept, as its variants are adjacent."""
        if self._loaded is None or self._loaded[0] != number:
            region, plan = plan_edit(self.edits[number], self.model)
            self._loaded = number, region, plan, feather_alpha(region.masked, self.config.feather)
        return self._loaded

    def __getitem__(self, position: int) -> Variant:
        number, variant = divmod(position, self.config.n)
        _, region, plan, alpha = self._load(number)
        return Variant(region.image.clone(), plan, alpha, variant, self.edits[number].seed)


def plan_edit(edit: Edit, model: Model) -> tuple[Region, WindowPlan]:
    """Read an edit's image, and find the region to inpaint and the windows that cover it.

    Raises:
        ConfigError: the edit contradicts itself or its image, or the model has no such class, or needs one.
        InputError: the image or mask cannot be used.
    """

    def label_of(text: Label | None, option: str) -> int:
        if text is not None:
            return find_label(text, model.config.classes, model.class_names, option)
        if not model.config.has_null_class:
            raise ConfigError("--label: this network has no null class; specify a class")
        return NO_CLASS

    region = find_region(edit, label_of)
    shorter = min(region.masked.shape)
    if edit.window is not None:
        require(edit.window <= shorter, "window", edit.window, f"{shorter} or less, the image's shorter side")
    return region, plan_windows(region.parts, model.resolution, edit.window)


def fill_windows(
    pipeline: Pipeline, variants: Sequence[Variant], mask_rule: str, sampler: SamplerConfig
) -> Tensor:
    """Inpaint variants in place; returns the tokens (rows, h, w) of all their windows, variant by variant.

    Args:
        pipeline: the networks.
        variants: at least one.
        mask_rule: see :func:`masked_cells`.
        sampler: settings of the sampler; a window with fewer masked tokens than steps has fewer steps.
    """
    tokens: list[list[Tensor]] = [[] for _ in variants]
    # Windows of an image depend on its earlier ones, but images are independent of each other: the first
    # windows of all are filled together, then the second ones.
    for number in range(max(len(variant.plan.windows) for variant in variants)):
        active = [i for i, variant in enumerate(variants) if number < len(variant.plan.windows)]
        rows = _fill_window(pipeline, [variants[i] for i in active], number, mask_rule, sampler)
        for i, row in zip(active, rows, strict=True):
            tokens[i].append(row)
    return torch.stack([row for rows in tokens for row in rows])


def _fill_window(
    pipeline: Pipeline, variants: Sequence[Variant], number: int, mask_rule: str, sampler: SamplerConfig
) -> Tensor:
    """Fill window ``number`` of each variant in place; returns its tokens (B, h, w)."""
    grid = pipeline.model.config.grid
    windows = [variant.plan.windows[number] for variant in variants]
    crops = [variant.image[:, *window.slices] for variant, window in zip(variants, windows, strict=True)]
    squares = to_model(torch.stack([resize(crop, pipeline.model.resolution) for crop in crops]))
    tokens = apply_to_rows(pipeline.tokenizer.network.encode, (squares,), pipeline.device, DECODER_ROWS)
    cells = torch.stack([cells_to_sample(variant.plan, number, grid, mask_rule) for variant in variants])
    tokens = tokens.masked_fill(cells, pipeline.mask_token)
    tokens = _sample_window(pipeline, tokens, variants, number, sampler)
    decoded = pipeline.decode(tokens)  # (B, 3, R, R)
    for variant, window, square in zip(variants, windows, decoded, strict=True):
        width = max(1, window.side // grid)  # the seam is as wide as a token's cell
        seam = seam_alpha(variant.plan.owner[window.slices], number, width)
        paste(variant.image, square, window, seam * variant.alpha[window.slices])
    return tokens


def _sample_window(
    pipeline: Pipeline, tokens: Tensor, variants: Sequence[Variant], number: int, sampler: SamplerConfig
) -> Tensor:
    """Fill the masked tokens of (B, h, w), in one batch those with equal settings of the sampler."""
    labels = torch.tensor([variant.plan.labels[number] for variant in variants])
    indices = torch.tensor([variant.number for variant in variants])
    seeds = rng.seeds_of_images([window_seed(variant.seed, number) for variant in variants])
    groups: dict[SamplerConfig, list[int]] = {}
    for i, count in enumerate((tokens == pipeline.mask_token).flatten(1).sum(1).tolist()):
        if count:
            own = sampler.limited(steps=count, guided=bool(labels[i] != NO_CLASS))
            groups.setdefault(own, []).append(i)
    for own, rows in groups.items():
        masked, label, index = (x[rows].to(pipeline.device) for x in (tokens, labels, indices))
        sampled = sample_tokens(pipeline.predict, masked, label, index, own, seeds[rows], pipeline.mask_token)
        tokens[rows] = sampled.to(tokens.device)
    return tokens


def window_seed(seed: int, number: int) -> int:
    """The seed of an image's window: the image's own for the first, 64 bits of a hash for later ones."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8])


# --- from pixels to tokens and back -----------------------------------------------------------------


def resize(image: Tensor, side: int) -> Tensor:
    """Scale a square uint8 (3, S, S) to (3, side, side); the same pixels if it has that size already."""
    if image.shape[-1] == side:
        return image
    smooth = InterpolationMode.BICUBIC if side > image.shape[-1] else InterpolationMode.BILINEAR
    # In floats: PyTorch's resizing of uint8 fails where the result is a single pixel.
    scaled = transforms.resize(image.float(), [side, side], interpolation=smooth, antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def masked_cells(masked: Tensor, grid: int, rule: str) -> Tensor:
    """The tokens that are masked: bool (grid, grid) for a window's mask (S, S).

    The window's S pixels are divided evenly into ``grid`` cells per side, so that a cell's edge may go
    through a pixel. ``any`` masks a token if a masked pixel touches its cell, ``majority`` if more than
    half of the cell's area is masked.
    """
    side = masked.shape[0]
    pixel, cell = torch.arange(side), torch.arange(grid)[:, None]
    # Lengths in units of 1/(side·grid) of the window, in which all edges are whole numbers.
    ends = torch.minimum((pixel + 1) * grid, (cell + 1) * side)
    overlap = (ends - torch.maximum(pixel * grid, cell * side)).clamp(min=0).double()  # (grid, S)
    area = overlap @ masked.double() @ overlap.T  # (grid, grid), exact: whole numbers below 2^53
    return area > 0 if rule == "any" else 2 * area > side * side


def cells_to_sample(plan: WindowPlan, number: int, grid: int, rule: str) -> Tensor:
    """The tokens of a window to sample, bool (grid, grid), once those before it are filled.

    They are all that is not filled by then, including what a later window will fill: the image's content
    there must not be seen.
    """
    owner = plan.owner[plan.windows[number].slices]  # (S, S)
    return masked_cells(owner >= number, grid, rule)


def feather_alpha(masked: Tensor, feather: int) -> Tensor:
    """Opacity of the generated content at each pixel: float32 (H, W), 0 outside the mask.

    Inside it, a pixel d pixels away from the nearest one outside (diagonals count 1) has d/(feather+1),
    and 1 from there on. The image's own border is no edge of the mask.
    """
    outside = (~masked).float()[None]  # (1, H, W)
    alpha = torch.zeros_like(outside)
    for _ in range(feather + 1):
        alpha += 1 - outside
        outside = F.max_pool2d(outside, 3, stride=1, padding=1)
    return (alpha / (feather + 1))[0]


def seam_alpha(owner: Tensor, number: int, width: int) -> Tensor:
    """Opacity of a window's generated content at each of its pixels: float32 (S, S).

    1 where the window is the owner. From there it falls over ``width`` pixels into what earlier windows
    have filled, which this one has seen and reproduces, so that no edge remains; 0 elsewhere.

    Args:
        owner: of each pixel of the window, int32 (S, S).
        number: of the window.
        width: of the seam in pixels.
    """
    reached = owner == number
    alpha = reached.float()
    filled = (owner >= 0) & (owner < number)
    if not filled.any():
        return alpha
    for step in range(1, width + 1):
        grown = F.max_pool2d(reached.float()[None], 3, stride=1, padding=1)[0] > 0
        ring = grown & filled & ~reached
        alpha[ring] = 1 - step / (width + 1)
        reached = reached | ring
    return alpha


def paste(image: Tensor, generated: Tensor, window: Window, alpha: Tensor) -> None:
    """Blend generated pixels, uint8 (3, R, R), into a window of an image uint8 (3, H, W), in place.

    Args:
        image: changed where ``alpha`` isn't 0.
        generated: is scaled to the window.
        window: where it belongs.
        alpha: its opacity, float32 (S, S).
    """
    square = resize(generated, window.side)
    rows, columns = window.slices
    old = image[:, rows, columns]
    mixed = (old + alpha * (square.float() - old)).round().to(torch.uint8)
    image[:, rows, columns] = torch.where(alpha > 0, mixed, old)
