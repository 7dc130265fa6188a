"""Named tensors in safetensors files, checked strictly against the network they are for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from maskgit_cli.errors import ArtifactError, counted
from maskgit_cli.formats.atomic import replacing_file

# The format's names of types. It wants the larger ones first, so that all stand at multiples of their size.
_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors whole or not at all; the same tensors give the same bytes.

    One tensor after the other is brought to the CPU and written, so that the file is never in memory:
    safetensors' own functions make it there first. It begins with the length of a JSON header, which is
    filled up with spaces to a multiple of 8 bytes.

    Raises:
        OutputError: the file system refuses.
    """
    known = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in tensors.items()}
    places = sorted(known, key=lambda name: (list(_TYPES).index(known[name][0]), name))
    header, begin = {}, 0
    for name in places:
        dtype, shape = known[name]
        end = begin + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _TYPES[dtype], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing_file(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in places:
            plain = tensors[name].detach().cpu().contiguous()
            file.write(plain.flatten().view(torch.uint8).numpy().data)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors to the CPU.

    Raises:
        ArtifactError: the file is missing, truncated, or not a safetensors file.
    """
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged or not a safetensors file: {error}") from None


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a network: every one there, none over, every shape right, every number finite.

    Raises:
        ArtifactError: a tensor is missing, extra, of another shape, or holds NaN or infinity.
    """
    wanted = network.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    extra = sorted(tensors.keys() - wanted.keys())
    if missing:
        number = counted(len(missing), "tensor")
        raise ArtifactError(f"{path} lacks {number} of the network: {_listed(missing)}")
    if extra:
        number = counted(len(extra), "tensor")
        raise ArtifactError(f"{path} has {number} the network has not: {_listed(extra)}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            have, want = tuple(tensor.shape), tuple(wanted[name].shape)
            raise ArtifactError(f"{path}: tensor {name} has shape {have}, the network wants {want}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{path}: tensor {name} holds NaN or infinity; the weights are unusable")
    network.load_state_dict(dict(tensors))
