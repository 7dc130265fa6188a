"""Feature spaces that images are compared in: Inception's, as published, and a tokenizer's own.

Images come in as the uint8 pixels a PNG would hold. A space is named together with the sha256 of
its weights, and scores of two spaces never share a name.
"""

from __future__ import annotations

import http.client
import io
import pickle
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from maskgit_cli.config.base import offline
from maskgit_cli.errors import OutputError, WeightsError
from maskgit_cli.formats.atomic import replacing_file, sha256_file
from maskgit_cli.networks.inference import apply_to_rows
from maskgit_cli.networks.loading import Tokenizer
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.runtime.distributed import broadcast_object, world
from maskgit_cli.runtime.progress import SILENT, Reporter

# The network of the published FID: TensorFlow's Inception of 2015-12-05, converted for torch-fidelity.
INCEPTION = "inception-v3-compat"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_BYTES = 95_628_359
INCEPTION_DIMENSION = 2048
# pytorch-fid keeps the same bytes under its own name in the same folder.
OTHER_FILE_NAMES = ("pt_inception-2015-12-05-6726825d.pth",)
# The number of samples that "FID-50k" promises.
FIFTY_THOUSAND = 50_000
# Images a call on a GPU. Small, because images of differing sizes fill up calls of their own.
GPU_ROWS = 16
# Seconds without a byte after which the network counts as absent.
TIMEOUT = 20


class Features(NamedTuple):
    """What a feature space makes of B images.

    Attributes:
        features: float32 (B, D).
        logits: float32 (B, C) of Inception's classifier without its bias; None in other spaces.
    """

    features: np.ndarray
    logits: np.ndarray | None


class FeatureSpace(Protocol):
    """A way to turn images into vectors.

    Attributes:
        name: of the kind of space.
        sha256: of the weights that define it.
        dimension: D, numbers an image.
        side: side in pixels of the squares it takes; None if it takes images of any size.
    """

    name: str
    sha256: str
    dimension: int
    side: int | None

    def __call__(self, images: Tensor, /) -> Features:
        """Features of images uint8 (B, 3, H, W) on the CPU; an image's don't depend on the others."""


class InceptionSpace:
    """Inception's pooled features (2048) and logits (1008), by torch-fidelity's network.

    The network does TensorFlow's own resizing to 299×299, so images of any size go in as they are.

    Args:
        weights: a file of its weights.
        device: where it runs.

    Raises:
        WeightsError: the file is missing, or does not hold this network's weights.
    """

    name = INCEPTION
    dimension = INCEPTION_DIMENSION
    side: int | None = None

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        if not weights.is_file():
            raise WeightsError(f"{weights}: no such file")
        self.sha256 = sha256_file(weights)
        self.device = torch.device(device)
        self.network = _inception(weights).to(self.device)

    @property
    def published(self) -> bool:
        """Whether these are the published weights, whose distance alone is called FID."""
        return self.sha256 == INCEPTION_SHA256

    def __call__(self, images: Tensor) -> Features:
        """Features and logits of images uint8 (B, 3, H, W)."""
        assert images.dtype == torch.uint8, images.dtype
        both = apply_to_rows(self._joined, (images,), self.device, GPU_ROWS).numpy()
        return Features(both[:, : self.dimension], both[:, self.dimension :])

    def _joined(self, images: Tensor) -> Tensor:
        return torch.cat(self.network(images), dim=1)  # (B, 2048 + 1008)


def _inception(weights: Path) -> nn.Module:
    """torch-fidelity's network with weights read safely from a file."""
    # Imported here: it takes half a second, which the tokenizer's space needn't wait for.
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        tensors = torch.load(weights, map_location="cpu", weights_only=True)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise WeightsError(f"{weights}: holds NaN or infinity; the weights are unusable")
        # torch-fidelity opens its file in a way that would run code hidden in it, so it is handed the
        # tensors that were read safely above, packed anew.
        packed = io.BytesIO()
        torch.save(tensors, packed)
        packed.seek(0)
        return FeatureExtractorInceptionV3(INCEPTION, ["2048", "logits_unbiased"], packed)
    except pickle.UnpicklingError as error:
        # torch's own text advises to load the file unsafely.
        raise WeightsError(f"{weights}: not a PyTorch file of tensors and nothing else") from error
    except (RuntimeError, EOFError, AttributeError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"{weights}: not the weights of torch-fidelity's Inception ({reason})") from error


