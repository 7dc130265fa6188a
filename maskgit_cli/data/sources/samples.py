"""Image source: a sample directory, its PNGs if it has them, else its decoded tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskgit_cli.data.sources.base import ImageFiles, ImageSource, Opening, Origin, SourceKind
from maskgit_cli.data.sources.tokens import TokenImages
from maskgit_cli.errors import ArtifactError
from maskgit_cli.formats.samples import IMAGES, SETTINGS_FILE, check_pixels, open_samples

if TYPE_CHECKING:
    from torch import Tensor


class SampledImages(ImageFiles):
    """The PNGs of a sample directory, each checked against the digest of the pixels that were sampled.

    Args:
        digests: of their pixels, uint8 (N, 32).
        arguments: of :class:`ImageFiles`.
    """

    def __init__(self, digests: np.ndarray, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.digests = digests

    def path(self, index: int) -> Path:
        """The file of an image, which is named by its number."""
        return self.root / f"{_number(self.names[index])}.png"

    def open(self, index: int, side: int | None = None) -> Tensor:
        """See :meth:`ImageSource.open`; always whole, as a PNG cannot be shrunk while it is decoded.

        Raises:
            ArtifactError: its pixels are not those that were sampled.
        """
        image = super().open(index)
        check_pixels(image.numpy(), self.digests[index], self.path(index))
        return image


def _number(name: str) -> str:
    """The number of the image that a row of tokens belongs to."""
    return name.split(" ")[0]


def is_sample_directory(path: Path) -> bool:
    """Whether a path is a sample directory, finished or not."""
    return (path / SETTINGS_FILE).is_file()


def open_sample_directory(path: Path, opening: Opening) -> ImageSource:
    """Open a finished sample directory.

    Raises:
        ArtifactError: it is unfinished or damaged, images are missing, or the tokenizer does not match.
    """
    _, record, tokens = open_samples(path)
    origin = Origin(path, "samples", tokens.sha256, tokens.meta.tokenizer_sha256, record["settings"])
    if not (path / IMAGES).is_dir():
        return TokenImages(tokens, opening, origin)
    # The name of a row of tokens begins with the image's number. An image that was inpainted in several
    # windows has a row for each; the first one's name and label are the image's.
    first: dict[str, int] = {}
    for row, name in enumerate(tokens.names):
        first.setdefault(_number(name), row)
    found, expected = len(list((path / IMAGES).glob("*.png"))), record.get("images")
    if not found == expected == len(first):
        raise ArtifactError(f"{path} has {found} images, not {expected}; sample again with --overwrite")
    rows = list(first.values())
    if tokens.pixels_sha256 is None:
        raise ArtifactError(f"{path} has images, but its {tokens.path.name} has no digests of them")
    return SampledImages(
        np.array(tokens.pixels_sha256[rows]),
        origin,
        path / IMAGES,
        [tokens.names[row] for row in rows],
        tokens.labels[rows],
        tokens.meta.class_names,
    )


SOURCE = SourceKind("a sample directory", is_sample_directory, open_sample_directory)
