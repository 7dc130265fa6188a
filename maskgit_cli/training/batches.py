"""Batches of masked tokens for ``train``, prepared in a thread while the steps before them run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.training import TrainConfig
from maskgit_cli.formats.token_set import Tokens
from maskgit_cli.runtime import rng
from maskgit_cli.runtime.distributed import world
from maskgit_cli.sampling.schedules import mask_ratio

# Batches prepared in advance. One is enough on average; a second one absorbs a slow read from a disk.
AHEAD = 2


class Batch(NamedTuple):
    """Network inputs and targets of B images of N = h·w tokens.

    Attributes:
        inputs: int64 (B, h, w), with the mask token at masked positions.
        tokens: int64 (B, h, w), the targets.
        masked: bool (B, h, w).
        labels: int64 (B,), -1 for none.
        drop: bool (B,), label dropout.
        seeds: int64 (B,), what is dropped in the network.
    """

    inputs: Tensor
    tokens: Tensor
    masked: Tensor
    labels: Tensor
    drop: Tensor
    seeds: Tensor


class HostBatch(NamedTuple):
    """A batch as it is copied to the device: the inputs follow from the others, and 32 bits hold a token.

    Attributes:
        codes: int32 (B, h, w).
        masked: bool (B, h, w).
        labels: int64 (B,).
        drop: bool (B,).
        seeds: int64 (B,).
    """

    codes: Tensor
    masked: Tensor
    labels: Tensor
    drop: Tensor
    seeds: Tensor

    def pinned(self) -> HostBatch:
        """The same in pinned memory, from which a GPU copies while the host goes on."""
        return HostBatch(*(part.pin_memory() for part in self))

    def on(self, device: torch.device, mask_token: int) -> Batch:
        """The batch on a device; nothing waits for the copies."""
        # Integers and booleans alone go to the device: Apple GPUs have no float64.
        codes, masked, *others = (part.to(device, non_blocking=True) for part in self)
        tokens = codes.long()
        return Batch(tokens.masked_fill(masked, mask_token), tokens, masked, *others)


def host_batch(step: int, data: Tokens, config: TrainConfig, rows: np.ndarray | None = None) -> HostBatch:
    """This rank's share of the batch of a step (from 1), a pure function of (seed, step).

    Every epoch takes each row once, in an order of its own, and of each a view drawn at random for that row
    and epoch. Where the rows of an epoch do not fill its last batch, the next epoch's first rows do, so all
    batches have the same size. ``rows`` are those that may be taken; None is all.

    For the masks see :func:`draw_masks`.
    """
    assert config.batch_size is not None
    assert config.drop_label is not None
    share = config.batch_size // world().size
    mine, first = world().rank * share, (step - 1) * config.batch_size
    count = len(data) if rows is None else len(rows)
    chosen = rng.batch_rows(config.seed, count, first + mine, share)
    chosen = chosen if rows is None else rows[chosen]
    epochs = np.arange(first + mine, first + mine + share) // count
    codes = data.take(chosen, rng.picked(config.seed, epochs, chosen, data.view_counts(chosen), rng.VIEW))

    def uniform(stream: int) -> Tensor:
        """A number of the step for each of this rank's rows (B,)."""
        return rng.batch_uniform(config.seed, step, share, 1, stream, first=mine)[:, 0]

    return HostBatch(
        torch.from_numpy(codes.astype(np.int32)),
        _masks(step, uniform(rng.RATIO), codes[0].size, config, mine).view(codes.shape),
        torch.from_numpy(data.labels[chosen].astype(np.int64)),
        uniform(rng.LABEL_DROPOUT) < config.drop_label,
        rng.row_seeds(config.seed, step, share, first=mine),
    )


def draw_masks(u: Tensor, v: Tensor, config: TrainConfig) -> Tensor:
    """Which tokens of each image are masked, from uniform numbers.

    The mask ratio is the schedule's function of u, at least ``mask_min``. With ``bernoulli`` each token is
    masked independently with that probability (arXiv 2310.14400, section 3.2, and the released code). With
    ``exact`` ⌈ratio·N⌉ of the N tokens are, all choices being alike (arXiv 2202.04200, section 3.2), so at
    least one is.

    Args:
        u: float64 (B,).
        v: float64 (B, N).
        config: ``mask_schedule``, ``mask_count`` and ``mask_min`` are read.

    Returns:
        bool (B, N).
    """
    ratio = _ratios(u, config)[:, None]  # (B, 1)
    if config.mask_count == "bernoulli":
        return v < ratio
    count = (ratio * v.shape[1]).ceil().clamp(min=1)  # (B, 1)
    return v.argsort(dim=1).argsort(dim=1) < count  # the tokens with the smallest numbers


def _ratios(u: Tensor, config: TrainConfig) -> Tensor:
    """Mask ratios (B,) of uniform numbers (B,)."""
    return mask_ratio(u, config.mask_schedule).clamp(min=config.mask_min)


def _masks(step: int, u: Tensor, n: int, config: TrainConfig, first: int) -> Tensor:
    """:func:`draw_masks` for the rows of a step's batch from ``first`` on: bool (B, n)."""
    if config.mask_count == "bernoulli":  # the same without the numbers themselves
        ratio = _ratios(u, config).numpy()
        return torch.from_numpy(rng.batch_below(config.seed, step, ratio, n, rng.MASK, first=first))
    v = rng.batch_uniform(config.seed, step, len(u), n, rng.MASK, first=first)
    return draw_masks(u, v, config)


def make_batch(
    step: int, data: Tokens, config: TrainConfig, device: torch.device, rows: np.ndarray | None = None
) -> Batch:
    """This rank's share of the batch of a step on its device; see :func:`host_batch`."""
    return host_batch(step, data, config, rows).on(device, data.meta.codebook_size)


class Batches:
    """A context in which a thread prepares the batches of the steps to come.

    Args:
        data: the rows of all batches.
        config: the resolved settings.
        device: where the batches go.
        rows: those that may be taken; None is all.
    """

    def __init__(
        self, data: Tokens, config: TrainConfig, device: torch.device, rows: np.ndarray | None = None
    ) -> None:
        self._device, self._mask_token = device, data.meta.codebook_size
        self._last = config.steps or 0
        self._make: Callable[[int], HostBatch] = lambda step: host_batch(step, data, config, rows)
        self._pending: dict[int, Future[HostBatch]] = {}

    def __enter__(self) -> Self:
        # Each thread has a current GPU of its own; pinning memory would otherwise also occupy the first one.
        choose = functools.partial(torch.cuda.set_device, self._device)
        self._pool = ThreadPoolExecutor(1, "batches", choose if self._device.type == "cuda" else None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Waits for the batch that is being prepared, so that no thread reads a file that is closed.
        self._pool.shutdown(cancel_futures=True)

    def take(self, step: int) -> Batch:
        """This rank's share of a step's batch; those of the next steps are prepared from now on.

        Any step may follow any other; only the step after the last one has been prepared already.

        Raises:
            Exception: what the preparation raised.
        """
        wanted = range(step, min(step + AHEAD, max(self._last, step)) + 1)
        for other in self._pending.keys() - set(wanted):
            self._pending.pop(other).cancel()
        for coming in wanted:
            if coming not in self._pending:
                self._pending[coming] = self._pool.submit(self._prepare, coming)
        return self._pending.pop(step).result().on(self._device, self._mask_token)

    def _prepare(self, step: int) -> HostBatch:
        batch = self._make(step)
        return batch.pinned() if self._device.type == "cuda" else batch
