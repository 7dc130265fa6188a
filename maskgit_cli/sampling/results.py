"""Images in memory: the result of an opened model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from PIL import Image
from torch import Tensor

from maskgit_cli.figures.grids import png_bytes
from maskgit_cli.formats.tokens import Trace


class Images(Sequence[Image.Image]):
    """Images of an opened model, as a sequence of PIL images; a notebook shows their grid.

    Attributes:
        pixels: uint8 (N, 3, H, W).
        tokens: codebook indices int64 (R, h, w): a row for each image, or for each window of each that was
            inpainted.
        labels: class of each row (R,), -1 for none.
        trace: state of the sampler after each step; None unless it was asked for.
    """

    def __init__(
        self, pixels: Tensor, tokens: Tensor, labels: np.ndarray, sheet: Tensor, trace: Trace | None = None
    ) -> None:
        self.pixels = pixels
        self.tokens = tokens
        self.labels = labels
        self.trace = trace
        self._sheet = sheet

    def __len__(self) -> int:
        return len(self.pixels)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [pil_image(image) for image in self.pixels[index]]
        return pil_image(self.pixels[index])

    def __repr__(self) -> str:
        height, width = self.pixels.shape[2:]
        return f"<{len(self)} images of {width}×{height} pixels>"

    def grid(self) -> Image.Image:
        """The image that the command writes as ``grid.png``: up to 100 of the images, with their classes."""
        return pil_image(self._sheet)

    def _repr_png_(self) -> bytes:
        return png_bytes(self._sheet)


def pil_image(pixels: Tensor) -> Image.Image:
    """A PIL image of uint8 (3, H, W)."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))  # (H, W, 3)
