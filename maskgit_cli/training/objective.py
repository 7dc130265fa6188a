"""The objective of ``train``: masked cross-entropy, one optimizer step, and validation loss."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.training import TrainConfig
from maskgit_cli.formats.token_set import Tokens
from maskgit_cli.runtime import rng
from maskgit_cli.runtime.distributed import gather_objects, plain_attention, world
from maskgit_cli.training.batches import Batch, draw_masks
from maskgit_cli.training.common import Trained
from maskgit_cli.training.measures import BINS, accuracy_counts
from maskgit_cli.training.optim import EMA, decay_factor, set_lr, warmup_factor
from maskgit_cli.training.sharding import whole
from maskgit_cli.training.spikes import SpikeDetector, step_unless


def masked_loss(logits: Tensor, batch: Batch, config: TrainConfig) -> Tensor:
    """Sum of the cross-entropy over the positions of ``loss_on`` (arXiv 2202.04200, equation 2).

    Args:
        logits: (B, N, K+1), or (B, N, K) of a network without a logit for the mask; label smoothing
            spreads over all of them.
        batch: the targets.
        config: ``loss_on`` and ``label_smoothing`` are read.

    Returns:
        a scalar.
    """
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(),
        batch.tokens.flatten(),
        label_smoothing=config.label_smoothing,
        reduction="none",
    )  # (B·N,)
    return loss.sum() if config.loss_on == "all" else (loss * batch.masked.flatten()).sum()


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate at optimizer step ``step`` (from 1): linear warmup, constant, then a decay."""
    assert config.steps is not None
    steps = config.decay_steps or config.steps
    decay = decay_factor(config.lr_schedule, step, steps, config.lr_floor, config.decay_start)
    return config.lr * warmup_factor(step, config.warmup) * decay


class StepValues(NamedTuple):
    """Numbers of a step for the log, the same on all ranks.

    Attributes:
        means: ``loss``, of the global batch, and ``grad_norm``, before clipping: scalars.
        counts: of :func:`~maskgit_cli.training.measures.accuracy_counts`, flattened: float32 (2·BINS,).
    """

    means: dict[str, Tensor]
    counts: Tensor


def train_step(
    step: int,
    batch: Batch,
    config: TrainConfig,
    trained: Trained,
    ema: EMA,
    accelerator: Any,
    spikes: SpikeDetector | None = None,
) -> StepValues:
    """One optimizer step on this rank's share of a batch.

    The sum over positions is divided by their number in the global batch, so the gradient is the same
    however the batch is split into processes and micro-batches. A step that ``spikes`` finds leaves the
    weights as they are; the EMA takes these once more.
    """
    bf16 = accelerator.mixed_precision == "bf16"
    set_lr(trained.optimizer, learning_rate(step, config))
    counted = torch.ones_like(batch.masked) if config.loss_on == "all" else batch.masked
    positions = accelerator.reduce(counted.sum(), reduction="sum").clamp(min=1)
    total = torch.zeros((), device=accelerator.device)
    counts = torch.zeros(2, BINS, device=accelerator.device)
    micro = [Batch(*parts) for parts in zip(*(t.chunk(config.accumulate) for t in batch), strict=True)]
    for i, part in enumerate(micro):
        last = i == len(micro) - 1
        synchronized = contextlib.nullcontext() if last else accelerator.no_sync(trained.wrapped)
        with synchronized, plain_attention(accelerator.device, bf16, part.inputs[0].numel()):
            logits = trained.wrapped(part.inputs, part.labels, part.drop, part.seeds)  # (B, N, K+1)
            loss = masked_loss(logits, part, config) / positions
            # Gradients are averaged over the processes; the sum is wanted. Gradient checkpointing computes
            # the attention again here, with the same kernel.
            accelerator.backward(loss * world().size)
        total += loss.detach()
        counts += accuracy_counts(logits, part.tokens, part.masked, trained.network.mask_token)
    # One reduction for all of them: each has to wait for the slowest rank.
    sums = accelerator.reduce(torch.cat([total.view(1), counts.flatten()]), reduction="sum")
    total, counts = sums[0], sums[1:]
    norm = whole(accelerator.clip_grad_norm_(trained.wrapped.parameters(), config.clip))
    if spikes is None:
        trained.optimizer.step()
    else:
        step_unless(trained.optimizer, spikes.judge(step, total, norm))
    trained.optimizer.zero_grad()
    ema.update(trained.network, step)
    return StepValues({"loss": total, "grad_norm": norm}, counts)


@torch.no_grad()
def validation_loss(
    network: nn.Module,
    data: Tokens,
    config: TrainConfig,
    accelerator: Any,
    rows: np.ndarray | None = None,
) -> float:
    """Mean cross-entropy in nats, without label smoothing, of the masked tokens of every image of a file.

    Each image is used once, its first view with its label, and a mask that depends on the seed and the
    image alone; so the number compares between runs, sizes and process counts. ``rows`` are those that are
    measured; None is all.
    """
    rows = np.arange(len(data)) if rows is None else rows
    size = max(1, (config.batch_size or 1) // world().size)
    total, count = 0.0, 0
    for first in range(world().rank * size, len(rows), size * world().size):
        batch = rows[first : first + size]
        device = accelerator.device
        tokens = torch.from_numpy(data.take(batch, np.zeros_like(batch)).astype("int64")).to(device)
        labels = torch.from_numpy(data.labels[batch].astype("int64")).to(device)
        u = rng.uniform(config.seed, batch, 0, 1, rng.RATIO)[:, 0]
        v = rng.uniform(config.seed, batch, 0, tokens[0].numel(), rng.MASK)
        masked = draw_masks(u, v, config).view(tokens.shape).to(device)
        with accelerator.autocast():
            logits = network(tokens.masked_fill(masked, data.meta.codebook_size), labels)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
        # Summed on the host: Apple GPUs have no float64.
        total += float((loss.cpu() * masked.flatten().cpu()).double().sum())
        count += int(masked.sum())
    totals, counts = zip(*gather_objects((total, count)), strict=True)
    return sum(totals) / max(1, sum(counts))
