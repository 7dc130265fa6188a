"""Evaluation protocols of ``fid``: what happens to the pixels before the feature extractor sees them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How images are prepared.

    Attributes:
        name: value of ``--protocol``, and the ending of the names of scores, except for :data:`STANDARD`.
        help: noun phrase for the help page.
        crop: how an image of another size becomes a square of the resolution: ``area-bicubic`` halves it
            while it has twice the side, then resizes its shorter side with bicubic interpolation (ADM's
            reference images); ``bilinear`` resizes the shorter side, antialiased (the paper's transforms).
        resize: how Inception gets its 299×299 pixels: ``network``, TensorFlow's bilinear interpolation
            without antialiasing; or ``clean``, Pillow's antialiased bicubic, not rounded (arXiv 2104.11222).
        stretch: whether each image is scaled from its own minimum and maximum to 0..255.
        n: number of samples that published scores of this protocol have.
    """

    name: str
    help: str
    crop: str = "area-bicubic"
    resize: str = "network"
    stretch: bool = False
    n: int = 50_000


# The protocol of the tables in the ImageNet literature; its scores have the plain names.
STANDARD = "adm"

PROTOCOLS: dict[str, Protocol] = {
    entry.name: entry
    for entry in (
        Protocol(STANDARD, "ADM's evaluator, as in published ImageNet tables"),
        Protocol("clean", "clean-fid's antialiased resize", resize="clean"),
        Protocol(
            "legacy-v1",
            "the paper's evaluator: each image stretched by its minimum and maximum",
            crop="bilinear",
            stretch=True,
        ),
    )
}
# Earlier versions had no crop, and one name for what is now `adm`.
EARLIER_NAMES = {"standard": STANDARD}
