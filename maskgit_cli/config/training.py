"""Settings of ``train`` and ``train-vqgan``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    setting,
)
from maskgit_cli.config.features import EXTRACTORS, PERCEPTUAL
from maskgit_cli.config.networks import ATTENTION, SIZE_NAMES, TOKENIZER_SIZES, TRAINABLE
from maskgit_cli.config.samplers import a_schedule
from maskgit_cli.config.stages import FEATURE_NAMES, val_split_of


def _log_with() -> Any:
    """A setting: the tracker of a training."""
    text, panel = "Also log to TensorBoard or Weights & Biases.", "Logging and checkpoints"
    return setting(None, among("tensorboard", "wandb"), help=text, unset="metrics.jsonl only", panel=panel)


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
    init: str | None = setting(
        None,
        among("truncated", "published"),
        help="Initial weights: truncated normal, or as in the network's published code.",
        unset="truncated; published for networks other than maskgit; none with --init-from",
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
    weight_decay_on: str = setting(
        "all", among("all", "matrices"), help="Weights that decay: all, or matrices only.", panel="Optimizer"
    )
    warmup: int = setting(2500, at_least(0), help="Steps of linear warmup.", panel="Optimizer")
    lr_floor: float = setting(
        1.0,
        between(0, 1),
        help="Final LR of the decay as a fraction of the peak LR; 1 = constant.",
        panel="Optimizer",
    )
    decay_steps: int | None = setting(
        None,
        at_least(1, LARGEST_COUNT),
        help="Step at which the decay ends; afterwards the LR stays at its final value.",
        unset="the number of steps",
        panel="Optimizer",
    )
    decay_start: float = setting(
        0.0, below_one(), help="Start of the decay as a fraction of --decay-steps.", panel="Optimizer"
    )
    lr_schedule: str = setting(
        "cosine", among("cosine", "linear"), help="Shape of the decay.", panel="Optimizer"
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
    mask_count: str = setting(
        "bernoulli", among("bernoulli", "exact"), help="How the mask ratio is met.", panel="Objective"
    )
    mask_min: float = setting(0.0, below_one(), help="Minimum of the mask ratio.", panel="Objective")
    loss_on: str = setting(
        "all",
        among("all", "masked"),
        help="Positions in the loss: all (the paper), or masked only.",
        panel="Objective",
    )
    ema: float = setting(0.9999, below_one(), help="EMA decay.", panel="Optimizer")
    val_split: float | None = val_split_of("rows of TOKENS")
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
        help=f"Feature extractor of these scores: {FEATURE_NAMES}.",
        panel="Logging and checkpoints",
    )
    log_with: str | None = _log_with()
    on_spike: str = setting(
        "stop",
        among("stop", "skip"),
        help="At a step with a NaN, infinite or far too high loss: stop, or skip its update.",
        panel="Logging and checkpoints",
    )
    spike_sigma: float = setting(
        10.0,
        at_least(0),
        help="Standard deviations above the mean from which a loss is too high; 0 = NaN and infinity only.",
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
        help="Network size (f16 is the paper's, f8 latent diffusion's).",
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
    attention: str | None = setting(
        None,
        among(*ATTENTION),
        help="Self-attention: none, in the middle of encoder and decoder, or also at their lowest level.",
        unset="the size's own",
        panel="Model",
    )
    steps: int = setting(20000, at_least(1, LARGEST_COUNT), help="Number of generator steps.")
    batch_size: int = setting(32, at_least(1, LARGEST_BATCH), help="Global batch size.")
    accumulate: int = setting(
        1, at_least(1, LARGEST_BATCH), help="Gradient-accumulation steps per optimizer step."
    )
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
    log_with: str | None = _log_with()
    val_features: str | None = setting(
        None,
        among(*EXTRACTORS),
        help="Features of the Fréchet distance between --val images and their reconstructions.",
        unset="not measured",
        panel="Logging and checkpoints",
    )
