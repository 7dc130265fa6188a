"""The published containers in tests/data, small versions of the published ones, and changed copies."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgpack
import numpy as np
import torch

DATA = Path(__file__).parent / "data"


class Family(NamedTuple):
    """The files of one origin, and the heads, which cannot be inferred from its transformer's shapes."""

    transformer: Path
    tokenizer: tuple[Path, ...]
    heads: int | None


V1 = Family(
    DATA / "maskgit_v1" / "MaskGIT_tiny.pth",
    (
        DATA / "maskgit_v1" / "VQGAN" / "ckpts" / "last.ckpt",
        DATA / "maskgit_v1" / "VQGAN" / "configs" / "model.yaml",
    ),
    4,
)
HALTON = Family(DATA / "halton" / "ImageNet_tiny.pth", (DATA / "halton" / "vq_tiny_c2i.pt",), 4)
GOOGLE = Family(
    DATA / "official_jax" / "maskgit_imagenet_tiny_checkpoint",
    (DATA / "official_jax" / "tokenizer_imagenet_tiny_checkpoint",),
    None,
)
FAMILIES = {"maskgit": V1, "halton": HALTON, "google": GOOGLE}


def golden(name: str) -> dict[str, torch.Tensor]:
    """Inputs and outputs of a published network."""
    with np.load(DATA / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def rewritten(source: Path, out: Path, change: Callable[[dict], object]) -> Path:
    """A published file of PyTorch's with something changed in it."""
    content = torch.load(source, weights_only=True)
    change(content)
    torch.save(content, out)
    return out


def rewritten_flax(source: Path, out: Path, change: Callable[[dict], object]) -> Path:
    """A published file of flax's with something changed in it; arrays stay as they are packed."""
    content = msgpack.unpackb(source.read_bytes())
    change(content)
    out.write_bytes(msgpack.packb(content))
    return out


def flax_array(array: np.ndarray) -> msgpack.ExtType:
    """An array as flax packs it."""
    return msgpack.ExtType(1, msgpack.packb((array.shape, str(array.dtype), array.tobytes())))
