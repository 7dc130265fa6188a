"""Every default of the project, once: sizes, recipes, presets, and the settings of each stage.

The command line reads its defaults from these classes, the library takes them as arguments, and
artifacts store them. Nothing here imports torch, so that ``--help`` stays quick.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from maskgit_cli.config.arguments import labels_text
from maskgit_cli.config.base import (
    LARGEST_BATCH,
    LARGEST_COUNT,
    LARGEST_SAMPLES,
    LARGEST_SIDE,
    LARGEST_WIDTH,
    Settings,
    a_seed,
    above,
    among,
    at_least,
    below_one,
    between,
    require,
    setting,
    some_of,
)
from maskgit_cli.config.features import EXTRACTORS, PERCEPTUAL
from maskgit_cli.config.metrics import METRICS
from maskgit_cli.config.networks import SIZE_NAMES, TOKENIZER_SIZES, TRAINABLE
from maskgit_cli.config.protocols import PROTOCOLS, STANDARD
from maskgit_cli.config.samplers import a_schedule
from maskgit_cli.errors import ConfigError

# Views that are the same in every image, with their number.
VIEWS: dict[str, int] = {"none": 1, "flip": 2, "ten-crop": 10}
# K of random:K at most: an epoch uses one view of each image, and the paper trains for 300 epochs.
MOST_RANDOM_VIEWS = 300
_RANDOM_VIEWS = re.compile(r"random:([1-9]\d{0,3})")


def random_views(views: str) -> int | None:
    """K of ``random:K``; None for other views, and where K is out of range."""
    match = _RANDOM_VIEWS.fullmatch(views)
    count = int(match[1]) if match else 0
    return count if 1 <= count <= MOST_RANDOM_VIEWS else None


def view_count(views: str) -> int | None:
    """Number of views per image; None where there are no such views."""
    return VIEWS.get(views) or random_views(views)


def _views() -> dict[str, Any]:
    """The value names views."""
    random = f"random:K with K from 1 to {MOST_RANDOM_VIEWS}"
    rule = (lambda views: view_count(views) is not None, f"one of {', '.join(VIEWS)}, {random}")
    return {"rule": rule, "suggestions": tuple(VIEWS), "others": random}


def _val_split(of: str) -> Any:
    """A setting: the fraction that is held out. Up to a half, no class of two or more loses all images."""
    text = f"Fraction of the {of} held out for validation, fixed by --seed; up to 0.5."
    return setting(None, above(0, 0.5), help=text, unset="none")


DTYPES = ("auto", "fp32", "bf16", "fp16")
_FEATURES = ", ".join(f"{entry.name} ({entry.help})" for entry in EXTRACTORS.values())


@dataclass(frozen=True)
class TokenizeConfig(Settings):
    """Settings of ``tokenize``."""

    res: int | None = setting(
        None, at_least(1, LARGEST_SIDE), help="Image side in pixels.", unset="the tokenizer's own"
    )
    views: str = setting("none", _views(), help="Views per image.")
    val_split: float | None = _val_split("images")
    start: int = 0
    stop: int | None = None
    seed: int = setting(0, a_seed(), help="Random seed of random views and of --val-split.")
    on_error: str = setting(
        "skip", among("skip", "fail"), help="Skip and list unreadable images, or fail at the first."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        stop = math.inf if self.stop is None else self.stop
        shown = f"{self.start}:{'' if self.stop is None else self.stop}"
        require(0 <= self.start < stop, "range", shown, "two numbers, 0 or more, the second one larger")
        if self.val_split is not None and self.is_part:
            raise ConfigError(
                "--val-split: not with --range, as the split depends on all images; merge the parts and pass "
                "--val-split to `maskgit train`"
            )

    @property
    def is_part(self) -> bool:
        """Whether only a range of the images is tokenized."""
        return self.start > 0 or self.stop is not None


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Settings of ``train``; the defaults are the paper's recipe (arXiv 2310.14400, section 4).

    :mod:`maskgit_cli.config.recipes` has other recipes; ``recipe`` is the name of the one that the settings
    derive from.
    """

    recipe: str = "paper"
    network: str | None = setting(
        None,
        among(*TRAINABLE),
        help="Network to train from scratch.",
        unset="maskgit, or that of --init-from",
        panel="Model",
    )
    size: str | None = setting(
        None,
        among(*SIZE_NAMES),
        help="Network size, one of the network's own.",
        unset="base, or that of --init-from",
        panel="Model",
    )
    epochs: int = setting(300, at_least(1, LARGEST_COUNT), help="Number of epochs (ignored with --steps).")
    steps: int | None = setting(
        None, at_least(1, LARGEST_COUNT), help="Total number of optimizer steps.", unset="from --epochs"
    )
    batch_size: int | None = setting(
        None,
        {**at_least(1, LARGEST_BATCH), "auto": True},
        help="Global batch size; auto: the default, in micro-batches that fit in memory.",
        unset="512 up to 256 px, 128 above",
    )
    accumulate: int = setting(
        1, at_least(1, LARGEST_BATCH), help="Gradient-accumulation steps per optimizer step."
    )
    grad_checkpointing: bool = setting(
        False,
        help="Recompute each block's activations in the backward pass: less memory, about a third slower.",
        panel="Device and speed",
    )
    fsdp: bool = setting(
        False,
        help="Shard weights, gradients, AdamW and EMA over the processes (FSDP2).",
        panel="Device and speed",
    )
    lr: float = setting(1e-4, above(0), help="Peak learning rate of AdamW.", panel="Optimizer")
    beta1: float = setting(0.9, below_one(), help="AdamW beta1.", panel="Optimizer")
    beta2: float = setting(0.96, below_one(), help="AdamW beta2.", panel="Optimizer")
    weight_decay: float = setting(1e-5, at_least(0), help="AdamW weight decay.", panel="Optimizer")
    warmup: int = setting(2500, at_least(0), help="Steps of linear warmup.", panel="Optimizer")
    lr_floor: float = setting(
        1.0,
        between(0, 1),
        help="Final LR of the cosine decay as a fraction of the peak LR; 1 = constant.",
        panel="Optimizer",
    )
    decay_steps: int | None = setting(
        None,
        at_least(1, LARGEST_COUNT),
        help="Steps of the cosine decay; afterwards the LR stays at its final value.",
        unset="the number of steps",
        panel="Optimizer",
    )
    clip: float = setting(1.0, above(0), help="Gradient-clipping threshold (max norm).", panel="Optimizer")
    dropout: float = setting(0.1, below_one(), help="Dropout probability.", panel="Model")
    drop_label: float | None = setting(
        None,
        between(0, 1),
        help="Label-dropout probability (classifier-free guidance).",
        unset="0.1; 0 if the network has no null class",
        panel="Objective",
    )
    label_smoothing: float = setting(0.1, below_one(), help="Label smoothing.", panel="Objective")
    mask_schedule: str = setting(
        "arccos", a_schedule(), help="Distribution of the mask ratio.", panel="Objective"
    )
    loss_on: str = setting(
        "all",
        among("all", "masked"),
        help="Positions in the loss: all (the paper), or masked only.",
        panel="Objective",
    )
    ema: float = setting(0.9999, below_one(), help="EMA decay.", panel="Optimizer")
    val_split: float | None = _val_split("rows of TOKENS")
    seed: int = setting(0, a_seed(), help="Random seed of initialization, order, masks and dropout.")
    checkpoint_every: int = setting(
        1000, at_least(1), help="Steps between checkpoints.", panel="Logging and checkpoints"
    )
    keep: int = setting(2, at_least(1), help="Number of checkpoints kept.", panel="Logging and checkpoints")
    preview_every: int = setting(
        1000, at_least(0), help="Steps between preview grids; 0 = none.", panel="Logging and checkpoints"
    )
    log_every: int = setting(
        50, at_least(1), help="Steps between lines of metrics.jsonl.", panel="Logging and checkpoints"
    )

    fid_every: int = setting(
        0,
        at_least(0),
        help="Steps between scores of samples of the EMA weights against --fid-ref; 0 = none.",
        panel="Logging and checkpoints",
    )
    fid_n: int = setting(
        2048,
        at_least(2, LARGEST_SAMPLES),
        help="Number of samples of each such score.",
        panel="Logging and checkpoints",
    )
    fid_features: str = setting(
        "inception",
        among(*EXTRACTORS),
        help=f"Feature extractor of these scores: {_FEATURES}.",
        panel="Logging and checkpoints",
    )

    @staticmethod
    def default_batch_size(resolution: int) -> int:
        """The paper's batch: 512 images up to 256 px, 128 above."""
        return 512 if resolution <= 256 else 128

    @staticmethod
    def default_drop_label(has_null_class: bool) -> float:
        """The paper's label-dropout probability; 0 for a network without a null class."""
        return 0.1 if has_null_class else 0.0


