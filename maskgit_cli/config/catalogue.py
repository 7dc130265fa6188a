"""The published models that ``maskgit pull`` downloads: their files, sizes, scores and licenses.

Digests and byte counts are those on the repositories' pages; None where no page was available. What is None
here is still checked after the download, against what the server itself says about the file.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

from maskgit_cli.errors import ConfigError

V1_REPOSITORY = "llvictorll/Maskgit-pytorch"
HALTON_REPOSITORY = "llvictorll/Halton-MaskGIT"
LLAMAGEN_REPOSITORY = "FoundationVision/LlamaGen"
GOOGLE_BUCKET = "https://storage.googleapis.com/maskgit-public/checkpoints"


class Origin(NamedTuple):
    """The release that some models come from.

    Attributes:
        title: name of the release.
        paper: arXiv number.
        license: of weights and code, by SPDX name.
        home: address of its description.
    """

    title: str
    paper: str
    license: str
    home: str


class PublishedFile(NamedTuple):
    """A file as its authors published it.

    Attributes:
        source: a repository ``user/name`` on the Hugging Face hub, or the address of a folder.
        path: of the file inside it.
        size: in bytes, where known exactly.
        sha256: in hexadecimal, where known.
        megabytes: its size as its page rounds it, where ``size`` isn't known.
    """

    source: str
    path: str
    size: int | None = None
    sha256: str | None = None
    megabytes: int | None = None

    @property
    def on_hub(self) -> bool:
        """Whether it is on the Hugging Face hub."""
        return "://" not in self.source

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def bytes(self) -> int | None:
        """Size, exact or rounded; None where unknown."""
        return self.size if self.size or self.megabytes is None else self.megabytes * 10**6


class CatalogueEntry(NamedTuple):
    """A published model.

    Attributes:
        name: argument of ``maskgit pull``.
        family: a key of :data:`ORIGINS`.
        weights: the transformer's file.
        tokenizer: the files of its tokenizer.
        parameters: of the transformer.
        resolution: side in pixels of its images.
        heads: attention heads of the transformer, which cannot always be inferred from its tensors.
        fid: FID that its authors report on 50,000 images of ImageNet; None where they report none.
        listed: False where the authors' naming scheme includes it but their page does not list it.
    """

    name: str
    family: str
    weights: PublishedFile
    tokenizer: tuple[PublishedFile, ...]
    parameters: int
    resolution: int
    heads: int
    fid: float | None
    listed: bool = True

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """All files to download."""
        return (self.weights, *self.tokenizer)

    @property
    def bytes(self) -> int | None:
        """Size of all its files, exact or rounded; None where one is unknown."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size)


ORIGINS: dict[str, Origin] = {
    "maskgit": Origin(
        "MaskGIT in PyTorch, v1.0: the paper this project reproduces",
        "2310.14400",
        "MIT",
        "https://github.com/valeoai/Halton-MaskGIT/tree/v1.0",
    ),
    "halton": Origin(
        "Halton-MaskGIT, with LlamaGen's tokenizer",
        "2503.17076",
        "MIT",
        "https://github.com/valeoai/Halton-MaskGIT",
    ),
    "google": Origin(
        "MaskGIT, Google's own release in JAX",
        "2202.04200",
        "Apache-2.0",
        "https://github.com/google-research/maskgit",
    ),
}

_V1_TOKENIZER = (
    PublishedFile(
        V1_REPOSITORY,
        "pretrained_maskgit/VQGAN/last.ckpt",
        957_954_257,
        "e38a3aed8c86e8d47436f611325b3a23888cab70a0cc56c13cd84e8d4aab6e71",
    ),
    PublishedFile(V1_REPOSITORY, "pretrained_maskgit/VQGAN/model.yaml", 645),
)
_LLAMAGEN = PublishedFile(LLAMAGEN_REPOSITORY, "vq_ds16_c2i.pt", megabytes=288)


