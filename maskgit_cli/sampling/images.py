"""Stage ``sample``: generate images with a run or model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.arguments import PathArgument, checked, optional_path
from maskgit_cli.config.base import require
from maskgit_cli.config.samplers import SamplerConfig
from maskgit_cli.config.stages import SampleConfig
from maskgit_cli.data.classes import labels_for, readable_name
from maskgit_cli.figures.sheets import captioned_sheet
from maskgit_cli.formats.atomic import sha256_bytes
from maskgit_cli.formats.samples import GRID_FILE, samples_digest, samples_record
from maskgit_cli.formats.tokens import TokenFile, Trace
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.sampling.job import Contents, Job, open_job
from maskgit_cli.sampling.model import (
    ModelArgument,
    Pipeline,
    SamplerChoice,
    choose_sampler,
    open_pipeline,
)
from maskgit_cli.sampling.samplers.registry import sample_tokens, step_counts
from maskgit_cli.sampling.tracing import Tracer, decoded_steps

# Maximum number of images in grid.png, and of its columns.
GRID_IMAGES = 100
GRID_COLUMNS = 10


class Sampled(NamedTuple):
    """The result of :func:`sample`.

    Attributes:
        path: the sample directory.
        images: how many it holds.
        model: the run or model directory.
        settings: all settings, resolved.
        resumed: whether an earlier call had done some of the work, or all of it.
    """

    path: Path
    images: int
    model: Path
    settings: dict[str, Any]
    resumed: bool

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_png_(self) -> bytes:
        """The grid, which a notebook shows."""
        return (self.path / GRID_FILE).read_bytes()


@checked
def sample(
    model: ModelArgument = None,
    out: PathArgument | None = None,
    config: SampleConfig | None = None,
    sampler: SamplerChoice = None,
    *,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Sampled:
    """Generate images into a sample directory, or resume an interrupted call.

    Image i depends on the seed, i and the model alone. Works in one process or in several that a
    launcher started.

    Args:
        model: run or model directory, ``"builtin"``, or an opened model; None is the newest run under
            ``runs/``, else the built-in model.
        out: the sample directory; None is ``samples/MODEL-DIGEST`` with a digest of the settings, so
            that the same call finds its own samples again.
        config: number of images, their classes, and the files to write.
        sampler: settings of the sampler, or changes to the model's own.
        batch_size: images per batch of each process.
        device: of the networks.
        dtype: precision of the transformer's matrix products.
        overwrite: replace finished samples, and unfinished ones of other settings.
        reporter: receives progress updates.

    Raises:
        ConfigError: a setting is out of range, there are more steps than tokens, or the model has no
            such class.
        InputError: nothing is at ``model``, or a file of labels cannot be read.
        ArtifactError: the model is incomplete, damaged, or returns NaN or infinite logits.
        OutputError: the directory holds something else, or cannot be written.
    """
    config = config or SampleConfig()
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    pipeline = open_pipeline(model, config.weights, device, dtype, reporter)
    sampler = choose_sampler(sampler, pipeline.model, pipeline.model.config.classes > 0)
    contents = plan_samples(pipeline, sampler, config)
    settings = _settings(pipeline, contents, sampler, config)
    record = samples_record("sample", settings, pipeline.parents(), len(contents.indices))
    out = (
        optional_path(out)
        or Path("samples") / f"{pipeline.model.path.resolve().name}-{samples_digest(record)}"
    )
    with open_job(
        out, record, pipeline, contents, batch_size=batch_size, overwrite=overwrite, reporter=reporter
    ) as job:
        for batch in job.batches():
            tokens, trace = sample_batch(pipeline, contents, batch, sampler, config)
            images = () if config.format == "tokens" else pipeline.decode(tokens)
            strips = _strips(pipeline, contents, batch, trace, config)
            job.write(batch, tokens, images, trace, strips)
        stored = job.finish_tokens()
        if stored is not None:
            grid = _grid(job, pipeline, contents.labels, stored if config.format == "tokens" else None)
            job.finish(grid, npz=config.format == "npz")
    return Sampled(out, len(contents.indices), pipeline.model.path, record["settings"], job.resumed)


def sample_batch(
    pipeline: Pipeline, contents: Contents, batch: np.ndarray, sampler: SamplerConfig, config: SampleConfig
) -> tuple[Tensor, Trace | None]:
    """The tokens (B, h, w) of some of the images by their position (B,), and the sampler's steps if asked."""
    tracer = Tracer(pipeline.mask_token) if config.trace else None
    labels, indices = (
        torch.from_numpy(x[batch]).to(pipeline.device) for x in (contents.labels, contents.indices)
    )
    tokens = sample_tokens(
        pipeline.predict, pipeline.masked(len(batch)), labels, indices, sampler, config.seed,
        pipeline.mask_token, tracer,
    )  # fmt: skip
    return tokens, tracer.trace() if tracer else None


