"""Every default of the project, once: sizes, recipes, presets, and the settings of each stage.

The command line reads its defaults from these classes, the library takes them as arguments, and
artifacts store them. Nothing here imports torch, so that ``--help`` stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from maskgit_cli.config.base import (
    Settings,
    a_seed,
    above,
    among,
    at_least,
    below_one,
    between,
    require,
    setting,
)
from maskgit_cli.config.networks import SIZES, TOKENIZER_SIZES
from maskgit_cli.config.samplers import a_schedule

VIEWS: dict[str, int] = {"none": 1, "flip": 2, "ten-crop": 10}


DTYPES = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class TokenizeConfig(Settings):
    """Settings of ``tokenize``.

    Attributes:
        res: side in pixels of the square images; None takes the tokenizer's own.
        views: which views of an image are tokenized: itself, itself and its mirror image, or the
            four corners and the center, each with its mirror image.
        on_error: ``skip`` lists unreadable images and goes on, ``fail`` stops at the first.
    """

    res: int | None = setting(None, at_least(1))
    views: str = setting("none", among(*VIEWS))
    on_error: str = setting("skip", among("skip", "fail"))


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Settings of ``train``; the defaults are the paper's recipe (arXiv 2310.14400, section 4).

    Attributes:
        size: a name of :data:`SIZES`; None is base, or that of the model that is started from.
        epochs: passes over the token file, unless ``steps`` is given.
        steps: optimizer steps in all.
        batch_size: images an optimizer step, over all processes and accumulation; None takes the
            paper's 512 up to 256 px and 128 above.
        accumulate: micro-batches a process splits its share of a batch into.
        lr: peak learning rate of AdamW.
        beta1: decay of AdamW's first moment.
        beta2: decay of AdamW's second moment.
        weight_decay: AdamW's decoupled weight decay.
        warmup: steps of linear warm-up.
        lr_floor: learning rate at the end of a cosine decay over ``steps``, as a fraction of the peak;
            1 is constant, as in the paper.
        clip: largest gradient norm.
        dropout: of the network.
        drop_label: probability of replacing a label by "no class", for classifier-free guidance; None
            takes the paper's 0.1, and 0 for a network that knows no such class.
        label_smoothing: of the cross-entropy.
        mask_schedule: function that turns a uniform number into a masking ratio.
        loss_on: ``all`` positions, as the paper, or the ``masked`` ones only, as Google and Halton.
        ema: decay of the exponential moving average of the weights; it warms up.
        seed: of initialization, order, masks and dropout.
        checkpoint_every: steps between checkpoints.
        keep: how many of the newest checkpoints stay.
        preview_every: steps between preview grids; 0 draws none.
        log_every: steps between lines of metrics.jsonl.
    """

    size: str | None = setting(None, among(*SIZES))
    epochs: int = setting(300, at_least(1))
    steps: int | None = setting(None, at_least(1))
    batch_size: int | None = setting(None, at_least(1))
    accumulate: int = setting(1, at_least(1))
    lr: float = setting(1e-4, above(0))
    beta1: float = setting(0.9, below_one())
    beta2: float = setting(0.96, below_one())
    weight_decay: float = setting(1e-5, at_least(0))
    warmup: int = setting(2500, at_least(0))
    lr_floor: float = setting(1.0, between(0, 1))
    clip: float = setting(1.0, above(0))
    dropout: float = setting(0.1, below_one())
    drop_label: float | None = setting(None, between(0, 1))
    label_smoothing: float = setting(0.1, below_one())
    mask_schedule: str = setting("arccos", a_schedule())
    loss_on: str = setting("all", among("all", "masked"))
    ema: float = setting(0.9999, below_one())
    seed: int = setting(0, a_seed())
    checkpoint_every: int = setting(1000, at_least(1))
    keep: int = setting(2, at_least(1))
    preview_every: int = setting(1000, at_least(0))
    log_every: int = setting(50, at_least(1))

    @staticmethod
    def default_batch_size(resolution: int) -> int:
        """The paper's batch: 512 images up to 256 px, 128 above."""
        return 512 if resolution <= 256 else 128

    @staticmethod
    def default_drop_label(drops_labels: bool) -> float:
        """The paper's probability, for a network that knows a dropped class."""
        return 0.1 if drops_labels else 0.0


