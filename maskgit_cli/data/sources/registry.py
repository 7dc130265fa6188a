"""The registry of image sources. A new one is a module with a ``SOURCE``, and its entry here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maskgit_cli.data.sources import csv_list, folder, npz, samples, tar_shards, tokens, zip_file
from maskgit_cli.data.sources.base import ImageSource, Opening, SourceKind, source_digest
from maskgit_cli.errors import InputError
from maskgit_cli.formats.tokens import TokenMeta
from maskgit_cli.runtime.progress import SILENT, Reporter

if TYPE_CHECKING:
    import torch

# In this order: sample directories and folders of shards are folders, too.
SOURCES: tuple[SourceKind, ...] = (
    samples.SOURCE,
    tar_shards.SOURCE,
    folder.SOURCE,
    csv_list.SOURCE,
    zip_file.SOURCE,
    npz.SOURCE,
    tokens.SOURCE,
)


def is_source(path: Path) -> bool:
    """Whether an entry of :data:`SOURCES` recognizes a path, which may be a pattern of several files."""
    return any(kind.recognizes(path) for kind in SOURCES)


def open_source(
    path: Path,
    tokenizer: Path | None = None,
    device: torch.device | str = "cpu",
    reporter: Reporter = SILENT,
) -> ImageSource:
    """Open the images at a path with the first entry of :data:`SOURCES` that recognizes it.

    Args:
        path: a folder of images, a CSV, a ``.zip``, ``.tar`` shards, a sample directory, a token file, ...
        tokenizer: decodes tokens; None finds the one with the digest recorded in the file.
        device: where tokens are decoded.
        reporter: receives the progress of a long listing, and warnings.

    Raises:
        InputError: the path does not exist, is not an image source, or holds no image.
        ArtifactError: an artifact is unfinished or damaged, or the tokenizer does not match.
    """
    for kind in SOURCES:
        if kind.recognizes(path):
            return kind.open(path, Opening(tokenizer, device, reporter))
    if not path.exists():
        raise InputError(f"{path}: no such folder or file")
    raise InputError(f"{path}: not an image source; expected {', '.join(k.title for k in SOURCES)}")


def recorded_images(tokens: Path, meta: TokenMeta, reporter: Reporter = SILENT) -> Path:
    """Where the images of a token file are: the path that was typed, from here or from the file's folder.

    Raises:
        InputError: they are not there any more, or are not the same.
    """
    recorded = next((p["sha256"] for p in meta.parents if p["kind"] == "images"), None)
    problem = "its images are not recorded"
    for images in dict.fromkeys((Path(meta.source), tokens.parent / meta.source)) if meta.source else ():
        try:
            if source_digest(open_source(images, reporter=reporter)) == recorded:
                return images
            problem = f"its images are not those in {images} any more"
            break
        except InputError:
            problem = f"its images are not at {meta.source} any more"
    raise InputError(problem)
