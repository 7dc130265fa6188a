"""Pretrained networks that other projects publish: feature extractors, and VGG16 with LPIPS' heads, ST-LPIPS.

Inception, VGG16 and the heads are kept where torch and torch-fidelity look for them, the ``checkpoints``
folder of torch's hub cache; DINOv2 and CLIP in the cache of the Hugging Face hub. Those of ST-LPIPS are part
of a package of PyPI.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import NamedTuple

import torch

from maskgit_cli.config.base import offline
from maskgit_cli.config.features import CLIP_SHA256, DINOV2_SHA256, INCEPTION_SHA256
from maskgit_cli.errors import WeightsError
from maskgit_cli.runtime.distributed import on_main
from maskgit_cli.runtime.download import (
    RemoteFile,
    ask_hub,
    cached_from_hub,
    difference,
    download_file,
    download_from_hub,
)
from maskgit_cli.runtime.progress import SILENT, Reporter


class PretrainedFile(NamedTuple):
    """A file of pretrained weights.

    Attributes:
        url: where it is published.
        name: of the file in the cache.
        sha256: of its bytes.
        size: in bytes.
        other_names: names under which other projects cache the same bytes.
    """

    url: str
    name: str
    sha256: str
    size: int
    other_names: tuple[str, ...] = ()


_FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
# The network of the published FID: TensorFlow's Inception of 2015-12-05, converted for torch-fidelity.
# pytorch-fid caches the same bytes under its own name.
INCEPTION = PretrainedFile(
    f"{_FIDELITY}/weights-inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth",
    INCEPTION_SHA256,
    95_628_359,
    ("pt_inception-2015-12-05-6726825d.pth",),
)
# LPIPS' heads; the same bytes as weights/v0.1/vgg.pth of the package lpips 0.1.4, its authors' own.
LPIPS_HEADS = PretrainedFile(
    f"{_FIDELITY}/weights-vgg16-lpips.pth",
    "weights-vgg16-lpips.pth",
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    7_289,
)
# torchvision's VGG16; the name has the first digits of its digest, as in all of torch's hub.
VGG16 = PretrainedFile(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    553_433_881,
)


class HubFile(NamedTuple):
    """A file of pretrained weights on the Hugging Face hub.

    Attributes:
        repository: ``owner/name``.
        name: of the file in it.
        sha256: of its bytes.
        size: in bytes.
    """

    repository: str
    name: str
    sha256: str
    size: int


DINOV2_LARGE = HubFile("facebook/dinov2-large", "model.safetensors", DINOV2_SHA256, 1_217_522_888)
CLIP_LARGE_336 = HubFile("openai/clip-vit-large-patch14-336", "pytorch_model.bin", CLIP_SHA256, 1_711_974_081)


class PackagedFile(NamedTuple):
    """A file of pretrained weights in a package of PyPI.

    Attributes:
        package: name of the package; nothing of it is imported.
        name: of the file.
        sha256: of its bytes.
        size: in bytes.
    """

    package: str
    name: str
    sha256: str
    size: int


# VGG16 with anti-aliased pooling and its heads, from version 0.0.2.
ST_LPIPS = PackagedFile(
    "stlpips-pytorch",
    "vgg_shift_tolerant.pth",
    "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
    58_907_298,
)


def cache_folder() -> Path:
    """Where torch's hub keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def pretrained(file: PretrainedFile, reporter: Reporter = SILENT, download: bool = True) -> Path:
    """The path of a pretrained file: the cached one, also offline, else downloaded once by rank 0.

    Args:
        file: the file.
        reporter: receives progress.
        download: whether it may be downloaded.

    Raises:
        WeightsError: it is not cached and cannot be downloaded, or is not the published file.
        OutputError: the file system refuses.
    """
    on_main(lambda: _find_or_download(file, reporter, download))
    return _find_or_download(file, SILENT, download)  # on other machines, their own cache


def _find_or_download(file: PretrainedFile, reporter: Reporter, download: bool) -> Path:
    for name in (file.name, *file.other_names):
        path = cache_folder() / name
        if path.is_file():
            check_pretrained(file, path)
            return path
    if not download:
        raise WeightsError(f"{file.name} is not in {cache_folder()}")
    forbidden = offline()
    if forbidden is not None:
        raise WeightsError(f"{file.name} is not in {cache_folder()}, and {forbidden} forbids downloads")
    # The published size and digest are checked, whatever the server announces.
    remote = RemoteFile(file.url, file.size, f"sha256:{file.sha256}")
    return download_file(remote, cache_folder() / file.name, reporter)


def check_pretrained(file: PretrainedFile, path: Path) -> None:
    """Check size and sha256 of a pretrained file.

    Raises:
        WeightsError: they are not the published ones.
    """
    if difference(path, file.size, f"sha256:{file.sha256}"):
        raise WeightsError(f"{path} is not the published file (sha256 {file.sha256}); remove it")


def pretrained_from_hub(file: HubFile, reporter: Reporter = SILENT) -> Path:
    """The path of a pretrained file in the hub's cache, also offline, else downloaded once by rank 0.

    Raises:
        WeightsError: it is not cached and cannot be downloaded, or is not the published file.
        OutputError: the file system refuses.
    """
    on_main(lambda: _find_or_download_from_hub(file, reporter))
    return _find_or_download_from_hub(file, SILENT)  # on other machines, their own cache


def _find_or_download_from_hub(file: HubFile, reporter: Reporter) -> Path:
    shown = f"{file.repository}/{file.name}"
    path = cached_from_hub(file.repository, file.name)
    if path is None:
        forbidden = offline()
        if forbidden is not None:
            raise WeightsError(f"{shown} is not cached, and {forbidden} forbids downloads")
        remote = ask_hub(file.repository, file.name)
        if remote.digest != f"sha256:{file.sha256}":  # before 1 GB is downloaded
            raise WeightsError(f"{shown} has {remote.digest}, so it is not the published file")
        path = download_from_hub(file.repository, file.name, remote, reporter)
    wrong = difference(path, file.size, f"sha256:{file.sha256}")
    if wrong:
        raise WeightsError(f"{path} is not the published {shown} ({wrong}); remove it")
    return path


def packaged(file: PackagedFile) -> Path:
    """The path of a file of an installed package.

    Raises:
        WeightsError: the package is not installed, or its file is not the published one.
    """
    install = f"`pip install {file.package}` installs it"
    try:
        files = importlib.metadata.files(file.package) or []
    except importlib.metadata.PackageNotFoundError:
        raise WeightsError(f"the package {file.package} is not installed; {install}") from None
    path = next((Path(str(found.locate())) for found in files if found.name == file.name), None)
    if path is None or not path.is_file():
        raise WeightsError(f"the package {file.package} has no file {file.name}; {install}")
    if difference(path, file.size, f"sha256:{file.sha256}"):
        raise WeightsError(
            f"{path} is not the published file (sha256 {file.sha256}); reinstall {file.package}"
        )
    return path
