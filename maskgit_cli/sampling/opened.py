"""Models in memory: sample, inpaint, encode and decode without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.arguments import Label, Labels, PathArgument, checked
from maskgit_cli.config.base import require
from maskgit_cli.config.inpaint import BoxesArgument, InpaintConfig, Outpaint, boxes_of, outpaint_of
from maskgit_cli.config.samplers import SamplerConfig, changed
from maskgit_cli.config.stages import SampleConfig
from maskgit_cli.data.images import (
    ImageArgument,
    ImagesArgument,
    image_input,
    image_inputs,
    read_image,
    views,
)
from maskgit_cli.data.tokenizing import encode_images
from maskgit_cli.errors import ConfigError
from maskgit_cli.figures.sheets import captioned_sheet
from maskgit_cli.formats.tokens import Trace
from maskgit_cli.networks.inference import decode_tokens
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.sampling.images import grid_rows, grid_texts, plan_samples, sample_batch
from maskgit_cli.sampling.inpaint.fill import Variants, fill_windows
from maskgit_cli.sampling.inpaint.inpainting import edit_of, plan_edits
from maskgit_cli.sampling.inpaint.sheets import SheetRow, inpaint_sheet, shown_on_sheet
from maskgit_cli.sampling.model import OpenedModel, SamplerChoice, choose_sampler, open_pipeline
from maskgit_cli.sampling.results import Images

# Settings of a sampler, by themselves or by its name.
SamplerArgument = SamplerConfig | str | None


class ImageModel(OpenedModel):
    """A transformer with its tokenizer, opened by :func:`load`.

    Its methods give in memory what the commands write, with the same pixels. Functions of this package take
    it in place of the path of a model or tokenizer.
    """

    def __repr__(self) -> str:
        model = self.pipeline.model
        return f"<model of {model.resolution} px, {model.config.classes} classes>"

    @property
    def path(self) -> Path:
        """The run or model directory."""
        return self.pipeline.model.path

    @property
    def resolution(self) -> int:
        """Side of its images in pixels."""
        return self.pipeline.model.resolution

    @property
    def class_names(self) -> list[str]:
        """Names of its classes, by their numbers; empty where they have none."""
        return list(self.pipeline.model.class_names)

    @checked
    def sample(
        self,
        labels: Labels = "all",
        n: int = SampleConfig.n,
        *,
        seed: int = 0,
        start: int = 0,
        trace: bool = False,
        sampler: SamplerArgument = None,
        batch_size: int = 64,
        reporter: Reporter = SILENT,
        **settings: Any,
    ) -> Images:
        """Generate images, as ``maskgit sample`` does with these settings.

        Args:
            labels: classes of the images, by number or name, assigned round-robin; or text as in
                ``--labels``: ``all``, ``uniform``, ``3-7``, ``@FILE``.
            n: number of images.
            seed: image i is a function of the model, the settings, the seed and i.
            start: number i of the first image.
            trace: also return the state of the sampler after each step.
            sampler: all settings of a sampler, or its name; None is the model's own.
            batch_size: images per batch.
            reporter: receives progress updates.
            settings: changes to the sampler's settings: ``cfg=3.0, steps=12``.

        Raises:
            ConfigError: a setting is out of range or unknown, there are more steps than tokens, or the model
                has no such class.
            ArtifactError: the network returns NaN or infinite logits.
        """
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        config = SampleConfig(
            n + start, labels, start, seed=seed, weights=self.weights, trace="webp" if trace else None
        )
        pipeline, model = self.pipeline, self.pipeline.model
        chosen = choose_sampler(sampler_choice(sampler, settings), model, model.config.classes > 0)
        contents = plan_samples(pipeline, chosen, config)
        found, traces, pixels = [], [], []
        with reporter.task("sample", n) as task:
            for batch in np.split(np.arange(n), range(batch_size, n, batch_size)):
                tokens, steps = sample_batch(pipeline, contents, batch, chosen, config)
                found.append(tokens.cpu())
                pixels.append(pipeline.decode(tokens))
                traces += [steps] if steps else []
                task.advance(len(batch))
        images = torch.cat(pixels)
        rows, columns = grid_rows(contents.labels)
        sheet = captioned_sheet(
            images[rows], columns, **grid_texts(contents.labels[rows], model.class_names, columns)
        )
        whole = Trace(*map(np.concatenate, zip(*traces, strict=True))) if traces else None
        return Images(images, torch.cat(found), contents.labels, sheet, whole)

    @checked
    def inpaint(
        self,
        image: ImageArgument,
        mask: ImageArgument | None = None,
        *,
        box: BoxesArgument = None,
        keep_box: BoxesArgument = None,
        outpaint: Outpaint | Mapping[str, int] | str | None = None,
        label: Label | None = None,
        n: int = InpaintConfig.n,
        seed: int = 0,
        window: int | None = None,
        mask_threshold: int | None = None,
        mask_rule: str = InpaintConfig.mask_rule,
        feather: int = InpaintConfig.feather,
        sampler: SamplerArgument = None,
        batch_size: int = 16,
        reporter: Reporter = SILENT,
        **settings: Any,
    ) -> Images:
        """Inpaint or outpaint an image, as ``maskgit inpaint`` does with these settings.

        Args:
            image: an image of any size: a path, a PIL image, an array (H, W, 3), or a tensor (3, H, W).
            mask: an image of the same size, white (True) where it is inpainted; also bool (H, W).
            box: boxes to inpaint, :class:`Box`, ``(x, y, width, height)`` or text, one or several.
            keep_box: boxes to keep.
            outpaint: pixels to add, ``{"left": 64}``.
            label: class of the generated content, by number or name; None is none.
            n: number of variants.
            seed: of every random number.
            window: side of the windows that the model sees; None chooses.
            mask_threshold: luma of the mask from which on pixels are inpainted; None: black and white only.
            mask_rule: regenerate a token if ``any`` pixel of its cell is masked, or the ``majority``.
            feather: feather width in pixels.
            sampler: all settings of a sampler, or its name; None is the model's own.
            batch_size: images per batch.
            reporter: receives progress updates.
            settings: changes to the sampler's settings.

        Raises:
            ConfigError: a setting is out of range or unknown, a box isn't inside the image, there is no such
                class, or the region is empty.
            InputError: the image or mask cannot be read or used.
            ArtifactError: the network returns NaN or infinite logits.
        """
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        config = InpaintConfig(
            n=n,
            label=label,
            box=boxes_of(box, "box"),
            keep_box=boxes_of(keep_box, "keep_box"),
            outpaint=outpaint_of(outpaint),
            window=window,
            mask_threshold=mask_threshold,
            mask_rule=mask_rule,
            feather=feather,
            weights=self.weights,
            seed=seed,
        )
        source = image_input(image, "image")
        edit = edit_of(source, None if mask is None else image_input(mask, "mask"), config)
        choice = sampler_choice(sampler, settings)
        plan = plan_edits(self.pipeline, [edit], source, config, choice, reporter)
        variants = Variants([edit], self.pipeline.model, config)
        found, images = [], []
        with reporter.task("inpaint", n) as task:
            for batch in np.split(np.arange(n), range(batch_size, n, batch_size)):
                inpainted = [variants[position] for position in batch.tolist()]
                found.append(fill_windows(self.pipeline, inpainted, config.mask_rule, plan.sampler).cpu())
                images += [variant.image for variant in inpainted]
                task.advance(len(batch))
        _, shown = shown_on_sheet(1, n)
        sheet = inpaint_sheet([SheetRow(variants.region(0), images[:shown], "")])
        return Images(torch.stack(images), torch.cat(found), plan.contents.labels, sheet)

    @checked
    def encode(self, images: ImagesArgument, *, batch_size: int = 32) -> Tensor:
        """Tokens int64 (N, h, w) of images, as ``maskgit tokenize`` makes them.

        Args:
            images: one image or several: paths, PIL images, arrays (H, W, 3) or (N, H, W, 3), tensors
                (3, H, W) or (N, 3, H, W). Each is resized and center-cropped to the model's resolution.
            batch_size: images per forward pass.

        Raises:
            ConfigError: there is none, or an array or tensor has another shape or type.
            InputError: an image cannot be read.
        """
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        inputs, pipeline, side = image_inputs(images), self.pipeline, self.resolution
        found = []
        for first in range(0, len(inputs), batch_size):
            batch = [read_image(image, side) for image in inputs[first : first + batch_size]]
            squares = torch.cat([views(image, side, "none") for image in batch])  # (B, 3, side, side)
            found.append(encode_images(pipeline.tokenizer, squares, pipeline.device, pipeline.dtype))
        return torch.cat(found)

    @checked
    def decode(self, tokens: Tensor | np.ndarray | Sequence[Any], *, batch_size: int = 32) -> Images:
        """Images of tokens, as ``maskgit decode`` makes them.

        Args:
            tokens: codebook indices (N, h, w), or (h, w) of one image.
            batch_size: images per forward pass.

        Raises:
            ConfigError: they are not integers, of another shape, or not in the codebook.
        """
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        grids = _grids(tokens, self.pipeline.mask_token)
        batches = grids.split(batch_size)
        tokenizer, device = self.pipeline.tokenizer, self.pipeline.device
        images = torch.cat([decode_tokens(tokenizer, batch, device) for batch in batches])
        labels = np.full(len(images), -1)
        rows, columns = grid_rows(labels)
        return Images(images, grids, labels, captioned_sheet(images[rows], columns))


@checked
def load(
    model: PathArgument | None = None,
    *,
    weights: str = "ema",
    device: str = "auto",
    dtype: str = "auto",
    reporter: Reporter = SILENT,
) -> ImageModel:
    """Open a model for use in memory.

    Args:
        model: run or model directory, the name of one under ``models/``, or ``"builtin"``; None is the newest
            run under ``runs/``, else the built-in model.
        weights: ``ema`` or ``raw``, of a run.
        device: of the networks: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: precision of the transformer's matrix products: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        reporter: receives the choice of model.

    Raises:
        ConfigError: there is no such device or precision.
        InputError: there is nothing at ``model``.
        ArtifactError: something there is incomplete or damaged, or the tokenizer is another one.
    """
    require(weights in ("ema", "raw"), "weights", weights, "one of ema, raw")
    return ImageModel(open_pipeline(model, weights, device, dtype, reporter), weights)


def sampler_choice(sampler: SamplerArgument, settings: Mapping[str, Any]) -> SamplerChoice:
    """A sampler's settings, or changes to the model's own, as stages take them.

    Raises:
        ConfigError: a change is out of range, or the sampler has no such setting.
    """
    if isinstance(sampler, SamplerConfig):
        return changed(sampler, settings)
    return {**settings, **({} if sampler is None else {"method": sampler})}


def _grids(tokens: Tensor | np.ndarray | Sequence[Any], codebook_size: int) -> Tensor:
    """Tokens int64 (N, h, w) on the CPU.

    Raises:
        ConfigError: they are not integers, of another shape, or not in [0, ``codebook_size``).
    """
    try:
        array = tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
    except ValueError:  # rows of different lengths
        raise ConfigError("tokens: must be an array of integers (N, h, w)") from None
    if array.dtype.kind not in "iu":
        raise ConfigError(f"tokens: their type is {array.dtype}; must be integers")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ConfigError(f"tokens: their shape is {array.shape}; must be (N, h, w) or (h, w)")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= codebook_size:
        raise ConfigError(f"tokens: {low if low < 0 else high}: must be between 0 and {codebook_size - 1}")
    grids = torch.from_numpy(array.astype(np.int64))
    return grids if grids.ndim == 3 else grids[None]
