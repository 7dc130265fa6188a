"""The job that ``sample`` and ``inpaint`` share: batches to generate, and the sample directory they go to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.samplers import recorded_sampler
from maskgit_cli.errors import counted
from maskgit_cli.figures.grids import png_bytes
from maskgit_cli.formats.atomic import unicode_text
from maskgit_cli.formats.claim import Claim, Outcome
from maskgit_cli.formats.samples import SAMPLES, SampleWriter, StoredImage, pixels_digest, read_png
from maskgit_cli.formats.tokens import TokenFile, TokenMeta, Trace
from maskgit_cli.runtime.distributed import barrier, claim_on_main, world
from maskgit_cli.runtime.progress import Reporter
from maskgit_cli.sampling.model import Pipeline


class Contents(NamedTuple):
    """The images of a sample directory, and the rows of its token file.

    Attributes:
        indices: number of each image in the whole set (N,).
        labels: class of each row (R,), -1 for none.
        names: of the rows (R,); None is the images' numbers.
        counts: number of rows of each image (N,); None is one.
        trace_steps: S where the sampler's steps are stored, else 0.
        pixels: whether there are images, or only tokens.
    """

    indices: np.ndarray
    labels: np.ndarray
    names: Sequence[str] | None = None
    counts: np.ndarray | None = None
    trace_steps: int = 0
    pixels: bool = True


class Job:
    """A sample directory that one process or several fill batch by batch.

    Args:
        record: from :func:`~maskgit_cli.formats.samples.samples_record`.
        claimed: the directory.
        writer: of the directory; None where it is complete already.
        images: how many the directory holds in the end.
        batch_size: images per batch of each process.
        reporter: receives progress updates.

    Attributes:
        resumed: whether an earlier call had done some of the work, or all of it.
    """

    def __init__(
        self,
        record: Mapping[str, Any],
        claimed: Claim,
        writer: SampleWriter | None,
        images: int,
        batch_size: int,
        reporter: Reporter,
    ) -> None:
        self.record = record
        self.images = images
        self.batch_size = batch_size
        self.reporter = reporter
        self.resumed = writer is None or len(writer.todo) < images
        self._claimed, self._writer = claimed, writer

    def batches(self) -> Iterator[np.ndarray]:
        """This process's share of the batches that still have to be done: images by their position (B,).

        Each is done when the next one is asked for; the last one ends with a barrier.
        """
        if self._writer is None:
            return
        rank, size = world()
        todo = self._writer.todo
        batches = [todo[i : i + self.batch_size] for i in range(0, len(todo), self.batch_size)]
        with self.reporter.task(self.record["stage"], self.images, self.images - len(todo)) as task:
            for first in range(0, len(batches), size):
                if first + rank < len(batches):
                    yield batches[first + rank]
                # The other processes are about as fast: count what all of them do in this round.
                task.advance(sum(len(batch) for batch in batches[first : first + size]))
        barrier()

    def write(
        self,
        batch: np.ndarray,
        tokens: Tensor,
        images: Iterable[Tensor] = (),
        trace: Trace | None = None,
        strips: Sequence[Mapping[str, bytes]] = (),
    ) -> None:
        """Store a batch: its images first, so that tokens that are there always have theirs.

        Args:
            batch: from :meth:`batches`.
            tokens: all rows of these images in order (rows, h, w).
            images: the images, uint8 (3, H, W), or none at all.
            trace: the sampler's steps, where they are stored.
            strips: files that show them, by suffix, for each image, or none at all.

        Raises:
            OutputError: the disk is full or not writable.
        """
        assert self._writer is not None
        stored = [StoredImage(png_bytes(image), pixels_digest(image.cpu().numpy())) for image in images]
        self._writer.write(batch, tokens.cpu().numpy(), stored, trace, strips)

    def read_image(self, position: int) -> Tensor:
        """A stored image, uint8 (3, H, W).

        Raises:
            ArtifactError: it is missing or damaged.
        """
        assert self._writer is not None
        return torch.from_numpy(read_png(self._writer.image_path(position))).permute(2, 0, 1)

    def finish_tokens(self) -> TokenFile | None:
        """The finished token file, after all batches: on rank 0 of a job that wasn't complete, else None.

        Raises:
            OutputError: the disk is full or not writable.
        """
        if self._writer is None or not world().main:
            return None
        return self._writer.finish_tokens()

    def finish(self, grid: Tensor, npz: bool = False) -> None:
        """Write what shows or holds all images, and mark the directory as complete, on rank 0.

        Args:
            grid: the image of all images, uint8 (3, H', W').
            npz: also write all images as one array.

        Raises:
            OutputError: the disk is full or not writable.
        """
        assert self._writer is not None
        self._writer.finish(self.record, png_bytes(grid), npz)
        self._claimed.finish()


@contextmanager
def open_job(
    out: Path,
    record: Mapping[str, Any],
    pipeline: Pipeline,
    contents: Contents,
    *,
    batch_size: int,
    overwrite: bool,
    reporter: Reporter,
) -> Iterator[Job]:
    """Begin or resume a sample directory; all processes leave the context together.

    Args:
        out: the directory.
        record: from :func:`~maskgit_cli.formats.samples.samples_record`.
        pipeline: the networks.
        contents: the images.
        batch_size: images per batch of each process.
        overwrite: replace finished samples, and unfinished ones of other settings.
        reporter: receives progress updates.

    Raises:
        OutputError: the directory holds something else, or cannot be written.
    """
    images = len(contents.indices)
    with claim_on_main(out, SAMPLES, record, overwrite, reporter) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
            yield Job(record, claimed, None, images, batch_size, reporter)
            return
        sampler, seed = recorded_sampler(record["settings"]["sampler"]), record["settings"]["seed"]
        settings = f"{sampler.method} sampler, {sampler}, seed {seed}"
        reporter.info(f"generating {counted(images, 'image')} into {out} ({settings})")
        writer = _open_writer(claimed.path, _token_meta(pipeline, record), contents)
        barrier()  # every process has seen what is to be done before any does some of it
        yield Job(record, claimed, writer, images, batch_size, reporter)
        barrier()


def _open_writer(out: Path, meta: TokenMeta, contents: Contents) -> SampleWriter:
    """Each process's own writer of the one directory; rank 0 creates the token file."""
    if not world().main:
        barrier()
    writer = SampleWriter(out, meta, *contents)
    if world().main:
        barrier()
    return writer


def _token_meta(pipeline: Pipeline, record: Mapping[str, Any]) -> TokenMeta:
    """The metadata of the token file."""
    model, tokenizer = pipeline.model, pipeline.tokenizer
    return TokenMeta(
        codebook_size=model.config.codebook_size,
        grid=model.config.grid,
        resolution=model.resolution,
        views="none",
        class_names=model.class_names,
        tokenizer=unicode_text(tokenizer.path.resolve().name),
        tokenizer_sha256=tokenizer.sha256,
        settings=record["settings"],
        parents=record["parents"],
    )
