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
    LARGEST_COUNT,
    LARGEST_SAMPLES,
    LARGEST_SIDE,
    Settings,
    a_seed,
    above,
    among,
    at_least,
    require,
    setting,
    some_of,
)
from maskgit_cli.config.features import EXTRACTORS, PERCEPTUAL
from maskgit_cli.config.metrics import METRICS
from maskgit_cli.config.protocols import PROTOCOLS, STANDARD
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


def val_split_of(of: str) -> Any:
    """A setting: the fraction that is held out. Up to a half, no class of two or more loses all images."""
    text = f"Fraction of the {of} held out for validation, fixed by --seed; up to 0.5."
    return setting(None, above(0, 0.5), help=text, unset="none")


DTYPES = ("auto", "fp32", "bf16", "fp16")
FEATURE_NAMES = ", ".join(f"{entry.name} ({entry.help})" for entry in EXTRACTORS.values())


@dataclass(frozen=True)
class TokenizeConfig(Settings):
    """Settings of ``tokenize``."""

    res: int | None = setting(
        None, at_least(1, LARGEST_SIDE), help="Image side in pixels.", unset="the tokenizer's own"
    )
    views: str = setting("none", _views(), help="Views per image.")
    val_split: float | None = val_split_of("images")
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
        help=f"Feature extractor: {FEATURE_NAMES}.",
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
