"""Sharded training (FSDP2): weights, gradients, AdamW and EMA divided among the processes.

Torch's ``fully_shard`` is called directly: Accelerate has it for GPUs only, and on CPUs it can be tested. A
checkpoint holds whole tensors, so a run can be resumed with or without sharding, by any number of processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from maskgit_cli.errors import ConfigError
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.runtime.distributed import world


def shard(network: MaskedTransformer, accelerator: Any) -> None:
    """Shard a network, which has the same weights on all ranks, in place; before its optimizer is made.

    Each block gathers its weights for its own forward and backward pass. They are gathered in float32,
    as autocast needs them, so the results are those without sharding up to the order of sums. A single
    process has nothing to shard.

    Raises:
        ConfigError: the precision is fp16, whose loss scale each rank would choose for itself.
    """
    if accelerator.mixed_precision == "fp16":
        raise ConfigError("--fsdp: not with --dtype fp16; use bf16 or fp32")
    if world().size == 1:
        return
    # Logits are views in some networks; nothing changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(accelerator.device.type, (world().size,))
    for block in network.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def is_sharded(network: nn.Module) -> bool:
    """Whether :func:`shard` has sharded a network."""
    return isinstance(network, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, which shares its memory; all of one that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from all ranks if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered_on_main(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors on rank 0, sharded ones in CPU memory; the other ranks get no sharded ones."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)  # one at a time: a GPU may not hold them all
        if full is tensor:
            found[name] = tensor
        elif world().main:
            found[name] = full.cpu()
    return found


def sharded_like(value: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, sharded as another one of its shape is."""
    if not isinstance(tensor, DTensor) or value.shape != tensor.shape:
        return value
    value = value.to(tensor.device)
    return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)


@torch.no_grad()
def load_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load whole weights into a network, sharded or not."""
    state = network.state_dict()
    network.load_state_dict({k: sharded_like(v, state[k]) if k in state else v for k, v in tensors.items()})