def plan_samples(pipeline: Pipeline, sampler: SamplerConfig, config: SampleConfig) -> Contents:
    """The images to generate.

    Raises:
        ConfigError: the sampler cannot sample the model's grid, or the model has no such class.
        InputError: a file of labels cannot be read.
    """
    model = pipeline.model
    counts = step_counts(sampler, model.config.grid**2)
    indices = np.arange(config.start, config.n if config.stop is None else config.stop)
    labels = labels_for(config.labels, indices, model.config.classes, model.class_names, config.seed)
    steps = len(counts) if config.trace else 0
    return Contents(indices, labels, trace_steps=steps, pixels=config.format != "tokens")


def _settings(
    pipeline: Pipeline, contents: Contents, sampler: SamplerConfig, config: SampleConfig
) -> dict[str, Any]:
    """Everything that the samples depend on, as JSON values."""
    return {
        "n": config.n,
        "range": [int(contents.indices[0]), int(contents.indices[-1]) + 1],
        "labels": config.labels,
        "labels_sha256": sha256_bytes(contents.labels.astype("<i4").tobytes()),  # a file may change
        "format": config.format,
        "trace": config.trace,
        "weights": config.weights,
        "seed": config.seed,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "sampler": sampler.describe(),
    }


def _strips(
    pipeline: Pipeline, contents: Contents, batch: np.ndarray, trace: Trace | None, config: SampleConfig
) -> list[dict[str, bytes]]:
    """The files that show a batch's steps, for each image; none without a trace or without images."""
    if trace is None or config.trace is None or config.format == "tokens":
        return []
    titles = [
        f"{index:06d} {class_text(label, pipeline.model.class_names)}".rstrip()
        for index, label in zip(contents.indices[batch], contents.labels[batch], strict=True)
    ]
    return decoded_steps(pipeline, trace, titles, config.trace)


# --- the grid ---------------------------------------------------------------------------------------


def _grid(job: Job, pipeline: Pipeline, labels: np.ndarray, tokens: TokenFile | None) -> Tensor:
    """Up to :data:`GRID_IMAGES` images with their classes: uint8 (3, H', W').

    Args:
        job: has the images.
        pipeline: decodes tokens, and has the names of the classes.
        labels: class of each image (N,).
        tokens: where no images were written, the token file to decode.
    """
    rows, columns = grid_rows(labels)
    if tokens is not None:
        images = pipeline.decode(torch.from_numpy(tokens.codes[rows, 0].astype(np.int64)))
    else:
        images = torch.stack([job.read_image(row) for row in rows])
    return captioned_sheet(images, columns, **grid_texts(labels[rows], pipeline.model.class_names, columns))


def grid_rows(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Positions of the images that a grid of up to 100 shows, class by class, and its number of columns.

    With few classes each has a row of the grid; otherwise they follow one another.

    Args:
        labels: class numbers (N,).
    """
    order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    each = min(int(counts.min()), GRID_COLUMNS, GRID_IMAGES // len(counts))
    if len(counts) > 1 and each > 1:
        return np.concatenate([order[start : start + each] for start in first]), each
    chosen = np.sort(order[np.argsort(_occurrence(labels[order]), kind="stable")][:GRID_IMAGES])
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]
    return chosen, min(GRID_COLUMNS, max(1, round(len(chosen) ** 0.5)))


def _occurrence(grouped: np.ndarray) -> np.ndarray:
    """How many equal elements precede each one of an array (N,) whose equals are adjacent."""
    starts = np.flatnonzero(np.diff(grouped, prepend=grouped[0] - 1))
    return np.arange(len(grouped)) - np.repeat(starts, np.diff(starts, append=len(grouped)))


def grid_texts(labels: np.ndarray, class_names: Sequence[str], columns: int) -> dict[str, Any]:
    """The texts of a grid: names of classes, or their numbers.

    A class that all images have is the title; if each row of the grid has one class, it is left of the row;
    otherwise it is below each image. Images without a class have no text.

    Args:
        labels: of the images, row by row (N,).
        class_names: of the model; none where its classes have numbers only.
        columns: images per row.

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
    """A class as a grid shows it: its name, its number where it has none, nothing for no class."""
    if label < 0:
        return ""
    return readable_name(class_names[label]) if class_names else f"class {label}"
