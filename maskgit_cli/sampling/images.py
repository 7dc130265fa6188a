"""Stage ``sample``: draw images from a run or model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.base import require
from maskgit_cli.config.stages import SampleConfig
from maskgit_cli.data.classes import labels_for, readable_name
from maskgit_cli.figures.animations import trace_pictures
from maskgit_cli.figures.sheets import captioned_sheet
from maskgit_cli.formats.atomic import sha256_bytes
from maskgit_cli.formats.samples import SampleWriter, read_png, samples_digest, samples_record
from maskgit_cli.formats.tokens import TokenFile
from maskgit_cli.networks.inference import decode_codes
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.sampling.job import Drawn, Job, SamplerChoice, choose_sampler, draw, fill_samples
from maskgit_cli.sampling.model import Generator, choose_model, load_generator
from maskgit_cli.sampling.samplers import check_steps
from maskgit_cli.sampling.tracing import Tracer

# Pictures on grid.png at most, and columns where its rows are not one class each.
GRID_IMAGES = 100
GRID_COLUMNS = 10


class Sampled(NamedTuple):
    """What :func:`sample` did.

    Attributes:
        path: the sample directory.
        images: how many pictures it holds.
        model: the run or model directory they were drawn from.
        settings: all settings, resolved.
        resumed: whether an earlier call had done some of the work, or all of it.
    """

    path: Path
    images: int
    model: Path
    settings: dict[str, Any]
    resumed: bool


def sample(
    model: Path | None = None,
    out: Path | None = None,
    config: SampleConfig | None = None,
    sampler: SamplerChoice = None,
    *,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Sampled:
    """Draw images into a sample directory, going on where an earlier, interrupted call stopped.

    Image i depends on the seed, i and the model alone. Works in one process or in several that a
    launcher started.

    Args:
        model: run or model directory; None is the newest run under ``runs/``, else the built-in model.
        out: the sample directory; None is ``samples/MODEL-DIGEST`` with a digest of the settings, so
            that the same call finds its own samples again.
        config: how many images, of which classes, and what is written.
        sampler: settings of the sampler, or changes to the preset for the model's resolution.
        batch_size: images drawn at a time by each process.
        device: where the networks run.
        dtype: precision of the transformer's matrix products.
        overwrite: replace finished samples, and unfinished ones of other settings.
        reporter: told of progress.

    Raises:
        ConfigError: a setting is out of range, there are more steps than tokens, or the model has no
            such class.
        InputError: nothing is at ``model``, or a file of labels cannot be read.
        ArtifactError: the model is incomplete, damaged, or gives NaN.
        OutputError: the directory holds something else, or cannot be written.
    """
    config = config or SampleConfig()
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    generator = load_generator(choose_model(model, reporter), config.weights, device, dtype)
    job = _plan(generator, config, sampler)
    record = samples_record("sample", _settings(job, config), generator.parents(), len(job.indices))
    out = out or Path("samples") / f"{generator.model.path.resolve().name}-{samples_digest(record)}"

    def render(codes: Tensor) -> Tensor:
        return decode_codes(generator.tokenizer, codes, generator.device)

    def make(pictures: np.ndarray) -> Drawn:
        if config.trace is not None:
            return _draw_traced(job, pictures, config.trace, None if config.format == "tokens" else render)
        codes = draw(job, pictures)
        return Drawn(codes, () if config.format == "tokens" else render(codes))

    def sheet(writer: SampleWriter, tokens: TokenFile) -> Tensor:
        """Up to 100 of the pictures, decoded anew where none were written."""
        rows, columns = grid_rows(job.labels)
        texts = sheet_texts(job.labels[rows], generator.model.class_names, columns)
        if config.format == "tokens":
            pixels = render(torch.from_numpy(tokens.codes[rows, 0].astype(np.int64)))
        else:
            pixels = torch.from_numpy(np.stack([read_png(writer.image_path(row)) for row in rows]))
            pixels = pixels.permute(0, 3, 1, 2)  # (N, H, W, 3) -> (N, 3, H, W)
        return captioned_sheet(pixels, columns, **texts)

    resumed = fill_samples(
        out,
        record,
        job,
        make,
        sheet,
        npz=config.format == "npz",
        batch_size=batch_size,
        overwrite=overwrite,
        reporter=reporter,
    )
    return Sampled(out, len(job.indices), generator.model.path, record["settings"], resumed)


def _draw_traced(
    job: Job, pictures: np.ndarray, animation: str, render: Callable[[Tensor], Tensor] | None
) -> Drawn:
    """Draw some pictures and keep what every step did; with ``render``, as pictures too."""
    model = job.generator.model
    tracer = Tracer(model.config.codebook_size)
    codes = draw(job, pictures, tracer)
    trace = tracer.trace()
    if render is None:
        return Drawn(codes, (), trace)
    strips = []
    for picture, steps, masks in zip(pictures, trace.codes, trace.masks, strict=True):
        name = class_text(int(job.labels[picture]), model.class_names)
        title = f"{job.indices[picture]:06d} {name}".rstrip()
        strips.append(
            trace_pictures(render(torch.from_numpy(steps.astype(np.int64))), masks, title, animation)
        )
    return Drawn(codes, render(codes), trace, strips)


def _plan(generator: Generator, config: SampleConfig, choice: SamplerChoice) -> Job:
    """Resolve what depends on the model: the sampler's preset and the classes."""
    model = generator.model
    classes = model.config.classes
    sampler = choose_sampler(choice, model, classes > 0)
    check_steps(sampler, model.config.grid**2)
    indices = np.arange(config.start, config.n if config.stop is None else config.stop)
    labels = labels_for(config.labels, indices, classes, model.class_names, config.seed)
    steps = getattr(sampler, "steps", model.config.grid**2) if config.trace else 0  # raster: one a code
    return Job(generator, indices, labels, sampler, config.seed, trace_steps=steps)


