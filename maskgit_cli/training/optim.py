"""EMA of weights, learning-rate schedules, and optimizer state as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from maskgit_cli.training.sharding import local, sharded_like


class EMA:
    """Exponential moving average of a network's parameters, in float32.

    The decay warms up as min(decay, (1+n)/(10+n)) after n updates, so that the random initialization is
    forgotten quickly.

    Args:
        network: the network; the averages are on its device.
        decay: decay after warmup.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().float().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the averages after optimizer step ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = network.state_dict()
        averages = [local(average) for average in self.tensors.values()]
        values = [local(state[name]).detach().float() for name in self.tensors]
        torch._foreach_lerp_(averages, values, 1 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the averages of a checkpoint."""
        for name, average in self.tensors.items():
            average.copy_(sharded_like(tensors[name], average))


def warmup_factor(step: int, warmup: int) -> float:
    """Learning rate at optimizer step ``step`` (from 1) over its peak: linear, then 1."""
    return min(1.0, step / warmup) if warmup > 0 else 1.0


def cosine_factor(step: int, steps: int, floor: float) -> float:
    """Learning rate at optimizer step ``step`` of ``steps`` over its peak: cosine down to ``floor``."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as tensors named ``parameter/entry``, for a checkpoint."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Load the state of :func:`optimizer_tensors` into an optimizer over all parameters of a network."""
    order = {parameter: i for i, parameter in enumerate(optimizer.param_groups[0]["params"])}
    state: dict[int, dict[str, Tensor]] = {}
    for name, parameter in network.named_parameters():
        entries = {k.rsplit("/", 1)[1]: v for k, v in tensors.items() if k.rsplit("/", 1)[0] == name}
        entries = {k: sharded_like(v, parameter) for k, v in entries.items()}
        if entries:
            state[order[parameter]] = entries
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
