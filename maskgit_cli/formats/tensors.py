"""Named tensors in safetensors files, checked strictly against the network that they are for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from maskgit_cli.errors import ArtifactError, counted
from maskgit_cli.formats.atomic import regular, replacing_file, sha256_file

if TYPE_CHECKING:  # `maskgit info` reads shapes without torch
    from torch import Tensor, nn


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors atomically; equal tensors give equal bytes.

    Raises:
        OutputError: the file system refuses.
    """
    from safetensors.torch import save_file

    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # safetensors writes a temporary file of its own next to the target, readable by its owner alone.
    with replacing_file(path, in_folder=True) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(stored, temporary)
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        temporary.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors to the CPU.

    Raises:
        ArtifactError: the file is missing, truncated, or not a safetensors file.
    """
    from safetensors.torch import load_file

    regular(path)
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        if str(error).startswith("could not determine the shape of object type"):
            raise KeyboardInterrupt from None  # a signal's, which torch drops where it looks at a storage
        raise ArtifactError(f"{path} is damaged or not a safetensors file: {error}") from None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a file, from its header.

    Raises:
        ArtifactError: as :func:`read_tensors`.
    """
    regular(path)
    try:
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged or not a safetensors file: {error}") from None


def load_file(network: nn.Module, path: Path, sha256: str | None) -> str:
    """Load the weights in a file strictly (see :func:`load_weights`), and check their digest.

    Another thread computes the digest meanwhile, so that it takes hardly any time.

    Args:
        network: for which the weights are; if an error is raised, it must not be used.
        path: of the file.
        sha256: that the file must have; None where that is not recorded.

    Returns:
        The file's sha256.

    Raises:
        ArtifactError: the file is missing or damaged, or does not fit the network.
    """
    if not regular(path).exists():
        raise ArtifactError(f"{path} is missing")
    problem: ArtifactError | None = None
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(sha256_file, path)
        try:
            load_weights(network, read_tensors(path), path)
        except ArtifactError as error:  # a wrong digest is the better explanation
            problem = error
        found = digest.result()
    if sha256 not in (None, found):
        raise ArtifactError(f"{path} is damaged: its sha256 is {found[:12]}…, not {sha256[:12]}… as recorded")
    if problem is not None:
        raise problem
    return found


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict strictly: no missing or unexpected keys, equal shapes, finite values.

    Args:
        network: it is left as it was if anything is wrong. One on the ``meta`` device gets copies on the CPU.
        tensors: of the state dict.
        path: of their file, for messages.

    Raises:
        ArtifactError: a tensor is missing, unexpected, of another shape, of integers where the network has
            fractions or the reverse, or holds NaN or infinity.
    """
    import torch

    check_shapes(network, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, path)
    wanted = network.state_dict()
    for name, own in wanted.items():
        tensor = tensors[name]
        if tensor.is_floating_point() != own.is_floating_point():
            raise ArtifactError(f"{path}: tensor {name} has {tensor.dtype}, the network has {own.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{path}: tensor {name} holds NaN or infinity; the weights are unusable")
    if any(own.is_meta for own in wanted.values()):
        copies = {name: tensor.to(wanted[name].dtype, copy=True) for name, tensor in tensors.items()}
        network.load_state_dict(copies, assign=True)
    else:
        network.load_state_dict(dict(tensors))


def check_shapes(network: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Check that tensors have the names and shapes of a network's, which may be on the ``meta`` device.

    Args:
        network: the network.
        shapes: of the tensors, by their names.
        path: of their file, for messages.

    Raises:
        ArtifactError: a tensor is missing, unexpected, or of another shape.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing, unexpected = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    for names, what in ((missing, "missing"), (unexpected, "unexpected")):
        if names:
            raise ArtifactError(f"{path}: {counted(len(names), f'{what} key')}: {_listed(names)}")
    for name, shape in shapes.items():
        if shape != wanted[name]:
            raise ArtifactError(f"{path}: tensor {name} has shape {shape}, the network has {wanted[name]}")
