"""Stage ``decode``: turn the codes of a token file back into pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from maskgit_cli.config.base import require
from maskgit_cli.figures.grids import save_png
from maskgit_cli.formats.atomic import parent
from maskgit_cli.formats.decoded import finish_pictures, pictures_record, settle_pictures
from maskgit_cli.formats.models import find_tokenizer
from maskgit_cli.formats.tokens import TokenFile, open_tokens
from maskgit_cli.networks.inference import decode_codes
from maskgit_cli.networks.loading import Tokenizer, load_tokenizer
from maskgit_cli.runtime.distributed import barrier, broadcast_object, resolve_device, world
from maskgit_cli.runtime.progress import SILENT, Reporter

# Which views of an image are decoded.
VIEW_CHOICES = ("first", "all")


class Decoded(NamedTuple):
    """What :func:`decode` did.

    Attributes:
        path: the folder of pictures.
        images: how many pictures it holds.
        resumed: whether an earlier call had done some of the work, or all of it.
    """

    path: Path
    images: int
    resumed: bool


class _Job(NamedTuple):
    """The pictures to make: file and (row, view) of each."""

    tokens: TokenFile
    tokenizer: Tokenizer
    device: torch.device
    files: list[Path]
    places: np.ndarray


def decode(
    tokens: Path,
    out: Path,
    tokenizer: Path | None = None,
    *,
    views: str = "first",
    batch_size: int = 32,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Decoded:
    """Decode a token file into PNGs named by row, going on where an earlier, interrupted call stopped.

    Row 7 becomes ``000007.png``; with all of several views, ``000007-0.png``, ``000007-1.png`` and so on.

    Args:
        tokens: the token file.
        out: a new folder, or the one of an earlier call.
        tokenizer: tokenizer, run or model directory; None looks for the file's own beside it, among the
            runs under ``runs/``, and among what comes with the package.
        views: the ``first`` view of each image, or ``all``.
        batch_size: pictures decoded at a time by each process.
        device: where the network runs.
        overwrite: replace decoded pictures that are there.
        reporter: told of progress.

    Raises:
        ConfigError: a setting is out of range.
        InputError: the tokenizer is nowhere to be found; the message says which one is needed.
        ArtifactError: the token file is damaged, or the tokenizer given is another one.
        OutputError: the folder holds something else, or cannot be written.
    """
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    require(views in VIEW_CHOICES, "views", views, "one of " + ", ".join(VIEW_CHOICES))
    job = _plan(open_tokens(tokens), out, tokenizer, views, resolve_device(device))
    sources = [
        parent("tokens", tokens.resolve(), job.tokens.sha256),
        parent("tokenizer", job.tokenizer.path.resolve(), job.tokenizer.sha256),
    ]
    record = pictures_record({"views": views}, sources, len(job.files))
    complete = settle_pictures(out, record, overwrite) if world().main else False
    if broadcast_object(complete):
        reporter.info(f"{out} is complete already; pass --overwrite to decode it anew")
        return Decoded(out, len(job.files), True)
    todo = [i for i, file in enumerate(job.files) if not file.exists()]
    barrier()  # every process has seen what is to do before any does some of it
    _decode_all(job, todo, batch_size, reporter)
    barrier()
    if world().main:
        finish_pictures(out, record)
    barrier()
    return Decoded(out, len(job.files), len(todo) < len(job.files))


def _plan(tokens: TokenFile, out: Path, tokenizer: Path | None, views: str, device: torch.device) -> _Job:
    """Find the tokenizer, and name the pictures."""
    wanted = tokens.meta.tokenizer_sha256
    near = [tokens.path.parent / "tokenizer"]
    network = load_tokenizer(find_tokenizer(wanted, tokenizer, near), device)
    count = tokens.meta.row_shape[0] if views == "all" else 1
    places = np.stack(np.divmod(np.arange(len(tokens) * count), count), axis=1)  # (N·V, 2)
    suffixes = [f"-{view}" for view in range(count)] if count > 1 else [""]
    files = [out / f"{row:06d}{suffixes[view]}.png" for row, view in places]
    return _Job(tokens, network, device, files, places)


def _decode_all(job: _Job, todo: list[int], batch_size: int, reporter: Reporter) -> None:
    """Decode this process's share of the pictures that are not there: every ``world().size``-th batch."""
    rank, size = world()
    batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    with reporter.task("decode", len(job.files), len(job.files) - len(todo)) as task:
        for first in range(0, len(batches), size):
            if first + rank < len(batches):
                _decode_batch(job, batches[first + rank])
            # The others are about as fast, so what all do in this round is told at once.
            task.advance(sum(len(batch) for batch in batches[first : first + size]))


def _decode_batch(job: _Job, numbers: list[int]) -> None:
    """Decode and write some pictures."""
    rows, views = job.places[numbers].T
    codes = torch.from_numpy(job.tokens.codes[rows, views].astype(np.int64))  # (B, h, w)
    for i, image in zip(numbers, decode_codes(job.tokenizer, codes, job.device), strict=True):
        save_png(job.files[i], image)
