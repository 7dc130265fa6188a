"""Stage ``tokenize``: images become codes, once, so that training never sees a pixel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.stages import VIEWS, TokenizeConfig
from maskgit_cli.data.loading import ImageBatch, ImageDataset, load_batches
from maskgit_cli.data.sources import Source, list_images, source_digest
from maskgit_cli.errors import ConfigError, InputError, counted
from maskgit_cli.formats.atomic import parent
from maskgit_cli.formats.models import builtin_tokenizer
from maskgit_cli.formats.token_writer import TokenWriter, completed
from maskgit_cli.formats.tokens import TokenMeta
from maskgit_cli.networks.inference import apply_to_rows
from maskgit_cli.networks.loading import Tokenizer, load_tokenizer
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.runtime.distributed import (
    autocast,
    barrier,
    gather_objects,
    resolve_device,
    resolve_dtype,
    world,
)
from maskgit_cli.runtime.progress import SILENT, Reporter

Failures = list[tuple[int, str]]
# Squares a call on a GPU, whatever the batch size: the kernels are then always the same ones.
GPU_ROWS = 16


class Tokenized(NamedTuple):
    """What :func:`tokenize` did.

    Attributes:
        path: the token file.
        images: how many images it holds.
        skipped: (name, reason) of each image that could not be read.
        resumed: whether an earlier run had done some of the work, or all of it.
    """

    path: Path
    images: int
    skipped: list[tuple[str, str]]
    resumed: bool


class _Compute(NamedTuple):
    """Where and how squares are encoded, and how many are read at a time."""

    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype
    squares: int


def tokenize(
    images: Path,
    out: Path,
    tokenizer: Path | None = None,
    config: TokenizeConfig | None = None,
    *,
    batch_size: int = 32,
    workers: int = 4,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Tokenized:
    """Encode images into a token file, going on where an earlier, interrupted call stopped.

    Works in one process or in several that a launcher started; the file is the same.

    Args:
        images: anything :func:`~maskgit_cli.data.sources.list_images` reads.
        out: the token file.
        tokenizer: a tokenizer, run or model directory; None is the built-in one.
        config: resolution, views, and what to do about unreadable images.
        batch_size: squares (images times views) read and encoded at a time by each process.
        workers: further processes that read images, for each process.
        device: where the network runs.
        dtype: precision of its matrix products and convolutions.
        overwrite: replace a finished file, and an unfinished one of other settings.
        reporter: told of progress.

    Raises:
        ConfigError: a setting is out of range, or the resolution doesn't suit the tokenizer.
        InputError: no image can be read, or one cannot and ``config.on_error`` is ``fail``.
        ArtifactError: the tokenizer is unfinished or damaged.
        OutputError: the file exists, was begun with other settings, or cannot be written.
    """
    config = config or TokenizeConfig()
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    require(workers >= 0, "workers", workers, "0 or more")
    target = resolve_device(device)
    precision = resolve_dtype(dtype, target)
    source = list_images(images)
    coder = load_tokenizer(tokenizer or builtin_tokenizer(), target)
    meta = _describe(images, source, coder, config, precision)
    finished = None if overwrite else completed(out, meta)
    if finished is not None:
        reporter.info(f"{out} is complete already; pass --overwrite to make it anew")
        return Tokenized(out, len(finished), finished.skipped, True)

    writer = _shared_writer(out, meta, source, overwrite)
    resumed = bool(writer.done.any())
    compute = _Compute(coder, target, precision, min(batch_size, len(source.paths) * VIEWS[meta.views]))
    barrier()  # every process has seen which rows are done before any does another
    failures = _fill(writer, source, compute, workers, config.on_error, reporter)
    return _finish(images, source, writer, failures, resumed, reporter)


def _describe(
    images: Path, source: Source, tokenizer: Tokenizer, config: TokenizeConfig, dtype: torch.dtype
) -> TokenMeta:
    """What the token file will say of itself."""
    resolution = config.res or tokenizer.config.resolution
    factor = tokenizer.config.factor
    if resolution % factor:
        nearest = max(1, round(resolution / factor)) * factor
        raise ConfigError(
            f"--res {resolution}: must be a multiple of {factor}, the side in pixels of what one code of "
            f"this tokenizer stands for; the nearest is {nearest}"
        )
    precision = str(dtype).removeprefix("torch.")
    directory = tokenizer.path.resolve()
    return TokenMeta(
        codebook_size=tokenizer.config.codebook_size,
        grid=resolution // factor,
        resolution=resolution,
        views=config.views,
        class_names=source.class_names,
        tokenizer=directory.name,
        tokenizer_sha256=tokenizer.sha256,
        settings={"res": resolution, "views": config.views, "dtype": precision},
        parents=[
            parent("tokenizer", directory, tokenizer.sha256),
            parent("images", images.resolve(), source_digest(source)),
        ],
    )


def _shared_writer(out: Path, meta: TokenMeta, source: Source, overwrite: bool) -> TokenWriter:
    """Every process's own writer of the one file; the first process creates it."""
    if not world().main:
        barrier()
    writer = TokenWriter.create_or_resume(out, meta, source.names, source.labels, overwrite)
    if world().main:
        barrier()
    return writer


