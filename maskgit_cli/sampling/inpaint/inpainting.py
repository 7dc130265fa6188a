"""Stage ``inpaint``: draw parts of pictures anew, or more of them (arXiv 2310.14400, Figure 5).

Square windows that cover what is to be drawn are cut out, one after the other, scaled to the model's
resolution and tokenized; the codes of masked cells are drawn; the result is scaled back and pasted into
what is drawn only, so that every other pixel comes back bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.base import option, require
from maskgit_cli.config.inpaint import Box, InpaintConfig
from maskgit_cli.data.classes import NO_CLASS, find_label
from maskgit_cli.errors import ConfigError, InputError, MaskGITError, counted
from maskgit_cli.formats.atomic import parent, sha256_bytes, sha256_file
from maskgit_cli.formats.samples import SampleWriter, read_png, samples_digest, samples_record
from maskgit_cli.formats.tokens import TokenFile
from maskgit_cli.runtime.distributed import on_main
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.sampling.inpaint.manifests import read_manifest
from maskgit_cli.sampling.inpaint.painting import Painter, plan_edit, sampler_for
from maskgit_cli.sampling.inpaint.regions import Edit
from maskgit_cli.sampling.inpaint.sheets import SheetRow, inpaint_sheet
from maskgit_cli.sampling.inpaint.windows import Window, cells_to_draw
from maskgit_cli.sampling.job import Job, SamplerChoice, choose_sampler, fill_samples
from maskgit_cli.sampling.model import Generator, choose_model, load_generator
from maskgit_cli.sampling.samplers import check_steps

# What a manifest says line by line, and a call for one image by itself.
OF_ONE_IMAGE = ("box", "keep_box", "outpaint")


class Inpainted(NamedTuple):
    """What :func:`inpaint` did.

    Attributes:
        path: the sample directory.
        images: how many pictures it holds: variants, for each line of a manifest.
        tokens: how many codes were drawn for one variant of each.
        windows: the squares that the model worked on, for each line of a manifest or the one image, in
            pixels of the picture with what was added.
        model: the run or model directory.
        settings: all settings, resolved.
        resumed: whether an earlier call had done some of the work, or all of it.
    """

    path: Path
    images: int
    tokens: int
    windows: list[list[Window]]
    model: Path
    settings: dict[str, Any]
    resumed: bool


class Outline(NamedTuple):
    """What is known of an edit before it is drawn, small enough to keep for all of them.

    Attributes:
        windows: the squares that are drawn, in order.
        labels: class of each.
        unknown: number of codes drawn in each.
        digests: sha256 of the image, and of the mask if there is one.
    """

    windows: list[Window]
    labels: list[int]
    unknown: list[int]
    digests: list[str]


def inpaint(
    image: Path,
    model: Path | None = None,
    out: Path | None = None,
    mask: Path | None = None,
    config: InpaintConfig | None = None,
    sampler: SamplerChoice = None,
    *,
    batch_size: int = 16,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Inpainted:
    """Draw parts of a picture anew, in one or more variants, into a sample directory.

    Works in one process or in several that a launcher started.

    Args:
        image: a picture of any size that can be read, whose transparent parts are laid on white; or a
            manifest, a CSV of many pictures, see :mod:`~maskgit_cli.sampling.inpaint.manifests`.
        model: run or model directory; None is the newest run under ``runs/``, else the built-in model.
        out: the sample directory; None is ``samples/IMAGE-DIGEST`` with a digest of the settings.
        mask: a picture of the same size, white where it is drawn anew.
        config: what is drawn, and how it is pasted.
        sampler: settings of the sampler, or changes to the preset for the model's resolution. Where a
            window has fewer codes to draw than there are steps, it is drawn one code a step.
        batch_size: pictures drawn at a time by each process.
        device: where the networks run.
        dtype: precision of the transformer's matrix products.
        overwrite: replace finished samples, and unfinished ones of other settings.
        reporter: told of progress.

    Raises:
        ConfigError: a setting is out of range, a box isn't inside the picture, there is no such class, or
            nothing is to be drawn.
        InputError: the picture, mask or manifest cannot be read or used, or nothing is masked.
        ArtifactError: the model is incomplete, damaged, or gives NaN.
        OutputError: the directory holds something else, or cannot be written.
    """
    config = config or InpaintConfig()
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    if model is not None and model.is_file():
        raise InputError(f"{model} is a file, not a run or model directory: name the picture, then the model")
    edits = _read_edits(image, mask, config)
    generator = load_generator(choose_model(model, reporter), config.weights, device, dtype)
    outlines = on_main(lambda: [_outline(edit, image, generator, config) for edit in edits])
    job = _plan(generator, edits, outlines, config, sampler, reporter)
    parents = [*generator.parents(), *_parents(image, mask, edits, outlines)]
    record = samples_record("inpaint", _settings(job, edits, outlines, config), parents, len(job.indices))
    out = out or Path("samples") / f"{image.stem}-{samples_digest(record)}"
    painter = Painter(generator, edits, config, job.sampler)

    def sheet(writer: SampleWriter, _tokens: TokenFile) -> Tensor:
        return _sheet(painter, writer, config.n)

    resumed = fill_samples(
        out, record, job, painter.make, sheet, batch_size=batch_size, overwrite=overwrite, reporter=reporter
    )
    tokens = sum(sum(outline.unknown) for outline in outlines)
    windows = [outline.windows for outline in outlines]
    return Inpainted(
        out, len(job.indices), tokens, windows, generator.model.path, record["settings"], resumed
    )


# --- what is asked for ------------------------------------------------------------------------------


def _is_manifest(image: Path) -> bool:
    return image.suffix.lower() == ".csv"


def _read_edits(image: Path, mask: Path | None, config: InpaintConfig) -> list[Edit]:
    """The edits of a manifest, or the one of an image."""
    if not _is_manifest(image):
        own = (config.box, config.keep_box, config.outpaint, config.label, config.window, config.seed)
        return [Edit(image, mask, *own)]
    for name in OF_ONE_IMAGE:
        if getattr(config, name):
            raise ConfigError(f"{option(name)}: goes into the column {name!r} of {image}, line by line")
    if mask is not None:
        raise ConfigError(f"--mask: goes into the column 'mask' of {image}, line by line")
    return on_main(lambda: read_manifest(image, config))


def _outline(edit: Edit, source: Path, generator: Generator, config: InpaintConfig) -> Outline:
    """Find what is wrong with an edit before anything is drawn, and what it will take.

    Raises:
        MaskGITError: something is; the text names the manifest's line.
    """
    try:
        _, plan = plan_edit(edit, generator.model)
        grid, rule = generator.model.config.grid, config.mask_rule
        cells = [cells_to_draw(plan, i, grid, rule) for i in range(len(plan.windows))]
        unknown = [int(x.sum()) for x in cells]
        if not any(unknown):
            size = f"{grid}×{grid}"
            raise ConfigError(f"--mask-rule {rule}: none of the {size} cells is mostly masked; use any")
        files = [edit.image, *([edit.mask] if edit.mask is not None else [])]
        return Outline(plan.windows, plan.labels, unknown, [sha256_file(file) for file in files])
    except MaskGITError as error:
        if not edit.line:
            raise
        raise InputError(f"{source}: line {edit.line}: {error}") from None


def _plan(
    generator: Generator,
    edits: Sequence[Edit],
    outlines: Sequence[Outline],
    config: InpaintConfig,
    choice: SamplerChoice,
    reporter: Reporter,
) -> Job:
    """Resolve what depends on the model: the sampler, and the rows of codes of each picture."""
    model = generator.model
    labels = np.array([label for outline in outlines for _ in range(config.n) for label in outline.labels])
    sampler = choose_sampler(choice, model, bool((labels != NO_CLASS).any()))
    unknown = [count for outline in outlines for count in outline.unknown]
    for count in sorted(set(unknown) - {0}):  # some schedules can't have as many steps as a window has codes
        check_steps(sampler_for(sampler, count, NO_CLASS), count)
    _tell_of_steps(sampler, unknown, reporter)
    counts = np.array([len(outline.windows) for outline in outlines for _ in range(config.n)])
    names = [
        " ".join(filter(None, [f"{i:06d}", edits[i // config.n].name, f"{k}" if count > 1 else ""]))
        for i, count in enumerate(counts.tolist())
        for k in range(count)
    ]
    return Job(generator, np.arange(len(counts)), labels, sampler, config.seed, names, counts)


def _tell_of_steps(sampler: Any, unknown: Sequence[int], reporter: Reporter) -> None:
    """Say where there are fewer codes than steps, which then takes fewer steps."""
    steps = getattr(sampler, "steps", 0)  # not every sampler has them
    few = [count for count in unknown if 0 < count < steps]
    if few and len(unknown) == 1:
        reporter.info(f"{counted(few[0], 'code')} to draw: {counted(few[0], 'step')} instead of {steps}")
    elif few:
        what = f"{len(few)} of {len(unknown)} windows have fewer codes to draw than {steps} steps"
        reporter.info(f"{what}: one code a step there")


def _parents(
    image: Path, mask: Path | None, edits: Sequence[Edit], outlines: Sequence[Outline]
) -> list[dict[str, str]]:
    """The records of what was read; a manifest's stands for all images and masks that it names, too."""
    if _is_manifest(image):
        digests = [sha256_file(image), *(digest for outline in outlines for digest in outline.digests)]
        return [parent("manifest", image.resolve(), sha256_bytes("\n".join(digests).encode()))]
    files = [("image", image), *([("mask", mask)] if mask is not None else [])]
    digests = outlines[0].digests
    return [parent(kind, file.resolve(), digest) for (kind, file), digest in zip(files, digests, strict=True)]


