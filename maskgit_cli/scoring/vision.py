"""Vision transformers of the package ``transformers``: loading, and images as they take them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.errors import ArtifactError, InputError, WeightsError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.tensors import read_tensors
from maskgit_cli.formats.torch_files import read_checkpoint
from maskgit_cli.networks.inference import apply_to_rows
from maskgit_cli.runtime.pretrained import HubFile, pretrained_from_hub
from maskgit_cli.scoring.features import GPU_ROWS, Features, Resources

# Files of weights in a directory of the hub's layout, the safer one first.
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


class Architecture(NamedTuple):
    """A network of ``transformers`` and its published weights.

    Attributes:
        title: what messages call it.
        file: the published weights.
        network: name of its class.
        config: name of the class of its settings.
        settings: of the published network, where they differ from that class's defaults.
    """

    title: str
    file: HubFile
    network: str
    config: str
    settings: Mapping[str, Any]


def load_network(architecture: Architecture, resources: Resources) -> tuple[Any, str]:
    """The network in float32 on the device of the resources, and the sha256 of its weights.

    Args:
        architecture: the network.
        resources: ``weights`` is a file of weights or a directory that contains one. Settings are those of
            the ``config.json`` next to it; without one, the published network's.

    Raises:
        WeightsError: ``transformers`` is not installed, or the weights are not available or not valid.
    """
    try:
        import transformers
    except ImportError as error:
        raise WeightsError(
            f'{architecture.title} needs transformers: pip install "maskgit-cli[vision]"'
        ) from error
    config_class = getattr(transformers, architecture.config)
    published = resources.weights is None
    path = _published(architecture, resources) if published else _local_weights(Path(resources.weights or ""))
    with _quiet(transformers):
        if not published and path.with_name("config.json").is_file():
            config = _config(config_class, path.parent)
        else:
            config = config_class(**architecture.settings)
        network = _filled(getattr(transformers, architecture.network), config, _read(path), path)
    digest = architecture.file.sha256 if published else sha256_file(path)
    return network.to(resources.device, torch.float32).eval(), digest


def _published(architecture: Architecture, resources: Resources) -> Path:
    try:
        return pretrained_from_hub(architecture.file, resources.reporter)
    except WeightsError as error:
        raise WeightsError(
            f"no {architecture.title} weights ({error}): name a directory with {architecture.file.name} of "
            f"{architecture.file.repository} with --weights, or use --features efficientnet-lite0"
        ) from error


def _local_weights(given: Path) -> Path:
    """The file of weights that is given, or that of a directory."""
    candidates = [given / name for name in WEIGHTS_FILES] if given.is_dir() else [given]
    for path in candidates:
        if path.is_file():
            return path
    if given.is_dir():
        raise WeightsError(f"{given}: contains neither {' nor '.join(WEIGHTS_FILES)}")
    raise WeightsError(f"{given}: no such file or directory")


def _config(config_class: Any, folder: Path) -> Any:
    try:
        return config_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder}/config.json cannot be read: {_line(error)}") from error


def _read(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file, read safely."""
    try:
        tensors = read_tensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    except (ArtifactError, InputError) as error:
        raise WeightsError(str(error)) from error
    if not isinstance(tensors, dict) or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise WeightsError(f"{path}: not a state dict")
    return tensors


def _filled(network_class: Any, config: Any, tensors: dict[str, Tensor], path: Path) -> nn.Module:
    """The network with all of its weights; the file may have those of other networks too, as CLIP's has.

    ``from_pretrained`` knows the names that tensors had in earlier versions of the library.
    """
    try:
        network, report = network_class.from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True
        )
    except Exception as error:  # the library on other tensors or settings can raise nearly anything
        name = network_class.__name__
        raise WeightsError(f"{path}: not weights of {name} ({_line(error)})") from error
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise WeightsError(
            f"{path}: not weights of {network_class.__name__}: {wrong[0]} is missing or differs"
        )
    if not all(bool(torch.isfinite(x).all()) for x in network.state_dict().values() if x.is_floating_point()):
        raise WeightsError(f"{path}: weights are NaN or infinite")
    return network


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Neither progress bars nor reports of unused tensors."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


class VisionExtractor(ABC):
    """Features by a vision transformer that takes images of any size, without logits.

    Args:
        network: in evaluation mode.
        sha256: of its weights.
        dimension: D, the number of features of an image.
    """

    side: int | None = None

    def __init__(self, network: Any, sha256: str, dimension: int) -> None:
        self.network = network
        self.sha256 = sha256
        self.dimension = dimension
        self.device = next(network.parameters()).device

    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 images (B, 3, H, W)."""
        assert images.dtype == torch.uint8, images.dtype
        return Features(apply_to_rows(self.embedded, (images,), self.device, GPU_ROWS).numpy())

    @abstractmethod
    def embedded(self, images: Tensor) -> Tensor:
        """Features (B, D) of uint8 images (B, 3, H, W) on the network's device."""


# --- images -----------------------------------------------------------------------------------------


def bicubic_square(images: Tensor, side: int) -> Tensor:
    """Center squares of images, resized by antialiased bicubic interpolation (Keys' kernel, a = -0.5).

    Without rounding: values may leave 0..255 a little.

    Args:
        images: uint8 (B, 3, H, W).
        side: in pixels.

    Returns:
        float32 (B, 3, side, side), in the units of the pixels.
    """
    height, width = images.shape[2:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = images[:, :, top : top + short, left : left + short].float()
    if short == side:
        return square
    return F.interpolate(square, (side, side), mode="bicubic", antialias=True)


def standardized(images: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """Pixels (B, 3, H, W) in 0..255, divided by 255, minus the channels' means, over their deviations."""
    shift, scale = (images.new_tensor(values).view(1, 3, 1, 1) for values in (mean, deviation))
    return (images / 255 - shift) / scale
