"""Stage ``tokenize``: encode images into tokens once, so that training reads no pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.arguments import PathArgument, checked, optional_path
from maskgit_cli.config.base import require
from maskgit_cli.config.stages import TokenizeConfig, random_views
from maskgit_cli.data.loading import ImageBatch, ImageDataset, load_batches
from maskgit_cli.data.sources import ImageSource, open_source, recorded_images, source_digest
from maskgit_cli.data.splitting import held_out
from maskgit_cli.data.writing import BackgroundWriter, Times
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
from maskgit_cli.formats.tokens import TokenMeta, open_tokens, partial_path, split_range, with_range
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
        val: the same of the images that are held out, or None.
    """

    path: Path
    images: int
    skipped: list[tuple[str, str]]
    resumed: bool
    meta: TokenMeta
    val: Tokenized | None = None


class _Output(NamedTuple):
    """A token file to write.

    Attributes:
        path: the file.
        meta: its metadata.
        images: numbers of its images in the listing, ascending (R,).
        complete: whether it is there already.
    """

    path: Path
    meta: TokenMeta
    images: np.ndarray
    complete: bool = False


class _Filled(NamedTuple):
    """An output whose readable images all have tokens, but which is not finished.

    Attributes:
        writer: of the file.
        failures: (number in the listing, reason) of the images of this rank that cannot be read.
        resumed: whether an earlier call had done some images.
    """

    writer: TokenWriter
    failures: list[tuple[int, str]]
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
    default_tokenizer: Callable[[], Path] | None = None,
    reporter: Reporter = SILENT,
) -> Tokenized:
    """Encode images into a token file, resuming an interrupted call.

    Works in one process or in several that a launcher started; the file is the same. With
    ``config.val_split`` there are two files, the second at :func:`validation_path`.

    Args:
        images: anything :func:`~maskgit_cli.data.sources.open_source` opens.
        out: the token file.
        tokenizer: a tokenizer, run or model directory; None is the paper's if it is in the working directory
            (see ``maskgit pull``), else the built-in one for 64 px emoji, with a warning.
        config: resolution, views, which images, and handling of unreadable ones.
        batch_size: views (images times views per image) read and encoded at a time by each process.
        workers: ``DataLoader`` workers of each process.
        device: where the tokenizer runs.
        dtype: precision of its matrix products and convolutions.
        overwrite: replace a finished file, and an unfinished one of other settings.
        default_tokenizer: finds the tokenizer where none is given, as the command does by a download; it is
            called once the images are known.
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
    source = open_source(images, reporter=reporter)
    find = default_tokenizer or (lambda: _default_tokenizer(reporter))
    encode = _Encoder(load_tokenizer(tokenizer or find(), target), target, precision)
    stage = _Stage(images, source, encode, config, batch_size, workers, reporter)
    with ExitStack() as stack:
        outputs = [stage.claim(output, overwrite, stack) for output in stage.outputs(out)]
        # All files are filled before any is finished. TOKENS.h5, the first, is the last to be finished, so
        # that where it is the other one is too.
        filled = [None if output.complete else stage.fill(output) for output in outputs]
        done = [stage.finish(*pair) for pair in reversed([*zip(outputs, filled, strict=True)])]
    first, *others = reversed(done)
    return first._replace(val=others[0]) if others else first


class _Stage(NamedTuple):
    """The parts of :func:`tokenize` with what they share; the attributes are its arguments."""

    path: Path
    source: ImageSource
    encode: _Encoder
    config: TokenizeConfig
    batch_size: int
    workers: int
    reporter: Reporter

    def outputs(self, out: Path) -> list[_Output]:
        """The files to write: TOKENS.h5 and, with a split, TOKENS-val.h5."""
        config, source = self.config, self.source
        part = _range_of(config, len(source))
        meta = _meta(self.path, source, self.encode, config)
        if part is not None:
            return [_Output(out, with_range(meta, part, len(source)), np.arange(*part))]
        if config.val_split is None:
            return [_Output(out, meta, np.arange(len(source)))]
        val = held_out(source.labels, config.val_split, config.seed)
        split = {"val_split": config.val_split, "seed": config.seed}
        # The validation loss is that of the center crop, whatever the training sees.
        center = replace(meta, views="none", settings=meta.settings | {"views": "none"})
        metas = [replace(m, settings=m.settings | split) for m in (meta, center)]
        return [
            _Output(out, metas[0], np.flatnonzero(~val)),
            _Output(validation_path(out), metas[1], np.flatnonzero(val)),
        ]

    def claim(self, output: _Output, overwrite: bool, stack: ExitStack) -> _Output:
        """Claim a file for the time of ``stack``, and find out whether it is complete already."""
        record = tokens_record(output.meta)
        claimed = stack.enter_context(claim_on_main(output.path, TOKENS, record, overwrite, self.reporter))
        complete = claimed.outcome is Outcome.COMPLETE
        if complete:
            self.reporter.info(claimed.already_complete)
        return output._replace(path=claimed.output, complete=complete)  # what a symbolic link leads to

    def fill(self, output: _Output) -> _Filled:
        """Encode the images of a file that have no tokens yet; each rank does its share."""
        numbers, meta = output.images, output.meta
        writer = _writer(output, self.source, self.encode, self.workers)
        _describe(writer.meta, self.encode, self.reporter)
        todo = numbers[~writer.done]
        remaining = len(todo)
        barrier()  # every process has read which rows are done before any process writes another
        failures: list[tuple[int, str]] = []
        dataset = ImageDataset(self.source, meta.resolution, meta.views, self.config.seed)
        progress = self.reporter.task("tokenize", len(numbers), len(numbers) - remaining)
        times = Times()
        with progress as task, torch.inference_mode(), BackgroundWriter(writer) as storing:
            for batch in times.of("decoding", self._batches(dataset, todo, meta.row_shape[0])):
                if batch.skipped and self.config.on_error == "fail":
                    index, reason = batch.skipped[0]
                    location = self.source.location(index)
                    raise InputError(f"{location}: {reason}; remove it, or pass --on-error skip")
                failures += batch.skipped
                if batch.images is not None:
                    rows = np.searchsorted(numbers, batch.indices.numpy())
                    with times.measured("encoding"):
                        tokens = self.encode(batch.images)
                    with times.measured("writing"):
                        storing.write(rows, tokens)
                    times.images += len(rows)
                # The other ranks are about as fast, so this rank's progress counts for all.
                step = min(remaining, (len(batch.indices) + len(batch.skipped)) * world().size)
                remaining -= step
                task.advance(step)
        if times.images:
            self.reporter.info(times.bound(world().size, self.workers))
        return _Filled(writer, failures, len(todo) < len(numbers))

    def _batches(self, dataset: ImageDataset, todo: np.ndarray, views: int) -> Iterator[ImageBatch]:
        """Batches of this process's share of the images that are still to do."""
        share = todo[world().rank :: world().size]
        size = max(1, self.batch_size // views)
        batches = [share[first : first + size].tolist() for first in range(0, len(share), size)]
        pinned = self.encode.device.type == "cuda"
        return load_batches(dataset, batches, min(self.workers, len(batches)), pinned)

    def finish(self, output: _Output, filled: _Filled | None) -> Tokenized:
        """Write a finished file on rank 0, once all ranks are done; None is one that is complete already."""
        if filled is None:
            finished = open_tokens(output.path)
            return Tokenized(output.path, len(finished), finished.skipped, True, finished.meta)
        writer, total = filled.writer, len(output.images)
        failures = sorted(failure for share in gather_objects(filled.failures) for failure in share)
        skipped = [(self.source.names[index], reason) for index, reason in failures]
        if len(skipped) == total:
            if world().main:
                writer.discard()
            name, reason = skipped[0]
            raise InputError(
                f"{self.path}: none of {counted(total, 'image')} for {output.path.name} can be read; "
                f"the first, {name}: {reason}"
            )
        if world().main:
            writer.finish(skipped)
        barrier()
        if skipped:
            name, reason = skipped[0]
            self.reporter.warn(
                f"{len(skipped)} of {counted(total, 'image')} could not be read and are listed in "
                f"{writer.path}; the first is {name}: {reason}"
            )
        return Tokenized(writer.path, total - len(skipped), skipped, filled.resumed, writer.meta)


def validation_path(out: Path) -> Path:
    """Where the images that are held out go: TOKENS-val.h5 next to TOKENS.h5."""
    return out.with_name(f"{out.stem}-val{out.suffix}")


def _range_of(config: TokenizeConfig, images: int) -> tuple[int, int] | None:
    """First image and one past the last, of those in the listing; None is all of them.

    Raises:
        ConfigError: there are no such images.
    """
    if not config.is_part:
        return None
    stop = images if config.stop is None else min(config.stop, images)
    if config.start >= stop:
        raise ConfigError(f"--range {config.start}:{config.stop}: there are only the images 0:{images}")
    return config.start, stop


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
    meta = open_tokens(tokens).meta
    if meta.resolution == res:
        return tokens
    split = meta.settings.get("val_split")
    held_out = split is not None and tokens.stem.endswith("-val")
    stem = tokens.stem.removesuffix("-val") if held_out else tokens.stem
    out = tokens.with_name(f"{stem}-{res}{tokens.suffix}")
    made = validation_path(out) if held_out else out
    if made.exists() and _same_but_resolution(open_tokens(made).meta, meta, res):
        reporter.info(f"{tokens} has images of {meta.resolution} px; using {made}")
        return made
    again = f"`maskgit tokenize IMAGES {out} --res {res} --views {meta.views}`, with the same tokenizer"
    if split_range(meta) is not None:
        raise InputError(f"{tokens} is a part of a token file; merge the parts, or use {again}")
    try:
        images = recorded_images(tokens, meta, reporter)
    except InputError as error:
        raise InputError(f"{tokens} has images of {meta.resolution} px, and {error}; use {again}") from None
    reporter.info(f"{tokens} has images of {meta.resolution} px; tokenizing {images} at {res} px into {made}")
    found = find_tokenizer(meta.tokenizer_sha256, tokenizer, [tokens.parent / "tokenizer"])
    config = TokenizeConfig(res=res, views=meta.views, val_split=split, seed=meta.settings.get("seed", 0))
    dtype = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[meta.settings["dtype"]]
    tokenize(images, out, found, config, workers=workers, device=device, dtype=dtype, reporter=reporter)
    return made


def _same_but_resolution(found: TokenMeta, meta: TokenMeta, res: int) -> bool:
    """Whether tokens are those of the same images, tokenizer and views at another resolution."""
    same = (found.parents, found.views, found.class_names) == (meta.parents, meta.views, meta.class_names)
    return same and found.resolution == res


def _meta(images: Path, source: ImageSource, encoder: _Encoder, config: TokenizeConfig) -> TokenMeta:
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
    seed = {"seed": config.seed} if random_views(config.views) else {}
    return TokenMeta(
        codebook_size=tokenizer.config.codebook_size,
        grid=resolution // factor,
        resolution=resolution,
        views=config.views,
        class_names=source.class_names,
        tokenizer=unicode_text(directory.name),
        tokenizer_sha256=tokenizer.sha256,
        settings={"res": resolution, "views": config.views, "dtype": dtype} | seed,
        parents=[
            parent("tokenizer", directory, tokenizer.sha256),
            parent("images", images.resolve(), source_digest(source)),
        ],
        source=unicode_text(str(images)),
    )


def _describe(meta: TokenMeta, encoder: _Encoder, reporter: Reporter) -> None:
    """Report tokenizer, grid and reconstruction, and warn where these promise poor results."""
    grid = meta.grid
    quality = "" if meta.psnr is None else f", reconstruction PSNR {meta.psnr:.1f} dB (first images)"
    reporter.info(
        f"tokenizer {encoder.tokenizer.path}: {meta.resolution} px become {grid}×{grid} tokens of "
        f"{meta.codebook_size}{quality}"
    )
    for warning in quality_warnings(meta, meta.psnr):
        reporter.warn(warning)


def quality_warnings(meta: TokenMeta, measured: float | None) -> list[str]:
    """What about a token file promises poor samples.

    Args:
        meta: of the file.
        measured: PSNR of reconstructions in dB; None where it was not measured.
    """
    grid, factor, found = meta.grid, meta.resolution // meta.grid, []
    if grid < FEW_TOKENS:
        found.append(
            f"{grid}×{grid} tokens are few for an image: use --res {FEW_TOKENS * factor} or more, or a "
            f"tokenizer with fewer pixels per token than {factor}×{factor}"
        )
    if measured is not None and measured < POOR_PSNR:
        found.append(
            f"reconstructions are poor ({measured:.1f} dB), and samples cannot be better; a tokenizer "
            "trained on such images helps (`maskgit train-vqgan`)"
        )
    return found


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


def _writer(output: _Output, source: ImageSource, encoder: _Encoder, workers: int) -> TokenWriter:
    """A writer of the one file for each process; rank 0 creates the file."""
    meta = output.meta
    if not world().main:
        barrier()
    elif not partial_path(output.path).exists():
        meta = replace(meta, psnr=_measure(source, meta.resolution, encoder, workers))
    names = [source.names[i] for i in output.images]
    labels = source.labels[output.images]
    writer = TokenWriter.create_or_resume(output.path, meta, names, labels)
    if world().main:
        barrier()
    return writer