@dataclass(frozen=True)
class VQGANTrainConfig(Settings):
    """Settings of ``train-vqgan`` (arXiv 2012.09841, section 3.1 and its published settings)."""

    size: str | None = setting(
        None,
        among(*TOKENIZER_SIZES),
        help="Network size (f16 is the paper's).",
        unset="small, or that of --init-from",
        panel="Model",
    )
    res: int | None = setting(
        None,
        at_least(1, LARGEST_SIDE),
        help="Side of the training images in pixels.",
        unset="the size's own",
        panel="Model",
    )
    codebook_size: int | None = setting(
        None, between(2, 65535), help="Number of codebook vectors.", unset="the size's own", panel="Model"
    )
    steps: int = setting(20000, at_least(1, LARGEST_COUNT), help="Number of generator steps.")
    batch_size: int = setting(32, at_least(1, LARGEST_BATCH), help="Global batch size.")
    lr: float = setting(4e-4, above(0), help="Peak learning rate of both Adam optimizers.", panel="Optimizer")
    beta1: float = setting(0.5, below_one(), help="Adam beta1.", panel="Optimizer")
    beta2: float = setting(0.9, below_one(), help="Adam beta2.", panel="Optimizer")
    warmup: int = setting(100, at_least(0), help="Steps of linear warmup.", panel="Optimizer")
    lr_floor: float = setting(
        0.1,
        between(0, 1),
        help="Final LR of the cosine decay as a fraction of the peak LR; 1 = constant.",
        panel="Optimizer",
    )
    decay_steps: int | None = setting(
        None,
        at_least(1, LARGEST_COUNT),
        help="Steps of the cosine decay; afterwards the LR stays at its final value.",
        unset="the number of steps",
        panel="Optimizer",
    )
    codebook_weight: float = setting(1.0, at_least(0), help="Weight of the codebook loss.", panel="Objective")
    commitment_weight: float = setting(
        0.25, at_least(0), help="Weight of the commitment loss.", panel="Objective"
    )
    smoothness_weight: float = setting(
        0.0,
        at_least(0),
        help="Weight of the latent smoothness regularizer (total variation).",
        panel="Objective",
    )
    perceptual_weight: float = setting(
        1.0, at_least(0), help="Weight of the perceptual distance; 0 trains without.", panel="Objective"
    )
    perceptual: str = setting(
        "auto",
        among(*PERCEPTUAL),
        help="Perceptual distance; auto: lpips, else st-lpips, whichever weights are available.",
        panel="Objective",
    )
    adversarial_weight: float = setting(
        0.8,
        at_least(0),
        help="Weight of the adversarial loss, before the adaptive factor.",
        panel="Objective",
    )
    adversarial_start: int | None = setting(
        None,
        at_least(0),
        help="Step at which the adversarial loss is enabled.",
        unset="half of the steps",
        panel="Objective",
    )
    discriminator_channels: int = setting(
        32, at_least(1, LARGEST_WIDTH), help="Channels of the discriminator's first layer.", panel="Model"
    )
    discriminator_layers: int = setting(
        2, at_least(1, 16), help="Strided layers of the discriminator.", panel="Model"
    )
    revive_after: int = setting(
        50, at_least(0), help="Restart codebook entries unused for N steps; 0 disables.", panel="Objective"
    )
    flip: bool = setting(True, help="Flip half of the training images.")
    ema: float = setting(
        0.999, below_one(), help="EMA decay; the EMA weights are exported.", panel="Optimizer"
    )
    seed: int = setting(0, a_seed(), help="Random seed.")
    checkpoint_every: int = setting(
        1000, at_least(1), help="Steps between checkpoints.", panel="Logging and checkpoints"
    )
    keep: int = setting(2, at_least(1), help="Number of checkpoints kept.", panel="Logging and checkpoints")
    preview_every: int = setting(
        1000, at_least(0), help="Steps between preview grids; 0 = none.", panel="Logging and checkpoints"
    )
    log_every: int = setting(
        50, at_least(1), help="Steps between lines of metrics.jsonl.", panel="Logging and checkpoints"
    )
    val_features: str | None = setting(
        None,
        among(*EXTRACTORS),
        help="Features of the Fréchet distance between --val images and their reconstructions.",
        unset="not measured",
        panel="Logging and checkpoints",
    )