# As the pages of the files in the three repositories show them.
_SHA256 = {
    "MaskGIT_ImageNet_256.pth": "74b38fa16c92da3db79f9aac3c9d0d2ef5cb6ea283c48908213f10d786304462",
    "MaskGIT_ImageNet_512.pth": "fa1e1286451602c30d1608485797f63f27c8cc9688346fa0f1315952b46b3c03",
    "ImageNet_256_small.pth": "760b9937d16157e7e518fbf405efe281552933242b552d5e8262cb10507fb0e2",
    "ImageNet_384_small.pth": "76bad1f175083210e27f794674b27efd54266b5b90471a383322c8840749ae5d",
    "ImageNet_384_base.pth": "3e707c8fcf75ddf73d812de04d2561d3ff69f52f21c08e079e0fa4d0b596fcd6",
}


def _v1(resolution: int, parameters: int, fid: float, size: int) -> CatalogueEntry:
    name = f"MaskGIT_ImageNet_{resolution}.pth"
    weights = PublishedFile(V1_REPOSITORY, f"pretrained_maskgit/MaskGIT/{name}", size, _SHA256[name])
    return CatalogueEntry(
        f"maskgit-{resolution}", "maskgit", weights, _V1_TOKENIZER, parameters, resolution, 16, fid
    )


def _halton(
    resolution: int, size: str, parameters: int, heads: int, fid: float | None, megabytes: int | None
) -> CatalogueEntry:
    file = f"ImageNet_{resolution}_{size}.pth"
    weights = PublishedFile(HALTON_REPOSITORY, file, sha256=_SHA256.get(file), megabytes=megabytes)
    name = f"halton-{resolution}-{size}"
    listed = fid is not None
    return CatalogueEntry(name, "halton", weights, (_LLAMAGEN,), parameters, resolution, heads, fid, listed)


def _google(resolution: int, parameters: int, fid: float) -> CatalogueEntry:
    weights = PublishedFile(GOOGLE_BUCKET, f"maskgit_imagenet{resolution}_checkpoint")
    tokenizer = PublishedFile(GOOGLE_BUCKET, f"tokenizer_imagenet{resolution}_checkpoint")
    return CatalogueEntry(
        f"google-{resolution}", "google", weights, (tokenizer,), parameters, resolution, 16, fid
    )


# FID of v1.0: its README, with the presets paper-256 and paper-512. Of Halton: its README, 32 steps of
# the Halton sampler. Of the Google models: their README.
_MODELS = (
    _v1(256, 174_160_874, 6.80, 2_090_306_069),
    _v1(512, 176_306_666, 7.26, 2_116_055_573),
    _halton(256, "tiny", 23_031_425, 6, 10.2, 276),
    _halton(256, "small", 69_344_769, 6, 6.40, 832),
    _halton(256, "base", 142_224_641, 12, 4.17, 1710),
    _halton(256, "large", 479_656_961, 16, None, None),
    _halton(384, "tiny", 23_154_305, 6, None, None),
    _halton(384, "small", 69_508_609, 6, 6.11, 834),
    _halton(384, "base", 142_470_401, 12, 4.15, 1710),
    _halton(384, "large", 479_984_641, 16, 2.59, 1920),
    _google(256, 172_457_193, 6.06),
    _google(512, 173_047_017, 7.32),
)

CATALOGUE: dict[str, CatalogueEntry] = {model.name: model for model in _MODELS}


def similar_names(name: str, cutoff: float = 0.8) -> list[str]:
    """Up to three names of published models similar to this one, the nearest first.

    Args:
        name: as a user wrote it.
        cutoff: least similarity, from 0 to 1 (equal).
    """
    return difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=cutoff)


def published_model(name: str) -> CatalogueEntry:
    """The catalogue entry of a name.

    Raises:
        ConfigError: there is no such entry; the message suggests names.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = similar_names(name, 0.4) or list(CATALOGUE)
    raise ConfigError(f"{name} is not a published model; there are {', '.join(near)} (pull --list: all)")
