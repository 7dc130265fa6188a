"""Image source: images in memory, or a list of files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from maskgit_cli.data.sources.base import ImageSource, Origin

if TYPE_CHECKING:
    from torch import Tensor

    from maskgit_cli.data.images import ImageInput, ImagesArgument


class ImagesInMemory(ImageSource):
    """Images that a caller of the library has, without classes, named by their numbers.

    Args:
        images: from :func:`~maskgit_cli.data.images.image_inputs`.
    """

    def __init__(self, images: list[ImageInput]) -> None:
        super().__init__(Origin(Path("memory"), "images"), [f"{i:06d}" for i in range(len(images))])
        self.images = images

    def open(self, index: int, side: int | None = None) -> Tensor:
        """See :meth:`ImageSource.open`."""
        from maskgit_cli.data.images import read_image

        return read_image(self.images[index], side)

    def location(self, index: int) -> str:
        """The path of a file, or the image's number."""
        image = self.images[index]
        return str(image) if isinstance(image, Path) else f"image {index}"


def path_or_images(images: ImagesArgument, name: str) -> Path | ImagesInMemory:
    """The path of a source of images, or the images given.

    Args:
        images: a path, which any source of images may have; or images, see
            :data:`~maskgit_cli.data.images.ImagesArgument`.
        name: of the argument, for messages.

    Raises:
        ConfigError: there is no image, or an array or tensor has another shape or type.
    """
    from maskgit_cli.data.images import image_inputs

    if isinstance(images, str | os.PathLike):
        return Path(images)
    return ImagesInMemory(image_inputs(images, name))
