"""What ``sample`` and ``inpaint`` share: pictures drawn batch by batch into a sample directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.samplers import PRESETS, SamplerConfig, changed, preset_for
from maskgit_cli.errors import counted
from maskgit_cli.figures.grids import png_bytes
from maskgit_cli.formats.samples import SampleWriter, settle_samples
from maskgit_cli.formats.tokens import TokenFile, TokenMeta, Trace
from maskgit_cli.networks.inference import arithmetic_device
from maskgit_cli.networks.loading import Model
from maskgit_cli.runtime.distributed import barrier, broadcast_object, world
from maskgit_cli.runtime.progress import Reporter
from maskgit_cli.sampling.model import Generator
from maskgit_cli.sampling.samplers import Step, draw_samples

# Settings of a sampler, or changes to the model's own preset; "method" among them picks another sampler.
SamplerChoice = SamplerConfig | Mapping[str, Any] | None


class Drawn(NamedTuple):
    """Some pictures of a job.

    Attributes:
        codes: of all their rows in order (rows, h, w).
        images: the pictures uint8 (3, H, W), or none at all.
        trace: what the sampler did to each row, where that is kept.
        strips: pictures of that, files by their suffix for each picture, or none at all.
    """

    codes: Tensor
    images: Iterable[Tensor] = ()
    trace: Trace | None = None
    strips: Sequence[Mapping[str, bytes]] = ()


# Draws some pictures (B,) of a job.
Make = Callable[[np.ndarray], Drawn]


class Job(NamedTuple):
    """What is drawn.

    Attributes:
        generator: the networks.
        indices: number of each picture in the whole set (N,).
        labels: class of each row of codes (R,), -1 for none.
        sampler: settings of the sampler.
        seed: of every random number.
        names: of the rows of codes (R,); None is the pictures' numbers.
        counts: how many rows of codes each picture has (N,); None is one.
        trace_steps: S where the sampler's steps are kept, else 0.
    """

    generator: Generator
    indices: np.ndarray
    labels: np.ndarray
    sampler: SamplerConfig
    seed: int
    names: Sequence[str] | None = None
    counts: np.ndarray | None = None
    trace_steps: int = 0


def choose_sampler(choice: SamplerChoice, model: Model, guided: bool = True) -> SamplerConfig:
    """The sampler's settings for a model.

    A model is sampled with the settings in its record. Without any, its network is sampled as it was
    published: the paper's with the preset for its resolution, Halton-MaskGIT's and Google's with their
    own samplers.

    Args:
        choice: all settings, changes to those of the model, or None for none. Among changes, ``method``
            names another sampler, a key of :data:`~maskgit_cli.config.samplers.SAMPLERS`, whose preset for
            the model's resolution is changed then.
        model: what is sampled.
        guided: whether the pictures have a class. Without one, guidance would compare the network with
            itself, which costs a pass and changes nothing but the last bits, so it is left out.

    Raises:
        ConfigError: a change is out of range or unknown to the sampler, or guidance is asked of a network
            that has none, or for pictures without a class.
    """
    if not isinstance(choice, SamplerConfig):
        changes = dict(choice or {})
        method = changes.pop("method", None)
        if model.sampler is not None and method in (None, model.sampler.method):
            base = model.sampler
        else:
            base = PRESETS[preset_for(model.resolution, method or model.config.sampler)]
        asked = changes.get("cfg", 0)
        choice = changed(base, changes)
        require(guided or not asked, "cfg", f"{asked:g}", "0: the pictures have no class to guide by")
    else:
        asked = choice.cfg
    if not model.config.drops_labels:
        require(asked == 0, "cfg", asked, "0: this network was trained with a class for every image")
        guided = False
    return choice if guided else dataclasses.replace(choice, cfg=0.0)


def blank_canvas(generator: Generator) -> Tensor:
    """A canvas (h, w) on which nothing is known."""
    sizes = generator.model.config
    return torch.full((sizes.grid, sizes.grid), sizes.codebook_size)


def draw(job: Job, rows: np.ndarray, on_step: Callable[[Step], None] | None = None) -> Tensor:
    """Codes (B, h, w) of some pictures (B,) of a job, each with one row of codes, all of them unknown.

    Args:
        job: what is drawn.
        rows: the pictures.
        on_step: called after each step of the sampler.

    Raises:
        ConfigError: there are more steps than codes to draw.
        ArtifactError: the model gives NaN.
    """
    place = arithmetic_device(job.generator.device)
    canvas = blank_canvas(job.generator).to(place).expand(len(rows), -1, -1)
    labels, indices = (torch.from_numpy(x[rows]).to(place) for x in (job.labels, job.indices))
    mask_code = job.generator.model.config.codebook_size
    return draw_samples(
        job.generator.predict, canvas, labels, indices, job.sampler, job.seed, mask_code, on_step
    )


def fill_samples(
    out: Path,
    record: Mapping[str, Any],
    job: Job,
    make: Make,
    sheet: Callable[[SampleWriter, TokenFile], Tensor],
    *,
    npz: bool = False,
    batch_size: int,
    overwrite: bool,
    reporter: Reporter,
) -> bool:
    """Draw a job into a sample directory, going on where an earlier, interrupted call stopped.

    Works in one process or in several that a launcher started.

    Args:
        out: the sample directory.
        record: from :func:`~maskgit_cli.formats.samples.samples_record`.
        job: what is drawn.
        make: draws some of the pictures.
        sheet: makes the picture uint8 (3, H, W) that shows them all.
        npz: also write all pictures as one array.
        batch_size: pictures drawn at a time by each process.
        overwrite: replace finished samples, and unfinished ones of other settings.
        reporter: told of progress.

    Returns:
        Whether an earlier call had done some of the work, or all of it.

    Raises:
        ConfigError: the batch size is out of range.
        ArtifactError: the model gives NaN.
        OutputError: the directory holds something else, or cannot be written.
    """
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    complete = settle_samples(out, record, overwrite) if world().main else False
    if broadcast_object(complete):
        reporter.info(f"{out} is complete already; pass --overwrite to draw it anew")
        return True
    words = f"{job.sampler.method} sampler, {job.sampler}, seed {job.seed}"
    reporter.info(f"drawing {counted(len(job.indices), 'image')} into {out} ({words})")
    writer = _shared_writer(out, _describe(job, record), job)
    resumed = len(writer.todo) < len(job.indices)
    barrier()  # every process has seen what is to do before any does some of it
    _draw_all(job, writer, make, batch_size, reporter)
    barrier()
    if world().main:
        tokens = writer.finish_tokens()
        writer.finish(record, png_bytes(sheet(writer, tokens)), npz)
    barrier()
    return resumed


def _describe(job: Job, record: Mapping[str, Any]) -> TokenMeta:
    """What the token file says of itself."""
    model, tokenizer = job.generator.model, job.generator.tokenizer
    return TokenMeta(
        codebook_size=model.config.codebook_size,
        grid=model.config.grid,
        resolution=model.resolution,
        views="none",
        class_names=model.class_names,
        tokenizer=tokenizer.path.resolve().name,
        tokenizer_sha256=tokenizer.sha256,
        settings=record["settings"],
        parents=record["parents"],
    )


def _shared_writer(out: Path, meta: TokenMeta, job: Job) -> SampleWriter:
    """Every process's own writer of the one directory; the first process begins it."""
    if not world().main:
        barrier()
    writer = SampleWriter(out, meta, job.indices, job.labels, job.names, job.counts, job.trace_steps)
    if world().main:
        barrier()
    return writer


def _draw_all(job: Job, writer: SampleWriter, make: Make, batch_size: int, reporter: Reporter) -> None:
    """Draw this process's share of the pictures not done yet: every ``world().size``-th batch."""
    rank, size = world()
    batches = [writer.todo[i : i + batch_size] for i in range(0, len(writer.todo), batch_size)]
    total = len(job.indices)
    with reporter.task("draw", total, total - len(writer.todo)) as task:
        for first in range(0, len(batches), size):
            if first + rank < len(batches):
                pictures = batches[first + rank]
                codes, images, trace, strips = make(pictures)
                pngs = [png_bytes(image) for image in images]
                writer.write(pictures, codes.cpu().numpy(), pngs, trace, strips)
            # The others are about as fast, so what all do in this round is told at once.
            task.advance(sum(len(pictures) for pictures in batches[first : first + size]))