@dataclass(frozen=True)
class SampleConfig(Settings):
    """Settings of ``sample`` besides the sampler's own."""

    n: int = setting(64, at_least(1, LARGEST_SAMPLES), help="Number of images.")
    labels: str | int | Sequence[str | int] = setting(
        "all",
        help="Classes: all (balanced), uniform, a list of numbers, names and ranges (3-7), or @FILE.",
        alias="--label",
        convert=labels_text,
    )
    start: int = 0
    stop: int | None = None
    format: str = setting(
        "png",
        among("png", "npz", "tokens"),
        help="Output: png, npz (also all pixels in one file), or tokens (no images).",
    )
    trace: str | None = setting(None, among("webp", "gif"))
    weights: str = setting("ema", among("ema", "raw"), help="EMA weights (ema) or raw weights (raw).")
    seed: int = setting(0, a_seed(), help="Random seed.")

    def __post_init__(self) -> None:
        super().__post_init__()
        stop = self.n if self.stop is None else self.stop
        rule = f"a part of 0:{self.n} that is not empty"
        require(0 <= self.start < stop <= self.n, "range", f"{self.start}:{stop}", rule)


@dataclass(frozen=True)
class ScoreConfig(Settings):
    """Settings of ``fid`` and ``fid-stats``."""

    default_features: ClassVar[str] = "inception"
    features: str | None = setting(
        None,
        among(*EXTRACTORS),
        help=f"Feature extractor: {_FEATURES}.",
        unset="that of stored statistics, else inception",
    )
    metrics: tuple[str, ...] = setting(
        tuple(METRICS),
        some_of(*METRICS),
        help=f"Metrics, comma-separated: {', '.join(f'{m.name} ({m.title})' for m in METRICS.values())}.",
    )
    neighbors: int = setting(
        3,
        at_least(1, LARGEST_COUNT),
        help="k of the k-NN manifold estimate (precision, recall, density, coverage).",
    )
    splits: int = setting(10, at_least(1, LARGEST_COUNT), help="Number of splits of the Inception Score.")
    kid_subsets: int = setting(100, at_least(1, LARGEST_COUNT), help="Number of subsets of KID.")
    kid_subset_size: int = setting(1000, at_least(2, LARGEST_COUNT), help="Images per subset of KID.")
    protocol: str = setting(
        STANDARD,
        among(*PROTOCOLS),
        help=f"Evaluation protocol: {', '.join(f'{p.name} ({p.help})' for p in PROTOCOLS.values())}.",
    )
    res: int | None = setting(
        None,
        at_least(1, LARGEST_SIDE),
        help="Resolution in pixels: other images are resized and center-cropped to it.",
        unset="that of the samples, or of stored statistics",
    )

    interval: bool = setting(False, help="95 % interval of each score over the samples.")
    per_class: bool = setting(False, help="Fréchet distance of each class that both sides have.")
    curve: bool = setting(
        False, help="FID against the number of samples, a plot of it, and its limit FID∞ by extrapolation."
    )

    details: ClassVar[tuple[str, ...]] = ("interval", "per_class", "curve")  # of `fid`, not of `sweep`

    def of_sweep(self) -> dict[str, Any]:
        """The settings that apply to a sweep, as JSON values.

        Raises:
            ConfigError: one of ``details`` is set, which a sweep does not record.
        """
        for name in self.details:
            require(not getattr(self, name), name, "yes", "no in a sweep, whose points record scores only")
        return {name: value for name, value in self.to_json().items() if name not in self.details}

    @property
    def extractor(self) -> str:
        """The feature extractor, the default one if none is named."""
        return self.features or self.default_features


