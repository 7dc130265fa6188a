"""Windows of pictures drawn anew: cut out, tokenized, drawn, decoded, and pasted back."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.inpaint import InpaintConfig
from maskgit_cli.config.samplers import SamplerConfig
from maskgit_cli.data.classes import NO_CLASS, find_label
from maskgit_cli.errors import ConfigError
from maskgit_cli.networks.inference import DECODER_ROWS, apply_to_rows, arithmetic_device, decode_codes
from maskgit_cli.networks.loading import Model
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.inpaint.regions import Edit, Region, find_region
from maskgit_cli.sampling.inpaint.windows import (
    Plan,
    blend_weights,
    cells_to_draw,
    paste,
    plan_windows,
    resize,
    seam_weights,
)
from maskgit_cli.sampling.job import Drawn
from maskgit_cli.sampling.model import Generator
from maskgit_cli.sampling.samplers import draw_samples


class Canvas(NamedTuple):
    """A picture that is being drawn.

    Attributes:
        picture: uint8 (3, H, W), changed as windows are drawn.
        plan: its windows.
        blend: how much of the drawn each pixel takes, float32 (H, W).
        variant: number of the variant, from 0.
        seed: of its first window.
    """

    picture: Tensor
    plan: Plan
    blend: Tensor
    variant: int
    seed: int


def plan_edit(edit: Edit, model: Model) -> tuple[Region, Plan]:
    """Read an edit's picture, and find what is drawn in it and in which windows.

    Raises:
        ConfigError: something of the edit cannot be, the model has no such class, or needs one.
        InputError: the image or mask cannot be used.
    """

    def label_of(text: str | None, option: str) -> int:
        if text is not None:
            return find_label(text, model.config.classes, model.class_names, option)
        if not model.config.drops_labels:
            raise ConfigError("--label: this network was trained with a class for every image; name one")
        return NO_CLASS

    region = find_region(edit, label_of)
    shorter = min(region.masked.shape)
    if edit.window is not None:
        rule = f"{shorter} or less, the picture's shorter side"
        require(edit.window <= shorter, "window", edit.window, rule)
    return region, plan_windows(region.parts, model.resolution, edit.window)


class Painter:
    """Draws the variants of some edits, whose images it reads as they come.

    Args:
        generator: the networks.
        edits: what is drawn; picture i is variant i mod n of edit i // n.
        config: the settings that all edits share.
        sampler: settings of the sampler; where a window has fewer codes than steps, it has fewer steps.
    """

    def __init__(
        self, generator: Generator, edits: Sequence[Edit], config: InpaintConfig, sampler: SamplerConfig
    ) -> None:
        self.generator = generator
        self.edits = edits
        self.config = config
        self.sampler = sampler
        self._loaded: tuple[int, Region, Plan, Tensor] | None = None

    def region(self, number: int) -> Region:
        """The image of an edit and what is drawn in it."""
        return self._load(number)[1]

    def _load(self, number: int) -> tuple[int, Region, Plan, Tensor]:
        """An edit with its windows and blend; variants of one image follow one another."""
        if self._loaded is None or self._loaded[0] != number:
            region, plan = plan_edit(self.edits[number], self.generator.model)
            self._loaded = number, region, plan, blend_weights(region.masked, self.config.feather)
        return self._loaded

    def make(self, pictures: np.ndarray) -> Drawn:
        """Codes (rows, h, w) of all windows of some pictures (B,), and the pictures uint8 (3, H, W)."""
        canvases = []
        for picture in pictures.tolist():
            number, variant = divmod(picture, self.config.n)
            _, region, plan, blend = self._load(number)
            seed = self.edits[number].seed
            canvases.append(Canvas(region.picture.clone(), plan, blend, variant, seed))
        codes: list[list[Tensor]] = [[] for _ in canvases]
        # Pictures have nothing to do with one another, so their first windows are drawn together, and so on.
        for step in range(max(len(canvas.plan.windows) for canvas in canvases)):
            active = [i for i, canvas in enumerate(canvases) if step < len(canvas.plan.windows)]
            drawn = self._draw_windows([canvases[i] for i in active], step)
            for i, row in zip(active, drawn, strict=True):
                codes[i].append(row)
        return Drawn(torch.stack([row for rows in codes for row in rows]), [c.picture for c in canvases])

    def _draw_windows(self, canvases: Sequence[Canvas], number: int) -> Tensor:
        """Draw window ``number`` of each picture into it; gives the codes (B, h, w)."""
        sizes, tokenizer = self.generator.model.config, self.generator.tokenizer
        windows = [canvas.plan.windows[number] for canvas in canvases]
        cut = [canvas.picture[:, *window.place] for canvas, window in zip(canvases, windows, strict=True)]
        squares = to_model(torch.stack([resize(x, self.generator.model.resolution) for x in cut]))
        codes = apply_to_rows(tokenizer.network.encode, (squares,), self.generator.device, DECODER_ROWS)
        rule = self.config.mask_rule
        cells = torch.stack([cells_to_draw(c.plan, number, sizes.grid, rule) for c in canvases])
        codes = self._sample(codes.masked_fill(cells, sizes.codebook_size), canvases, number)
        drawn = decode_codes(tokenizer, codes, self.generator.device)  # (B, 3, R, R)
        for canvas, window, square in zip(canvases, windows, drawn, strict=True):
            # The fade is as wide as a code's cell.
            width = max(1, window.side // sizes.grid)
            weights = seam_weights(canvas.plan.owner[window.place], number, width)
            paste(canvas.picture, square, window, weights * canvas.blend[window.place])
        return codes

    def _sample(self, codes: Tensor, canvases: Sequence[Canvas], number: int) -> Tensor:
        """Draw what is unknown in codes (B, h, w), those together that are sampled in the same way."""
        labels = torch.tensor([canvas.plan.labels[number] for canvas in canvases])
        variants = torch.tensor([canvas.variant for canvas in canvases])
        seeds = rng.seeds_of_images([window_seed(canvas.seed, number) for canvas in canvases])
        place = arithmetic_device(self.generator.device)
        mask_code = self.generator.model.config.codebook_size
        groups: dict[SamplerConfig, list[int]] = {}
        for i, unknown in enumerate((codes == mask_code).flatten(1).sum(1).tolist()):
            if unknown:
                groups.setdefault(sampler_for(self.sampler, unknown, int(labels[i])), []).append(i)
        for sampler, rows in groups.items():
            start, label, variant = (x[rows].to(place) for x in (codes, labels, variants))
            drawn = draw_samples(
                self.generator.predict, start, label, variant, sampler, seeds[rows], mask_code
            )
            codes[rows] = drawn.to(codes.device)
        return codes


def window_seed(seed: int, number: int) -> int:
    """The seed of a picture's window: the first has the picture's own, each later one another (64 bits)."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:8])


def sampler_for(sampler: SamplerConfig, unknown: int, label: int) -> SamplerConfig:
    """The sampler's settings for a window: no more steps than codes, no guidance without a class.

    Args:
        sampler: the settings for all windows.
        unknown: codes to draw in this one, 1 or more.
        label: its class, -1 for none.
    """
    changes: dict[str, Any] = {} if label != NO_CLASS else {"cfg": 0.0}
    if getattr(sampler, "steps", 0) > unknown:  # not every sampler has steps
        changes["steps"] = unknown
    return dataclasses.replace(sampler, **changes)