@dataclass(frozen=True)
class VQGANTrainConfig(Settings):
    """Settings of ``train-vqgan`` (arXiv 2012.09841, section 3.1 and its published settings).

    Attributes:
        size: a name of :data:`TOKENIZER_SIZES`.
        res: side in pixels of the training images; None takes the size's own.
        codebook_size: number of codebook vectors; None takes the size's own.
        steps: generator steps in all.
        batch_size: images a step, over all processes.
        lr: peak learning rate of both Adam optimizers.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment.
        warmup: steps of linear warm-up.
        lr_floor: learning rate at the end of the cosine decay, as a fraction of the peak; 1 is constant.
        codebook_weight: of the codebook loss.
        commitment_weight: of the commitment loss (beta of VQ-VAE).
        smoothness_weight: of how much latents differ from their neighbors, as a fraction of their
            variance; it makes codes easier to predict from one another.
        perceptual_weight: of LPIPS, where its weights can be had.
        adversarial_weight: of the generator's adversarial loss, before the adaptive factor.
        adversarial_start: step at which the discriminator joins; None is half of the steps.
        discriminator_channels: features of the PatchGAN's first layer.
        discriminator_layers: strided layers of the PatchGAN.
        revive_after: steps without use after which a code is replaced by an encoder output; 0 never.
        flip: mirror half of the training images.
        ema: decay of the moving average of the weights; it warms up, and is what gets exported.
        seed: of initialization, order, mirroring and revival.
        checkpoint_every: steps between checkpoints.
        keep: how many of the newest checkpoints stay.
        preview_every: steps between preview grids; 0 draws none.
        log_every: steps between lines of metrics.jsonl.
    """

    size: str = setting("small", among(*TOKENIZER_SIZES))
    res: int | None = setting(None, at_least(1))
    codebook_size: int | None = setting(None, between(2, 65535))
    steps: int = setting(20000, at_least(1))
    batch_size: int = setting(32, at_least(1))
    lr: float = setting(4e-4, above(0))
    beta1: float = setting(0.5, below_one())
    beta2: float = setting(0.9, below_one())
    warmup: int = setting(100, at_least(0))
    lr_floor: float = setting(0.1, between(0, 1))
    codebook_weight: float = setting(1.0, at_least(0))
    commitment_weight: float = setting(0.25, at_least(0))
    smoothness_weight: float = setting(0.0, at_least(0))
    perceptual_weight: float = setting(1.0, at_least(0))
    adversarial_weight: float = setting(0.8, at_least(0))
    adversarial_start: int | None = setting(None, at_least(0))
    discriminator_channels: int = setting(32, at_least(1))
    discriminator_layers: int = setting(2, at_least(1))
    revive_after: int = setting(50, at_least(0))
    flip: bool = True
    ema: float = setting(0.999, below_one())
    seed: int = setting(0, a_seed())
    checkpoint_every: int = setting(1000, at_least(1))
    keep: int = setting(2, at_least(1))
    preview_every: int = setting(1000, at_least(0))
    log_every: int = setting(50, at_least(1))


@dataclass(frozen=True)
class SampleConfig(Settings):
    """Settings of ``sample`` besides the sampler's own.

    Attributes:
        n: images in all.
        labels: which classes: ``all`` (balanced), ``uniform``, numbers, names, ranges, or a file.
        start: first index drawn; with ``stop``, a part of the n images (``--range start:stop``).
        stop: one past the last index drawn; None is n.
        format: what is written besides the token file.
        trace: keep what every step of the sampler did, with a strip and an animation of each image in
            this format (``webp``, ``gif``); None keeps nothing.
        weights: ``ema`` or ``raw``.
        seed: of every random number.
    """

    n: int = setting(64, at_least(1))
    labels: str = "all"
    start: int = 0
    stop: int | None = None
    format: str = setting("png", among("png", "npz", "tokens"))
    trace: str | None = setting(None, among("webp", "gif"))
    weights: str = setting("ema", among("ema", "raw"))
    seed: int = setting(0, a_seed())

    def __post_init__(self) -> None:
        super().__post_init__()
        stop = self.n if self.stop is None else self.stop
        rule = f"a part of 0:{self.n} that is not empty"
        require(0 <= self.start < stop <= self.n, "range", f"{self.start}:{stop}", rule)


