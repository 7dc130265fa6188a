"""Stage ``tokenize``: encode images into tokens once, so that training reads no pixels."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.stages import VIEWS, TokenizeConfig
from maskgit_cli.data.loading import ImageBatch, ImageDataset, load_batches
from maskgit_cli.data.sources import ImageSource, is_source, open_source, source_digest
from maskgit_cli.errors import ConfigError, InputError, counted
from maskgit_cli.formats.atomic import parent, unicode_text
from maskgit_cli.formats.claim import Outcome
from maskgit_cli.formats.models import (
    DEFAULT_TOKENIZER,
    builtin_tokenizer,
    find_tokenizer,
    local_tokenizer,
)
from maskgit_cli.formats.token_writer import TOKENS, TokenWriter, tokens_record
from maskgit_cli.formats.tokens import TokenMeta, open_tokens, partial_path
from maskgit_cli.networks.inference import apply_to_rows, decode_tokens
from maskgit_cli.networks.loading import Tokenizer, load_tokenizer
from maskgit_cli.networks.pixels import psnr, to_model
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
# Images whose reconstructions are measured, the first readable ones among eight times as many.
MEASURED = 8
# Tokens on a side of an image below which it holds little more than its colors, and a PSNR in dB below which
# its reconstruction is another image.
FEW_TOKENS, POOR_PSNR = 8, 20.0


class Tokenized(NamedTuple):
    """Result of :func:`tokenize`.

    Attributes:
        path: the token file.
        images: number of images it holds.
        skipped: (name, reason) of each image that could not be read.
        resumed: whether an earlier call had tokenized some or all of the images.
        meta: the file's metadata: its tokenizer, grid, PSNR and so on.
    """

    path: Path
    images: int
    skipped: list[tuple[str, str]]
    resumed: bool
    meta: TokenMeta


class _Encoder(NamedTuple):
    """A tokenizer's encoder with its device and precision."""

    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype

    def __call__(self, images: Tensor) -> np.ndarray:
        """Tokens (B, V, h, w) of uint8 (B, V, 3, side, side), batch-invariant."""
        flat = images.flatten(0, 1)  # (B·V, 3, side, side)
        tokens = apply_to_rows(self._encode, (flat,), self.device, GPU_ROWS)  # (B·V, h, w)
        return tokens.unflatten(0, images.shape[:2]).numpy()

    def _encode(self, images: Tensor) -> Tensor:
        network = self.tokenizer.network
        with autocast(self.device, self.dtype):
            latents = network.latents(to_model(images))  # (B, D, h, w)
        return network.quantize.nearest(latents.float())  # distances to the codebook are always float32


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
    """Encode images into a token file, resuming an interrupted call.

    Works in one process or in several that a launcher started; the file is the same.

    Args:
        images: anything :func:`~maskgit_cli.data.sources.open_source` opens.
        out: the token file.
        tokenizer: a tokenizer, run or model directory; None is the paper's if it is in the working directory
            (see ``maskgit pull``), else the built-in one for 64 px emoji, with a warning.
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
    config = config or TokenizeConfig()
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    require(workers >= 0, "workers", workers, "0 or more")
    target = resolve_device(device)
    precision = resolve_dtype(dtype, target)
    source = open_source(images, reporter=reporter)
    tokenizer = tokenizer or _default_tokenizer(reporter)
    encode = _Encoder(load_tokenizer(tokenizer, target), target, precision)
    meta = _meta(images, out, source, encode, config)
    with claim_on_main(out, TOKENS, tokens_record(meta), overwrite, reporter) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
            finished = open_tokens(out)
            return Tokenized(out, len(finished), finished.skipped, True, finished.meta)
        writer = _writer(out, meta, source, encode, workers)
        _describe(writer.meta, encode, reporter)
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


def _default_tokenizer(reporter: Reporter) -> Path:
    """The tokenizer of the paper if it is here, else the built-in one."""
    found = local_tokenizer()
    if found is None:
        reporter.warn(
            "no tokenizer given: using the built-in 64 px tokenizer, which was made for emoji and distorts "
            f"photographs; `maskgit pull {DEFAULT_TOKENIZER}` gets the paper's"
        )
    return found or builtin_tokenizer()


def tokens_at(
    tokens: Path,
    res: int,
    tokenizer: Path | None = None,
    *,
    workers: int = 4,
    device: str = "auto",
    reporter: Reporter = SILENT,
) -> Path:
    """The token file of the same images at another resolution: ``NAME-RES.h5`` next to it.

    If it is not there, the images that the token file records are tokenized with the same tokenizer, views
    and precision.

    Args:
        tokens: the token file.
        res: resolution in pixels.
        tokenizer: the tokenizer's directory, where it is not found automatically.
        workers: ``DataLoader`` workers of each process.
        device: where the tokenizer runs.
        reporter: receives progress updates.

    Returns:
        ``tokens`` itself if it has that resolution.

    Raises:
        ConfigError: the resolution does not suit the tokenizer.
        InputError: the images are not where they were, or have changed.
        ArtifactError: a token file is damaged, or the tokenizer is not here.
        OutputError: ``NAME-RES.h5`` holds other tokens, or cannot be written.
    """
    file = open_tokens(tokens)
    meta = file.meta
    if meta.resolution == res:
        return tokens
    out = tokens.with_name(f"{tokens.stem}-{res}{tokens.suffix}")
    if out.exists() and _same_but_resolution(open_tokens(out).meta, meta, res):
        reporter.info(f"{tokens} has images of {meta.resolution} px; using {out}")
        return out
    images = tokens.parent / meta.source
    again = f"`maskgit tokenize IMAGES {out} --res {res} --views {meta.views}`, with the same tokenizer"
    if not meta.source or not is_source(images):
        where = f"not at {images} any more" if meta.source else "not recorded"
        raise InputError(
            f"{tokens} has images of {meta.resolution} px, and its images are {where}; use {again}"
        )
    recorded = next((p["sha256"] for p in meta.parents if p["kind"] == "images"), None)
    if source_digest(open_source(images, reporter=reporter)) != recorded:
        raise InputError(f"the images in {images} are not those of {tokens} any more; use {again}")
    reporter.info(f"{tokens} has images of {meta.resolution} px; tokenizing {images} at {res} px into {out}")
    found = find_tokenizer(meta.tokenizer_sha256, tokenizer, [tokens.parent / "tokenizer"])
    config = TokenizeConfig(res=res, views=meta.views)
    dtype = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[meta.settings["dtype"]]
    tokenize(images, out, found, config, workers=workers, device=device, dtype=dtype, reporter=reporter)
    return out


def _same_but_resolution(found: TokenMeta, meta: TokenMeta, res: int) -> bool:
    """Whether tokens are those of the same images, tokenizer and views at another resolution."""
    same = (found.parents, found.views, found.class_names) == (meta.parents, meta.views, meta.class_names)
    return same and found.resolution == res


def _meta(
    images: Path, out: Path, source: ImageSource, encoder: _Encoder, config: TokenizeConfig
) -> TokenMeta:
    """The attributes of the token file, all but the measured ones."""
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
        source=unicode_text(os.path.relpath(images.resolve(), out.resolve().parent)),
    )


def _describe(meta: TokenMeta, encoder: _Encoder, reporter: Reporter) -> None:
    """Report tokenizer, grid and reconstruction, and warn where these promise poor results."""
    grid, factor = meta.grid, encoder.tokenizer.config.factor
    quality = "" if meta.psnr is None else f", reconstruction PSNR {meta.psnr:.1f} dB (first images)"
    reporter.info(
        f"tokenizer {encoder.tokenizer.path}: {meta.resolution} px become {grid}×{grid} tokens of "
        f"{meta.codebook_size}{quality}"
    )
    if grid < FEW_TOKENS:
        reporter.warn(
            f"{grid}×{grid} tokens are few for an image: use --res {FEW_TOKENS * factor} or more, or a "
            f"tokenizer with fewer pixels per token than {factor}×{factor}"
        )
    if meta.psnr is not None and meta.psnr < POOR_PSNR:
        reporter.warn(
            f"reconstructions are poor ({meta.psnr:.1f} dB), and samples cannot be better: look at "
            "them with `maskgit decode`; a tokenizer trained on such images helps (`maskgit train-vqgan`)"
        )


def _measure(source: ImageSource, resolution: int, encoder: _Encoder, workers: int) -> float | None:
    """Mean PSNR of the reconstructions of the first images in dB; None if none of them can be read."""
    dataset, last = ImageDataset(source, resolution), min(len(source), 8 * MEASURED)
    batches = [list(range(i, min(i + MEASURED, last))) for i in range(0, last, MEASURED)]
    readable: list[Tensor] = []
    for batch in load_batches(dataset, batches, min(workers, 1), False):
        readable += [] if batch.images is None else [*batch.images]
        if len(readable) >= MEASURED:
            break
    if not readable:
        return None
    images = torch.stack(readable[:MEASURED])  # (B, 1, 3, side, side)
    with torch.inference_mode():
        tokens = torch.from_numpy(encoder(images).astype(np.int64))[:, 0]
        decoded = decode_tokens(encoder.tokenizer, tokens, encoder.device)
    return round(float(psnr(decoded, images[:, 0]).mean()), 2)


def _writer(out: Path, meta: TokenMeta, source: ImageSource, encoder: _Encoder, workers: int) -> TokenWriter:
    """A writer of the one file for each process; rank 0 creates the file."""
    if not world().main:
        barrier()
    elif not partial_path(out).exists():
        meta = dataclasses.replace(meta, psnr=_measure(source, meta.resolution, encoder, workers))
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
    return Tokenized(writer.path, len(source) - len(skipped), skipped, resumed, writer.meta)