def _settings(
    job: Job, edits: Sequence[Edit], outlines: Sequence[Outline], config: InpaintConfig
) -> dict[str, Any]:
    """Everything that the pictures depend on, as JSON values; what lines of a manifest say is in there."""
    model = job.generator.model
    label = NO_CLASS
    if config.label is not None:
        label = find_label(config.label, model.config.classes, model.class_names)

    def shown(boxes: tuple[Box, ...]) -> str | None:
        """As in a cell of a manifest, but with classes as numbers, which a model's names may share."""
        found = [
            box.label and str(find_label(box.label, model.config.classes, model.class_names)) for box in boxes
        ]
        return (
            "; ".join(str(box._replace(label=label)) for box, label in zip(boxes, found, strict=True)) or None
        )

    return {
        "n": config.n,
        "edits": len(edits),
        "windows": sum(len(outline.windows) for outline in outlines),
        "label": label,
        "box": shown(config.box),
        "keep_box": shown(config.keep_box),
        "outpaint": str(config.outpaint) if config.outpaint else None,
        "window": config.window,
        "mask_rule": config.mask_rule,
        "feather": config.feather,
        "weights": config.weights,
        "seed": config.seed,
        "dtype": str(job.generator.dtype).removeprefix("torch."),
        "sampler": job.sampler.describe(),
    }


def _sheet(painter: Painter, writer: SampleWriter, n: int) -> Tensor:
    """What the images were, what is drawn, and the variants."""

    def row(number: int, shown: int) -> SheetRow:
        pngs = [read_png(writer.image_path(number * n + i)) for i in range(shown)]
        drawn = [torch.from_numpy(png).permute(2, 0, 1) for png in pngs]  # (H, W, 3) -> (3, H, W)
        return SheetRow(painter.region(number), drawn, painter.edits[number].name)

    return inpaint_sheet(len(painter.edits), n, row)
