"""A transformer with its tokenizer, and the choice of model and sampler settings for a command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskgit_cli.config.arguments import PathArgument, optional_path
from maskgit_cli.config.base import require
from maskgit_cli.config.samplers import PRESETS, SamplerConfig, changed, preset_for
from maskgit_cli.errors import ArtifactError
from maskgit_cli.formats.atomic import parent
from maskgit_cli.formats.models import builtin_model, newest_run
from maskgit_cli.networks.inference import apply_to_rows, decode_tokens
from maskgit_cli.networks.loading import Model, Tokenizer, load_model, load_tokenizer
from maskgit_cli.runtime.distributed import autocast, resolve_device, resolve_dtype
from maskgit_cli.runtime.progress import Reporter
from maskgit_cli.sampling.samplers.core import Predict

# Rows of every forward pass of a transformer on a GPU.
TRANSFORMER_ROWS = 64
# Settings of a sampler, or changes to the model's own; "method" among them selects another sampler.
SamplerChoice = SamplerConfig | Mapping[str, Any] | None


def predictor(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Predict:
    """The ``predict`` of samplers, from a transformer in evaluation mode on ``device``.

    Args:
        network: maps tokens (B, h, w), labels (B,) and drop (B,) to logits (B, h·w, K+1).
        device: of the network.
        dtype: precision of its matrix products.
    """

    def call(tokens: Tensor, labels: Tensor, drop: Tensor) -> Tensor:
        with autocast(device, dtype):
            return network(tokens, labels, drop).float()

    def predict(tokens: Tensor, labels: Tensor, drop: Tensor) -> Tensor:
        return apply_to_rows(call, (tokens, labels, drop), device, TRANSFORMER_ROWS)

    return predict


class Pipeline(NamedTuple):
    """A transformer and its tokenizer, ready for sampling.

    Attributes:
        model: the transformer.
        tokenizer: the one it was trained with.
        predict: the transformer as samplers call it.
        device: of both networks.
        dtype: precision of the transformer's matrix products; the tokenizer's is float32.
    """

    model: Model
    tokenizer: Tokenizer
    predict: Predict
    device: torch.device
    dtype: torch.dtype

    @property
    def mask_token(self) -> int:
        """K, the token of a masked position."""
        return self.model.config.codebook_size

    def masked(self, n: int) -> Tensor:
        """Fully masked grids (n, h, w) on the device."""
        grid = self.model.config.grid
        return torch.full((n, grid, grid), self.mask_token, device=self.device)

    def decode(self, tokens: Tensor) -> Tensor:
        """Images uint8 (B, 3, H, W) on the CPU of tokens (B, h, w)."""
        return decode_tokens(self.tokenizer, tokens, self.device)

    def parents(self) -> list[dict[str, str]]:
        """The two networks as an artifact's record names them."""
        return [
            parent("model", self.model.path.resolve(), self.model.sha256),
            parent("tokenizer", self.tokenizer.path.resolve(), self.tokenizer.sha256),
        ]


class OpenedModel:
    """A model that is opened already; stages take it in place of a path.

    It is also a path, that of its directory.

    Args:
        pipeline: its networks.
        weights: ``ema`` or ``raw``, of a run.
    """

    def __init__(self, pipeline: Pipeline, weights: str = "ema") -> None:
        self.pipeline = pipeline
        self.weights = weights

    def __fspath__(self) -> str:
        return str(self.pipeline.model.path)


ModelArgument = PathArgument | OpenedModel | None


def choose_model(path: Path | None, reporter: Reporter) -> Path:
    """The run or model directory of a command: the given one, the newest run, or the built-in model.

    ``builtin`` is the built-in model, unless there is a folder of that name.
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


def open_pipeline(
    model: ModelArgument, weights: str, device: str, dtype: str, reporter: Reporter
) -> Pipeline:
    """The networks of a command: of a model that is opened already, or those that its argument names.

    Args:
        model: see :func:`choose_model`.
        weights: ``ema`` or ``raw``.
        device: name of the device, or ``auto``.
        dtype: name of the precision, or ``auto``.
        reporter: receives the choice.

    Raises:
        ConfigError: there is no such device or precision, or the model was opened with another setting.
        InputError: there is nothing at the path.
        ArtifactError: something there is incomplete or damaged, or the tokenizer is another one.
    """
    if not isinstance(model, OpenedModel):
        return load_pipeline(choose_model(optional_path(model), reporter), weights, device, dtype)
    opened = model.pipeline
    require(weights == model.weights, "weights", weights, f"{model.weights}, as the model was opened")
    if device != "auto":
        target = resolve_device(device)
        same = target.type == opened.device.type and target.index in (None, opened.device.index)
        require(same, "device", device, f"{opened.device}, where the model was opened")
    if dtype != "auto":
        same = resolve_dtype(dtype, opened.device) == opened.dtype
        require(same, "dtype", dtype, f"{opened.dtype}, as the model was opened")
    return opened


def load_pipeline(path: Path, weights: str, device: str, dtype: str) -> Pipeline:
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
    target = resolve_device(device)
    precision = resolve_dtype(dtype, target)
    model = load_model(path, target, weights)
    tokenizer = load_tokenizer(path, target)
    if tokenizer.sha256 != model.tokenizer_sha256:
        raise ArtifactError(
            f"{tokenizer.path} is not the tokenizer that {path} was trained with: its sha256 is "
            f"{tokenizer.sha256[:12]}…, not {model.tokenizer_sha256[:12]}…; put the right one there"
        )
    sizes = (model.config.codebook_size, model.config.grid * tokenizer.config.factor)
    if sizes != (tokenizer.config.codebook_size, model.resolution):
        raise ArtifactError(
            f"{path} is inconsistent: its transformer is for {sizes[0]} tokens and {sizes[1]} px, its "
            f"tokenizer has {tokenizer.config.codebook_size} tokens, its record {model.resolution} px"
        )
    return Pipeline(model, tokenizer, predictor(model.network, target, precision), target, precision)


def choose_sampler(choice: SamplerChoice, model: Model, guided: bool = True) -> SamplerConfig:
    """The sampler's settings for a model.

    A model is sampled with the settings in its record. Without any, its network is sampled as it was
    published: the paper's with the preset for its resolution, Halton-MaskGIT's and Google's with their
    own samplers.

    Args:
        choice: all settings, changes to those of the model, or None for none. Among changes, ``method``
            selects another sampler, a key of :data:`~maskgit_cli.config.samplers.SAMPLERS`, whose preset for
            the model's resolution is changed then.
        model: the model to sample.
        guided: whether the images have a class. Without one, cond and uncond are the same, and guidance
            would cost a forward pass and change only the last bits, so it is disabled.

    Raises:
        ConfigError: a change is out of range or unknown to the sampler, or guidance is requested of a
            network without a null class, or for images without a class.
    """
    if not isinstance(choice, SamplerConfig):
        changes = dict(choice or {})
        method = changes.pop("method", None)
        if model.sampler is not None and method in (None, model.sampler.method):
            base = model.sampler
        else:
            base = PRESETS[preset_for(model.resolution, method or model.entry.sampler)]
        requested = changes.get("cfg", 0)
        choice = changed(base, changes)
        require(guided or not requested, "cfg", f"{requested:g}", "0: the images have no class")
    else:
        requested = choice.cfg
    if not model.config.has_null_class:
        require(requested == 0, "cfg", requested, "0: this network has no null class")
        guided = False
    return choice.limited(guided=guided)
