"""Stage ``decode``: decode the tokens of a token file into PNGs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from maskgit_cli.config.arguments import PathArgument, checked, optional_path
from maskgit_cli.config.base import require
from maskgit_cli.figures.grids import save_png
from maskgit_cli.formats.atomic import parent, sha256_bytes, write_bytes
from maskgit_cli.formats.claim import Outcome
from maskgit_cli.formats.decoded import (
    DECODED,
    FILES_FILE,
    DecodedFile,
    decoded_record,
    files_table,
    finish_decoded,
    named_files,
    numbered_files,
)
from maskgit_cli.formats.models import find_tokenizer
from maskgit_cli.formats.tokens import TokenFile, open_tokens
from maskgit_cli.networks.inference import decode_tokens
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.runtime.distributed import barrier, claim_on_main, on_main, resolve_device, world
from maskgit_cli.runtime.progress import SILENT, Reporter

# Which views of an image are decoded.
VIEW_CHOICES = ("first", "all")


class Decoded(NamedTuple):
    """Result of :func:`decode`.

    Attributes:
        path: the folder of images.
        images: number of images it holds.
        resumed: whether an earlier call had decoded some or all of them.
    """

    path: Path
    images: int
    resumed: bool


@checked
def decode(
    tokens: PathArgument,
    out: PathArgument,
    tokenizer: PathArgument | None = None,
    *,
    views: str = "first",
    batch_size: int = 32,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Decoded:
    """Decode a token file into PNGs named like the images that were tokenized, resuming an interrupted call.

    ``cats/mew.jpg`` becomes ``cats/mew.png``; with all of several views, ``cats/mew-0.png``,
    ``cats/mew-1.png`` and so on. Samples have no names: row 7 becomes ``000007.png``.

    Args:
        tokens: the token file.
        out: a new folder, or that of an earlier call.
        tokenizer: tokenizer, run or model directory; None searches for the recorded digest next to the
            file, under ``runs/`` and among the built-in ones.
        views: the ``first`` view of each image, or ``all``.
        batch_size: images decoded at a time by each process.
        device: where the tokenizer runs.
        overwrite: replace decoded images.
        reporter: receives progress updates.

    Raises:
        ConfigError: a setting is out of range.
        InputError: the tokenizer cannot be found; the message has its digest.
        ArtifactError: the token file is damaged, or the tokenizer given does not match.
        OutputError: the folder holds something else, or cannot be written.
    """
    tokens, out, tokenizer = Path(tokens), Path(out), optional_path(tokenizer)
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    require(views in VIEW_CHOICES, "views", views, "one of " + ", ".join(VIEW_CHOICES))
    target = resolve_device(device)
    file = open_tokens(tokens)
    nearby = [tokens.parent / "tokenizer"]
    decoder = load_tokenizer(find_tokenizer(file.meta.tokenizer_sha256, tokenizer, nearby), target)
    parents = [
        parent("tokens", tokens.resolve(), file.sha256),
        parent("tokenizer", decoder.path.resolve(), decoder.sha256),
    ]
    per_row = file.meta.row_shape[0] if views == "all" else 1
    files = _files(file, per_row)
    table = files_table(files)
    region = (file.meta.resolution, file.meta.views)
    record = decoded_record({"views": views}, parents, len(files), sha256_bytes(table), region)
    with claim_on_main(out, DECODED, record, overwrite, reporter) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
            return Decoded(out, len(files), True)
        on_main(lambda: write_bytes(claimed.path / FILES_FILE, table))
        paths = [claimed.path / image.path for image in files]
        todo = [i for i, path in enumerate(paths) if not path.exists()]
        barrier()  # every process has read what is to do before any process does some of it
        with reporter.task("decode", len(paths), len(paths) - len(todo)) as task:
            for batch, advance in _batches(todo, batch_size):
                rows, chosen = np.divmod(batch, per_row)
                grids = torch.from_numpy(file.codes[rows, chosen].astype(np.int64))  # (B, h, w)
                for i, image in zip(batch, decode_tokens(decoder, grids, target), strict=True):
                    save_png(paths[i], image)
                task.advance(advance)
        barrier()
        if world().main:
            finish_decoded(claimed.path, record)
            claimed.finish()
        barrier()
    return Decoded(out, len(files), len(todo) < len(files))


def _files(tokens: TokenFile, per_row: int) -> list[DecodedFile]:
    """The files to write, row by row and view by view."""
    if "sampler" in tokens.meta.settings:  # samples, whose names are numbers
        return numbered_files(len(tokens), per_row)
    return named_files(tokens.names, tokens.labels.tolist(), tokens.meta.class_names, per_row)


def _batches(todo: list[int], batch_size: int) -> Iterator[tuple[list[int], int]]:
    """This rank's batches of image indices, each with the number of images that all ranks do meanwhile."""
    rank, size = world()
    batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    for first in range(0, len(batches), size):
        ranks = batches[first : first + size]
        if rank < len(ranks):
            yield ranks[rank], sum(map(len, ranks))
