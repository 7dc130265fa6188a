"""The objective of ``train``: masking, masked cross-entropy, one optimizer step, and validation loss."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.stages import TrainConfig
from maskgit_cli.formats.tokens import TokenFile
from maskgit_cli.runtime import rng
from maskgit_cli.runtime.distributed import gather_objects, plain_attention, world
from maskgit_cli.sampling.schedules import mask_ratio
from maskgit_cli.training.common import Trained
from maskgit_cli.training.optim import EMA, cosine_factor, set_lr, warmup_factor
from maskgit_cli.training.sharding import whole


class Batch(NamedTuple):
    """Network inputs and targets of B images of N = h·w tokens.

    Attributes:
        inputs: int64 (B, h, w), with the mask token at masked positions.
        tokens: int64 (B, h, w), the targets.
        masked: bool (B, h, w).
        labels: int64 (B,), -1 for none.
        drop: bool (B,), label dropout.
    """

    inputs: Tensor
    tokens: Tensor
    masked: Tensor
    labels: Tensor
    drop: Tensor


def make_batch(
    step: int, data: TokenFile, config: TrainConfig, device: torch.device, rows: np.ndarray | None = None
) -> Batch:
    """This rank's share of the batch of a step (from 1), a pure function of (seed, step).

    Every epoch takes each row once, in an order of its own, and of each a view drawn at random. ``rows`` are
    those that may be taken; None is all.

    The mask ratio is the schedule's function of a uniform number, and each token is masked
    independently with that probability (arXiv 2310.14400, section 3.2).
    """
    assert config.batch_size is not None
    assert config.drop_label is not None
    share = config.batch_size // world().size
    mine = slice(world().rank * share, (world().rank + 1) * share)
    count = len(data) if rows is None else len(rows)
    chosen = rng.batch_rows(config.seed, count, (step - 1) * config.batch_size + mine.start, share)
    chosen = chosen if rows is None else rows[chosen]

    def uniform(stream: int, n: int = 1) -> Tensor:
        """This rank's rows (B, n) of the step's random numbers, float64 on the CPU."""
        return rng.batch_uniform(config.seed, step, config.batch_size or 0, n, stream)[mine]

    view = (uniform(rng.VIEW)[:, 0] * data.codes.shape[1]).long().numpy()
    tokens = torch.from_numpy(data.codes[chosen, view].astype("int64"))  # (B, h, w)
    labels = torch.from_numpy(data.labels[chosen].astype("int64"))
    ratio = mask_ratio(uniform(rng.RATIO), config.mask_schedule)  # (B, 1)
    masked = (uniform(rng.MASK, tokens[0].numel()) < ratio).view(tokens.shape)
    drop = uniform(rng.LABEL_DROPOUT)[:, 0] < config.drop_label
    inputs = tokens.masked_fill(masked, data.meta.codebook_size)
    # Integers and booleans alone go to the device: Apple GPUs have no float64.
    return Batch(*(t.to(device, non_blocking=True) for t in (inputs, tokens, masked, labels, drop)))


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
    """Learning rate at optimizer step ``step`` (from 1): linear warmup, then constant or a cosine decay."""
    assert config.steps is not None
    decay = cosine_factor(step, config.decay_steps or config.steps, config.lr_floor)
    return config.lr * warmup_factor(step, config.warmup) * decay


def train_step(
    step: int,
    data: TokenFile,
    config: TrainConfig,
    trained: Trained,
    ema: EMA,
    accelerator: Any,
    rows: np.ndarray | None = None,
) -> dict[str, Tensor]:
    """One optimizer step, on ``rows`` of the file; None is all.

    The sum over positions is divided by their number in the global batch, so the gradient is the same
    however the batch is split into processes and micro-batches.

    Returns:
        ``loss``, of the global batch, and ``grad_norm``, before clipping: scalars.
    """
    bf16 = accelerator.mixed_precision == "bf16"
    set_lr(trained.optimizer, learning_rate(step, config))
    # Only dropout uses torch's own generators: seed them by step and rank.
    torch.manual_seed(rng.torch_seed(config.seed, step, world().rank))
    batch = make_batch(step, data, config, accelerator.device, rows)
    counted = torch.ones_like(batch.masked) if config.loss_on == "all" else batch.masked
    positions = accelerator.reduce(counted.sum(), reduction="sum").clamp(min=1)
    total = torch.zeros((), device=accelerator.device)
    micro = [Batch(*parts) for parts in zip(*(t.chunk(config.accumulate) for t in batch), strict=True)]
    for i, part in enumerate(micro):
        last = i == len(micro) - 1
        synchronized = contextlib.nullcontext() if last else accelerator.no_sync(trained.wrapped)
        with synchronized, plain_attention(accelerator.device, bf16, part.inputs[0].numel()):
            logits = trained.wrapped(part.inputs, part.labels, part.drop)  # (B, N, K+1)
            loss = masked_loss(logits, part, config) / positions
            # Gradients are averaged over the processes; the sum is wanted. Gradient checkpointing computes
            # the attention again here, with the same kernel.
            accelerator.backward(loss * world().size)
        total += loss.detach()
    norm = whole(accelerator.clip_grad_norm_(trained.wrapped.parameters(), config.clip))
    trained.optimizer.step()
    trained.optimizer.zero_grad()
    ema.update(trained.network, step)
    return {"loss": accelerator.reduce(total, reduction="sum"), "grad_norm": norm}


@torch.no_grad()
def validation_loss(
    network: nn.Module,
    data: TokenFile,
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
        tokens = torch.from_numpy(data.codes[batch, 0].astype("int64")).to(device)
        labels = torch.from_numpy(data.labels[batch].astype("int64")).to(device)
        ratio = mask_ratio(rng.uniform(config.seed, batch, 0, 1, rng.RATIO), config.mask_schedule)
        masked = rng.uniform(config.seed, batch, 0, tokens[0].numel(), rng.MASK) < ratio
        masked = masked.view(tokens.shape).to(device)
        with accelerator.autocast():
            logits = network(tokens.masked_fill(masked, data.meta.codebook_size), labels)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
        # Summed on the host: Apple GPUs have no float64.
        total += float((loss.cpu() * masked.flatten().cpu()).double().sum())
        count += int(masked.sum())
    totals, counts = zip(*gather_objects((total, count)), strict=True)
    return sum(totals) / max(1, sum(counts))