@dataclass(frozen=True)
class ScoreConfig(Settings):
    """Settings of ``fid`` and ``fid-stats``.

    Attributes:
        features: ``inception`` (FID, IS, PRDC as published) or ``vqgan`` (the tokenizer's own space).
        metrics: which of ``fid``, ``is``, ``prdc``.
        neighbors: k of precision, recall, density and coverage.
        splits: parts of the Inception Score.
        protocol: ``standard``, or ``legacy-v1`` for the paper's own evaluator.
    """

    features: str = setting("inception", among("inception", "vqgan"))
    metrics: tuple[str, ...] = ("fid", "is", "prdc")
    neighbors: int = setting(3, at_least(1))
    splits: int = setting(10, at_least(1))
    protocol: str = setting("standard", among("standard", "legacy-v1"))

    def __post_init__(self) -> None:
        super().__post_init__()
        for metric in self.metrics:
            require(metric in ("fid", "is", "prdc"), "metrics", metric, "one of fid, is, prdc")


# `raster` draws one code a pass, which takes long: it is measured only where it is asked for.
BENCH_STAGES = ("tokenize", "train", "sample", "raster", "decode")
# Precision and recall compare every sample with every reference image, so `sweep` scores them when asked to.
SWEEP_METRICS = ("fid", "is")


@dataclass(frozen=True)
class SweepConfig(Settings):
    """Settings of ``sweep`` besides what is swept and how it is scored.

    Attributes:
        n: images drawn at each point.
        labels: which classes, as for ``sample``.
        weights: ``ema`` or ``raw``.
        seed: of every random number, at every point, so that points differ by their settings alone.
        keep: what stays of each point's samples: ``images`` and codes, ``tokens`` (the codes, from which
            ``decode`` makes the same images again), or ``none``.
    """

    n: int = setting(5000, at_least(2))
    labels: str = "all"
    weights: str = setting("ema", among("ema", "raw"))
    seed: int = setting(0, a_seed())
    keep: str = setting("tokens", among("images", "tokens", "none"))


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Settings of ``compare``.

    Attributes:
        classes: which classes: numbers, names and ranges; None takes all that are there.
        per_class: pictures a class at most.
        n: pictures in all at most, spread over the classes; None is 16, or, where ``per_class`` is
            given, as many as that makes.
        columns: pictures in a row at most.
    """

    shown: ClassVar[int] = 16  # pictures, unless a number is given
    classes: str | None = None
    per_class: int | None = setting(None, at_least(1))
    n: int | None = setting(None, at_least(1))
    columns: int = setting(8, at_least(1))


@dataclass(frozen=True)
class BenchConfig(Settings):
    """Settings of ``bench``.

    Attributes:
        size: of the transformer, a name of :data:`SIZES`.
        tokenizer: a name of :data:`TOKENIZER_SIZES`.
        res: side in pixels of the images.
        batch_size: images at a time.
        steps: of the sampler.
        cfg: guidance weight of the sampler; 0 saves the unconditional passes.
        seconds: shortest time that each stage is measured for.
        stages: which are measured, of :data:`BENCH_STAGES`.
    """

    size: str = setting("base", among(*SIZES))
    tokenizer: str = setting("f16", among(*TOKENIZER_SIZES))
    res: int = setting(256, at_least(1))
    batch_size: int = setting(8, at_least(1))
    steps: int = setting(8, at_least(1))
    cfg: float = setting(3.0, at_least(0))
    seconds: float = setting(5.0, above(0))
    stages: tuple[str, ...] = ("tokenize", "train", "sample", "decode")

    def __post_init__(self) -> None:
        super().__post_init__()
        for stage in self.stages:
            require(stage in BENCH_STAGES, "stages", stage, "one of " + ", ".join(BENCH_STAGES))
