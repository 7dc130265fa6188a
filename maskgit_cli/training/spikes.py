"""Steps whose loss or gradient is not usable: found on the device, left out by the optimizer, read late."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Steps over which mean and variance of the loss are taken, and before which only NaN and infinity count.
WINDOW = 100
# Smallest standard deviation in nats: the loss of images that are memorized varies by less.
LEAST_SIGMA = 0.01
# Steps in a row that are left out at most. Leaving out more of them would not bring the training back.
MOST_SKIPPED = 10
# Steps by which a CUDA device is read late, so that it always has work queued.
LATE = 2


class Spike(NamedTuple):
    """A step whose update was left out.

    Attributes:
        step: the step.
        loss: of its global batch.
        grad_norm: before clipping.
        usual: mean of the losses before it.
        in_row: how many steps in a row were left out, this one included.
    """

    step: int
    loss: float
    grad_norm: float
    usual: float
    in_row: int

    @property
    def what(self) -> str:
        """What is wrong with the step."""
        if not math.isfinite(self.loss):
            return f"loss is {self.loss}"
        if not math.isfinite(self.grad_norm):
            return f"grad_norm is {self.grad_norm}"
        return f"loss is {self.loss:.4g} where {self.usual:.4g} is usual"


class _Read(NamedTuple):
    """Numbers of a step (4,) on their way to the CPU, and the event after which they are there."""

    step: int
    values: Tensor
    arrived: Any


class SpikeDetector:
    """Finds steps with a NaN or infinite loss or gradient, or a loss of many standard deviations.

    The standard deviation is that around an exponential mean over :data:`WINDOW` steps; only a loss above
    the mean counts, and steps that were found do not enter the mean. Gradients are clipped, so that a large
    one alone does no harm. All ranks have the same numbers, and so find the same steps.

    Args:
        device: of the losses.
        sigma: number of standard deviations; 0 finds only NaN and infinity.
    """

    def __init__(self, device: torch.device, sigma: float) -> None:
        self.sigma = sigma
        # Number of losses, mean, variance; float32, as Apple GPUs have no float64.
        self.state = torch.zeros(3, device=device)
        # Other GPUs have no way to read a value but to wait for all queued work: they are read on demand.
        self._late: float = {"cpu": 0, "cuda": LATE}.get(device.type, math.inf)
        self._reads: deque[_Read] = deque()
        self._last, self._in_row = 0, 0

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The state for a checkpoint."""
        return {"loss": self.state}

    @torch.no_grad()
    def judge(self, step: int, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """1.0 if the update of a step is to be left out, else 0.0, as a scalar on the device.

        Args:
            step: the step.
            loss: scalar, the same on all ranks.
            grad_norm: scalar, before clipping, the same on all ranks.
        """
        count, mean, variance = self.state.unbind()
        bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        if self.sigma:
            limit = mean + self.sigma * variance.sqrt().clamp(min=LEAST_SIGMA)
            bad = bad | ((count >= WINDOW) & (loss > limit))
        self._read_later(step, torch.stack([bad.float(), loss.float(), grad_norm.float(), mean]))
        difference = loss - mean
        # The first steps have equal weights (Welford's recurrence), later ones fall off exponentially.
        weight = (1 / (count + 1)).clamp(min=1 / WINDOW)
        variance = (1 - weight) * (variance + weight * difference.square())
        self.state.copy_(
            torch.where(bad, self.state, torch.stack([count + 1, mean + weight * difference, variance]))
        )
        return bad.float()

    def _read_later(self, step: int, values: Tensor) -> None:
        arrived = None
        if values.is_cuda:
            host = torch.empty(values.shape, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            arrived = torch.cuda.current_stream().record_event()
        self._reads.append(_Read(step, values, arrived))

    def read(self, wait: bool) -> list[Spike]:
        """The steps found since the last call.

        Args:
            wait: for the last step; else a CUDA device is read :data:`LATE` steps late, and an Apple GPU not
                at all.
        """
        found = []
        while len(self._reads) > (0 if wait else self._late):
            step, values, arrived = self._reads.popleft()
            if arrived is not None:
                arrived.synchronize()
            bad, loss, norm, usual = values.tolist()
            if bad:
                self._in_row = self._in_row + 1 if step == self._last + 1 else 1
                self._last = step
                found.append(Spike(step, loss, norm, usual, self._in_row))
        return found


def step_unless(optimizer: Any, skip: Tensor) -> None:
    """Do an optimizer's step, unless the scalar ``skip`` is 1.0.

    Fused optimizers leave the step out on the device (``found_inf``, which is how ``torch.amp.GradScaler``
    does it). Others, and the gradient scaler of fp16, wait for the device.

    Args:
        optimizer: as wrapped by Accelerate.
        skip: on the device of the weights.
    """
    inner = optimizer.optimizer
    if optimizer.scaler is None and inner.defaults.get("fused"):
        inner.found_inf = skip
        try:
            optimizer.step()
        finally:
            del inner.found_inf
    elif not bool(skip):
        optimizer.step()
    elif optimizer.scaler is not None:
        optimizer.scaler.update()  # has seen the gradients, and lowers its scale if they were infinite