def _settings(job: Job, config: SampleConfig) -> dict[str, Any]:
    """Everything that the samples depend on, as JSON values."""
    return {
        "n": config.n,
        "range": [int(job.indices[0]), int(job.indices[-1]) + 1],
        "labels": config.labels,
        "labels_sha256": sha256_bytes(job.labels.astype("<i4").tobytes()),  # a file's lines may change
        "format": config.format,
        "trace": config.trace,
        "weights": config.weights,
        "seed": config.seed,
        "dtype": str(job.generator.dtype).removeprefix("torch."),
        "sampler": job.sampler.describe(),
    }


def grid_rows(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Which rows a sheet of up to 100 pictures shows, class after class, and in how many columns.

    Where the classes are few, each has a row of the sheet; else they follow one another.

    Args:
        labels: class numbers (N,).
    """
    order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    each = min(int(counts.min()), GRID_COLUMNS, GRID_IMAGES // len(counts))
    if len(counts) > 1 and each > 1:
        return np.concatenate([order[start : start + each] for start in first]), each
    chosen = np.sort(order[np.argsort(_turn(labels[order]), kind="stable")][:GRID_IMAGES])
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]
    return chosen, min(GRID_COLUMNS, max(1, round(len(chosen) ** 0.5)))


def sheet_texts(labels: np.ndarray, class_names: Sequence[str], columns: int) -> dict[str, Any]:
    """What stands beside the pictures of a sheet: names of classes, or their numbers.

    A class that all have is the title; where each row of the sheet has a class, it stands at its left,
    and else below every picture. Pictures without a class have no text.

    Args:
        labels: of the pictures, row by row (N,).
        class_names: of the model; none where its classes have numbers only.
        columns: pictures in a row.

    Returns:
        Arguments of :func:`~maskgit_cli.figures.sheets.captioned_sheet`.
    """
    if (labels < 0).any():
        return {}
    names = [class_text(label, class_names) for label in labels]
    if (labels == labels[0]).all():
        return {"title": names[0]}
    lines = [labels[start : start + columns] for start in range(0, len(labels), columns)]
    if columns > 1 and all((line == line[0]).all() for line in lines):
        return {"row_names": names[::columns]}
    return {"captions": names}


def class_text(label: int, class_names: Sequence[str]) -> str:
    """A class as people read it: its name, its number where it has none, nothing for no class."""
    if label < 0:
        return ""
    return readable_name(class_names[label]) if class_names else f"class {label}"


def _turn(grouped: np.ndarray) -> np.ndarray:
    """How many equal ones stand before each element of an array (N,) whose equals stand together."""
    starts = np.flatnonzero(np.diff(grouped, prepend=grouped[0] - 1))
    return np.arange(len(grouped)) - np.repeat(starts, np.diff(starts, append=len(grouped)))
