"""EMA of weights, learning-rate schedules, parameter groups, and optimizer state as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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


def decay_factor(shape: str, step: int, steps: int, floor: float, start: float = 0.0) -> float:
    """Learning rate at optimizer step ``step`` over its peak: constant, then falling to ``floor``.

    Args:
        shape: ``cosine`` or ``linear``.
        step: from 1.
        steps: where the decay ends; the rate stays at ``floor`` afterwards.
        floor: final value.
        start: where the decay begins, as a fraction of ``steps``.
    """
    progress = max(0.0, min(1.0, step / steps) - start) / (1 - start)
    left = 1 - progress if shape == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return floor + (1 - floor) * left


def cosine_factor(step: int, steps: int, floor: float) -> float:
    """Learning rate at optimizer step ``step`` of ``steps`` over its peak: cosine down to ``floor``."""
    return decay_factor("cosine", step, steps, floor)


def parameter_groups(network: nn.Module, weight_decay: float, on: str) -> list[dict[str, Any]]:
    """Parameter groups of AdamW, with their weight decay.

    Args:
        network: the network.
        weight_decay: decoupled weight decay (arXiv 1711.05101).
        on: ``all``, or ``matrices`` of linear layers: no norms, biases, embeddings or positions.

    Returns:
        one group, or with ``matrices`` those that decay and the others, each in the network's order.
    """
    parameters = list(network.parameters())
    if on == "all":
        return [{"params": parameters, "weight_decay": weight_decay}]
    decayed = {module.weight for module in network.modules() if isinstance(module, nn.Linear)}
    return [
        {"params": [p for p in parameters if p in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p not in decayed], "weight_decay": 0.0},
    ]


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
    # torch numbers the parameters through all groups.
    listed = (parameter for group in optimizer.param_groups for parameter in group["params"])
    order = {parameter: i for i, parameter in enumerate(listed)}
    state: dict[int, dict[str, Tensor]] = {}
    for name, parameter in network.named_parameters():
        entries = {k.rsplit("/", 1)[1]: v for k, v in tensors.items() if k.rsplit("/", 1)[0] == name}
        entries = {k: sharded_like(v, parameter) for k, v in entries.items()}
        if entries:
            state[order[parameter]] = entries
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