class TokenizerSpace:
    """The space of a tokenizer: a stand-in where Inception's weights cannot be had.

    A square of the tokenizer's resolution becomes latents (E, h, w), the encoder's output before
    quantization; the vector is the E means over positions, then the E standard deviations over
    positions (divisor h·w), so D = 2E. Distances in it order models that share the tokenizer; they
    are blind to whatever the tokenizer's encoder is blind to, and are no FID.

    Args:
        tokenizer: the tokenizer, on the device it is to run on.
    """

    name = "vqgan"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.sha256 = tokenizer.sha256
        self.dimension = 2 * tokenizer.config.embed_dim
        self.side: int | None = tokenizer.config.resolution
        self.network = tokenizer.network
        self.device = next(tokenizer.network.parameters()).device

    def __call__(self, images: Tensor) -> Features:
        """Features of squares uint8 (B, 3, side, side); there are no logits."""
        assert images.dtype == torch.uint8, images.dtype
        assert images.shape[2:] == (self.side, self.side), images.shape
        return Features(apply_to_rows(self._statistics, (images,), self.device, GPU_ROWS).numpy(), None)

    def _statistics(self, images: Tensor) -> Tensor:
        z = self.network.latents(to_model(images)).flatten(2)  # (B, E, h·w)
        return torch.cat([z.mean(dim=2), z.std(dim=2, correction=0)], dim=1)  # (B, 2E)


# --- names -------------------------------------------------------------------------------------------


class Identity(NamedTuple):
    """What has to agree before two sets of features may be compared.

    Attributes:
        space: name of the feature space.
        sha256: of its weights.
        dimension: D, numbers an image.
        protocol: how images are prepared.
    """

    space: str
    sha256: str
    dimension: int
    protocol: str


PUBLISHED = Identity(INCEPTION, INCEPTION_SHA256, INCEPTION_DIMENSION, "standard")


def metric_name(metric: str, identity: Identity, n: int | None = None) -> str:
    """The name under which a score is written: the published one for the published protocol alone.

    ``fid`` becomes ``fid_50k`` for exactly 50,000 samples, ``fid_legacy_v1`` for the paper's own
    evaluator, ``frechet_inception_1a2b3c4d`` with other weights, and ``frechet_vqgan`` in a tokenizer's
    space; other metrics take the same endings.
    """
    legacy = "_legacy_v1" if identity.protocol == "legacy-v1" else ""
    if identity._replace(protocol="standard") == PUBLISHED:
        fifty = "_50k" if metric == "fid" and n == FIFTY_THOUSAND and not legacy else ""
        return metric + fifty + legacy
    ending = f"_inception_{identity.sha256[:8]}" if identity.space == INCEPTION else f"_{identity.space}"
    return metric.replace("fid", "frechet") + ending + legacy


# --- where Inception's weights are ------------------------------------------------------------------


def inception_weights(given: Path | None = None, reporter: Reporter = SILENT) -> Path:
    """The file of Inception's weights: the one given, else the published one, fetched once.

    It is looked for where torch-fidelity keeps it, the ``checkpoints`` of torch's hub folder. One
    process fetches for all on its machine's behalf; processes on other machines then do the same.

    Raises:
        WeightsError: it isn't there and can't be fetched, or isn't the bytes it should be.
    """
    if given is not None:
        return given
    failure = None
    if world().main:
        try:
            _find_or_fetch(reporter)
        except (WeightsError, OutputError) as error:
            failure = str(error)
    failure = broadcast_object(failure)
    if failure is not None:
        raise WeightsError(failure)
    return _find_or_fetch(SILENT)


def _find_or_fetch(reporter: Reporter) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in (INCEPTION_FILE, *OTHER_FILE_NAMES):
        path = folder / name
        if path.is_file():
            check_weights(path, INCEPTION_BYTES, INCEPTION_SHA256)
            return path
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = folder / INCEPTION_FILE
    try:
        fetch_weights(URL_INCEPTION_V3, path, INCEPTION_BYTES, INCEPTION_SHA256, reporter)
    except WeightsError as error:
        raise WeightsError(
            f"no Inception weights ({error}): put {INCEPTION_FILE} (sha256 {INCEPTION_SHA256}) into "
            f"{folder}, or name it with --weights; --features vqgan needs none"
        ) from error
    return path


def check_weights(path: Path, size: int, sha256: str) -> None:
    """Hold a file to the size (bytes) and sha256 it should have.

    Raises:
        WeightsError: it has another.
    """
    if path.stat().st_size != size or sha256_file(path) != sha256:
        raise WeightsError(f"{path}: not the published file of {size} bytes with sha256 {sha256}; remove it")


def fetch_weights(url: str, path: Path, size: int, sha256: str, reporter: Reporter = SILENT) -> None:
    """Download a file whose size (bytes) and sha256 are known; what arrives otherwise is thrown away.

    Raises:
        WeightsError: fetching is forbidden or fails, or other bytes arrive.
        OutputError: the file system refuses.
    """
    forbidden = offline()
    if forbidden is not None:
        raise WeightsError(f"{forbidden} is set, so nothing is fetched")
    with replacing_file(path) as temporary:
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
                open(temporary, "wb") as file,
                reporter.task(f"fetching {path.name}", size, unit="bytes") as task,
            ):
                while piece := answer.read(1 << 20):
                    file.write(piece)
                    task.advance(len(piece))
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise WeightsError(f"{url} cannot be fetched: {' '.join(str(error).split())}") from error
        if temporary.stat().st_size != size or sha256_file(temporary) != sha256:
            raise WeightsError(f"{url} gave other bytes than the published ones; try again")
