"""A model and its tokenizer, ready to draw."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskgit_cli.errors import ArtifactError
from maskgit_cli.formats.atomic import parent
from maskgit_cli.formats.models import builtin_model, newest_run
from maskgit_cli.networks.inference import apply_to_rows
from maskgit_cli.networks.loading import Model, Tokenizer, load_model, load_tokenizer
from maskgit_cli.runtime.distributed import autocast, resolve_device, resolve_dtype
from maskgit_cli.runtime.progress import Reporter
from maskgit_cli.sampling.samplers import Predict

# Rows of every call on a GPU. A transformer's are small; a decoder's are whole images of features.
TRANSFORMER_ROWS = 64


def predictor(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Predict:
    """The callable that samplers want, from a transformer in evaluation mode on ``device``.

    Args:
        network: maps codes (B, h, w), labels (B,) and drop (B,) to logits (B, h·w, K+1).
        device: of the network.
        dtype: precision of its matrix products.
    """

    def call(codes: Tensor, labels: Tensor, drop: Tensor) -> Tensor:
        with autocast(device, dtype):
            return network(codes, labels, drop).float()

    def predict(codes: Tensor, labels: Tensor, drop: Tensor) -> Tensor:
        return apply_to_rows(call, (codes, labels, drop), device, TRANSFORMER_ROWS)

    return predict


class Generator(NamedTuple):
    """A transformer and its tokenizer, ready to draw.

    Attributes:
        model: the transformer.
        tokenizer: the one its codes belong to.
        predict: the transformer as samplers want it.
        device: of both networks.
        dtype: precision of the transformer's matrix products; the tokenizer's is float32.
    """

    model: Model
    tokenizer: Tokenizer
    predict: Predict
    device: torch.device
    dtype: torch.dtype

    def parents(self) -> list[dict[str, str]]:
        """The records by which what is drawn names the two networks."""
        return [
            parent("model", self.model.path.resolve(), self.model.sha256),
            parent("tokenizer", self.tokenizer.path.resolve(), self.tokenizer.sha256),
        ]


def choose_model(path: Path | None, reporter: Reporter) -> Path:
    """The run or model directory a command means: the one named, the newest run, or the built-in model.

    The name ``builtin`` always means the built-in model, unless there is a folder of that name.
    """
    if path == Path("builtin") and not path.exists():
        return builtin_model()
    if path is not None:
        return path
    run = newest_run()
    if run is None:
        reporter.info("no run under runs/: using the built-in model")
        return builtin_model()
    reporter.info(f"using the newest run: {run}")
    return run


def load_generator(path: Path, weights: str, device: str, dtype: str) -> Generator:
    """Open a run or model directory with its tokenizer.

    Args:
        path: the directory.
        weights: ``ema`` or ``raw``.
        device: name of the device, or ``auto``.
        dtype: name of the precision, or ``auto``.

    Raises:
        ConfigError: there is no such device or precision.
        InputError: there is nothing at ``path``.
        ArtifactError: something there is incomplete or damaged, or the tokenizer is another one.
    """
    place = resolve_device(device)
    precision = resolve_dtype(dtype, place)
    model = load_model(path, place, weights)
    tokenizer = load_tokenizer(path, place)
    if tokenizer.sha256 != model.tokenizer_sha256:
        raise ArtifactError(
            f"{tokenizer.path} is not the tokenizer that {path} was trained with: its sha256 is "
            f"{tokenizer.sha256[:12]}…, not {model.tokenizer_sha256[:12]}…; put the right one there"
        )
    sizes = (model.config.codebook_size, model.config.grid * tokenizer.config.factor)
    if sizes != (tokenizer.config.codebook_size, model.resolution):
        raise ArtifactError(
            f"{path} is inconsistent: its transformer is for {sizes[0]} codes and {sizes[1]} pixels, its "
            f"tokenizer has {tokenizer.config.codebook_size} codes, its record says {model.resolution} pixels"
        )
    return Generator(model, tokenizer, predictor(model.network, place, precision), place, precision)