SWEEP_METRICS = tuple(entry.name for entry in METRICS.values() if entry.sweep)


@dataclass(frozen=True)
class SweepConfig(Settings):
    """Settings of ``sweep``, except the swept values and :class:`ScoreConfig`."""

    n: int = setting(5000, at_least(2, LARGEST_SAMPLES), help="Images per point.")
    labels: str | int | Sequence[str | int] = setting(
        "all",
        help="Classes: all (balanced), uniform, a list of numbers, names and ranges (3-7), or @FILE.",
        alias="--label",
        convert=labels_text,
    )
    weights: str = setting("ema", among("ema", "raw"), help="EMA weights (ema) or raw weights (raw).")
    seed: int = setting(0, a_seed(), help="Random seed, the same at every point.")
    keep: str = setting(
        "tokens",
        among("images", "tokens", "none"),
        help="Samples kept per point: images, tokens (2 bytes per token), or none.",
    )


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Settings of ``compare``."""

    shown: ClassVar[int] = 16  # images, without --n and --per-class
    classes: str | int | Sequence[str | int] | None = setting(
        None,
        help="Classes to show: numbers, names and ranges (3-7), or @FILE.",
        unset="all",
        convert=labels_text,
    )
    per_class: int | None = setting(None, at_least(1), help="Maximum images per class.", unset="no limit")
    n: int | None = setting(
        None,
        at_least(1),
        help="Maximum images in all, spread over the classes.",
        unset="16, without --per-class",
    )
    columns: int = setting(8, at_least(1), help="Maximum images per row.")


@dataclass(frozen=True)
class DoctorConfig(Settings):
    """Settings of ``doctor``."""

    n: int = setting(
        64, at_least(1, LARGEST_COUNT), help="Maximum images that are decoded to measure the reconstructions."
    )
    shown: int = setting(8, at_least(1, LARGEST_COUNT), help="Maximum images on the sheet.")
    perceptual: str = setting(
        "auto",
        among(*PERCEPTUAL),
        help="Perceptual distance of the reconstructions; auto: lpips, else st-lpips, without a download.",
    )
    features: str | None = setting(
        None,
        among(*EXTRACTORS),
        help="Features of the Fréchet distance between originals and reconstructions.",
        unset="not measured",
    )
