"""Stage ``tokenize``: encode images into tokens once, so that training reads no pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.arguments import PathArgument, checked, optional_path
from maskgit_cli.config.base import require
from maskgit_cli.config.stages import VIEWS, TokenizeConfig
from maskgit_cli.data.loading import ImageBatch, ImageDataset, load_batches
from maskgit_cli.data.sources import ImageSource, open_source, source_digest
from maskgit_cli.errors import ConfigError, InputError, counted
from maskgit_cli.formats.atomic import parent, unicode_text
from maskgit_cli.formats.claim import Outcome
from maskgit_cli.formats.models import builtin_tokenizer
from maskgit_cli.formats.token_writer import TOKENS, TokenWriter, tokens_record
from maskgit_cli.formats.tokens import TokenMeta, open_tokens
from maskgit_cli.networks.inference import apply_to_rows
from maskgit_cli.networks.loading import Tokenizer, load_tokenizer
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.runtime.distributed import (
    autocast,
    barrier,
    claim_on_main,
    gather_objects,
    resolve_device,
    resolve_dtype,
    world,
)
from maskgit_cli.runtime.progress import SILENT, Reporter

# Views per forward pass on a GPU, whatever the batch size: the kernels are then always the same ones.
GPU_ROWS = 16


class Tokenized(NamedTuple):
    """Result of :func:`tokenize`.

    Attributes:
        path: the token file.
        images: number of images it holds.
        skipped: (name, reason) of each image that could not be read.
        resumed: whether an earlier call had tokenized some or all of the images.
    """

    path: Path
    images: int
    skipped: list[tuple[str, str]]
    resumed: bool


class _Encoder(NamedTuple):
    """A tokenizer's encoder with its device and precision."""

    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype

    def __call__(self, images: Tensor) -> np.ndarray:
        """Tokens (B, V, h, w) of uint8 (B, V, 3, side, side), batch-invariant."""
        tokens = encode_images(self.tokenizer, images.flatten(0, 1), self.device, self.dtype)  # (B·V, h, w)
        return tokens.unflatten(0, images.shape[:2]).numpy()