def _fill(
    writer: TokenWriter,
    source: Source,
    compute: _Compute,
    workers: int,
    on_error: str,
    reporter: Reporter,
) -> Failures:
    """Encode this process's share of the rows not done yet; gives every process's failures, in order."""
    total, todo = len(source.paths), np.flatnonzero(~writer.done)
    share = todo[world().rank :: world().size]
    remaining = len(todo)
    failures: Failures = []
    dataset = ImageDataset(source, writer.meta.resolution, writer.meta.views)
    with reporter.task("tokenize", total, total - remaining) as task, torch.inference_mode():
        for batch in _batches(dataset, share, compute, workers):
            if batch.skipped and on_error == "fail":
                index, reason = batch.skipped[0]
                raise InputError(f"{source.paths[index]}: {reason}; remove it, or pass --on-error skip")
            failures += batch.skipped
            if batch.images is not None:
                writer.write(batch.indices.numpy(), _encode(batch.images, compute))
            # The others are about as fast, so what this process does stands for all of them.
            step = min(remaining, (len(batch.indices) + len(batch.skipped)) * world().size)
            remaining -= step
            task.advance(step)
    return sorted(failure for part in gather_objects(failures) for failure in part)


def _batches(
    dataset: ImageDataset, rows: np.ndarray, compute: _Compute, workers: int
) -> Iterator[ImageBatch]:
    """The images of these rows, read by other processes."""
    size = max(1, compute.squares // VIEWS[dataset.kind])
    batches = [rows[first : first + size].tolist() for first in range(0, len(rows), size)]
    return load_batches(dataset, batches, min(workers, len(batches)), compute.device.type == "cuda")


def _encode(images: Tensor, compute: _Compute) -> np.ndarray:
    """Codes (B, V, h, w) of images uint8 (B, V, 3, side, side); an image's depend on nothing else."""
    squares = images.flatten(0, 1)  # (B·V, 3, side, side)
    codes = apply_to_rows(lambda part: _codes(part, compute), (squares,), compute.device, GPU_ROWS)
    return codes.unflatten(0, images.shape[:2]).numpy()


def _codes(squares: Tensor, compute: _Compute) -> Tensor:
    """Codes (B, h, w) of uint8 (B, 3, side, side); distances to the codebook are always float32."""
    network = compute.tokenizer.network
    with autocast(compute.device, compute.dtype):
        latents = network.latents(to_model(squares))  # (B, D, h, w)
    return network.quantize.nearest(latents.float())


def _finish(
    images: Path,
    source: Source,
    writer: TokenWriter,
    failures: Failures,
    resumed: bool,
    reporter: Reporter,
) -> Tokenized:
    """Write the finished file on the first process, once all are done."""
    total, skipped = len(source.paths), [(source.names[index], reason) for index, reason in failures]
    if len(skipped) == total:
        if world().main:
            writer.discard()
        name, reason = skipped[0]
        found = counted(total, "image")
        raise InputError(f"{images}: no image can be read, of {found} found; the first, {name}: {reason}")
    if world().main:
        writer.finish(skipped)
    barrier()
    if skipped:
        name, reason = skipped[0]
        reporter.warn(
            f"{len(skipped)} of {total} images could not be read and are listed in {writer.path}; "
            f"the first is {name}: {reason}"
        )
    return Tokenized(writer.path, total - len(skipped), skipped, resumed)