def encode_images(tokenizer: Tokenizer, images: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Tokens (B, h, w) on the CPU of uint8 (B, 3, H, W), batch-invariant.

    Args:
        tokenizer: its network is on ``device``.
        images: squares whose side is a multiple of the tokenizer's downsampling factor.
        device: device of the tokenizer.
        dtype: precision of its matrix products and convolutions.
    """
    network = tokenizer.network

    def encode(images: Tensor) -> Tensor:
        with autocast(device, dtype):
            latents = network.latents(to_model(images))  # (B, D, h, w)
        return network.quantize.nearest(latents.float())  # distances to the codebook are always float32

    return apply_to_rows(encode, (images.cpu(),), device, GPU_ROWS)


@checked
def tokenize(
    images: PathArgument,
    out: PathArgument,
    tokenizer: PathArgument | None = None,
    config: TokenizeConfig | None = None,
    *,
    batch_size: int = 32,
    workers: int = 4,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Tokenized:
    """Encode images into a token file, resuming an interrupted call.

    Works in one process or in several that a launcher started; the file is the same.

    Args:
        images: anything :func:`~maskgit_cli.data.sources.open_source` opens.
        out: the token file.
        tokenizer: a tokenizer, run or model directory; None is the built-in one.
        config: resolution, views, and handling of unreadable images.
        batch_size: views (images times views per image) read and encoded at a time by each process.
        workers: ``DataLoader`` workers of each process.
        device: where the tokenizer runs.
        dtype: precision of its matrix products and convolutions.
        overwrite: replace a finished file, and an unfinished one of other settings.
        reporter: receives progress updates.

    Raises:
        ConfigError: a setting is out of range, or the resolution does not suit the tokenizer.
        InputError: no image can be read, or one cannot and ``config.on_error`` is ``fail``.
        ArtifactError: the tokenizer is unfinished or damaged.
        OutputError: the file exists, has other settings, or cannot be written.
    """
    images, out, tokenizer = Path(images), Path(out), optional_path(tokenizer)
    config = config or TokenizeConfig()
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    require(workers >= 0, "workers", workers, "0 or more")
    target = resolve_device(device)
    precision = resolve_dtype(dtype, target)
    source = open_source(images)
    encode = _Encoder(load_tokenizer(tokenizer or builtin_tokenizer(), target), target, precision)
    meta = _meta(images, source, encode, config)
    with claim_on_main(out, TOKENS, tokens_record(meta), overwrite, reporter) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
            finished = open_tokens(out)
            return Tokenized(out, len(finished), finished.skipped, True)
        writer = _writer(out, meta, source)
        todo = np.flatnonzero(~writer.done)
        remaining = len(todo)
        barrier()  # every process has read which rows are done before any process writes another
        failures: list[tuple[int, str]] = []
        dataset = ImageDataset(source, writer.meta.resolution, config.views)
        with reporter.task("tokenize", len(source), len(source) - remaining) as task, torch.inference_mode():
            for batch in _batches(dataset, todo, batch_size, workers, target):
                if batch.skipped and config.on_error == "fail":
                    index, reason = batch.skipped[0]
                    location = source.location(index)
                    raise InputError(f"{location}: {reason}; remove it, or pass --on-error skip")
                failures += batch.skipped
                if batch.images is not None:
                    writer.write(batch.indices.numpy(), encode(batch.images))
                # The other ranks are about as fast, so this rank's progress counts for all.
                step = min(remaining, (len(batch.indices) + len(batch.skipped)) * world().size)
                remaining -= step
                task.advance(step)
        return _finish(images, source, writer, failures, len(todo) < len(source), reporter)


def _meta(images: Path, source: ImageSource, encoder: _Encoder, config: TokenizeConfig) -> TokenMeta:
    """The attributes of the token file."""
    tokenizer = encoder.tokenizer
    resolution = config.res or tokenizer.config.resolution
    factor = tokenizer.config.factor
    if resolution % factor:
        nearest = max(1, round(resolution / factor)) * factor
        raise ConfigError(
            f"--res {resolution}: must be a multiple of {factor}, the tokenizer's downsampling factor; "
            f"the nearest is {nearest}"
        )
    directory = tokenizer.path.resolve()
    dtype = str(encoder.dtype).removeprefix("torch.")
    return TokenMeta(
        codebook_size=tokenizer.config.codebook_size,
        grid=resolution // factor,
        resolution=resolution,
        views=config.views,
        class_names=source.class_names,
        tokenizer=unicode_text(directory.name),
        tokenizer_sha256=tokenizer.sha256,
        settings={"res": resolution, "views": config.views, "dtype": dtype},
        parents=[
            parent("tokenizer", directory, tokenizer.sha256),
            parent("images", images.resolve(), source_digest(source)),
        ],
    )


def _writer(out: Path, meta: TokenMeta, source: ImageSource) -> TokenWriter:
    """A writer of the one file for each process; rank 0 creates the file."""
    if not world().main:
        barrier()
    writer = TokenWriter.create_or_resume(out, meta, source.names, source.labels)
    if world().main:
        barrier()
    return writer


def _batches(
    dataset: ImageDataset, todo: np.ndarray, batch_size: int, workers: int, device: torch.device
) -> Iterator[ImageBatch]:
    """Batches of this process's share of the rows that are still to do."""
    share = todo[world().rank :: world().size]
    size = max(1, batch_size // VIEWS[dataset.kind])
    batches = [share[first : first + size].tolist() for first in range(0, len(share), size)]
    return load_batches(dataset, batches, min(workers, len(batches)), device.type == "cuda")


def _finish(
    images: Path,
    source: ImageSource,
    writer: TokenWriter,
    failures: list[tuple[int, str]],
    resumed: bool,
    reporter: Reporter,
) -> Tokenized:
    """Write the finished file on rank 0, once all ranks are done."""
    failures = sorted(failure for share in gather_objects(failures) for failure in share)
    skipped = [(source.names[index], reason) for index, reason in failures]
    if len(skipped) == len(source):
        if world().main:
            writer.discard()
        name, reason = skipped[0]
        found = counted(len(source), "image")
        raise InputError(f"{images}: none of {found} can be read; the first, {name}: {reason}")
    if world().main:
        writer.finish(skipped)
    barrier()
    if skipped:
        name, reason = skipped[0]
        reporter.warn(
            f"{len(skipped)} of {counted(len(source), 'image')} could not be read and are listed in "
            f"{writer.path}; the first is {name}: {reason}"
        )
    return Tokenized(writer.path, len(source) - len(skipped), skipped, resumed)
