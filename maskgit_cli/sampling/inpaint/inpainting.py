"""Stage ``inpaint``: inpaint or outpaint images (arXiv 2310.14400, Figure 5).

Square windows that cover the region to inpaint are cut out, one after the other, scaled to the model's
resolution and tokenized; the tokens of masked cells are sampled; the result is scaled back and pasted into
the region only, so that every other pixel stays bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from maskgit_cli.config.arguments import PathArgument, checked, optional_path
from maskgit_cli.config.base import option, require
from maskgit_cli.config.inpaint import Box, InpaintConfig
from maskgit_cli.config.samplers import SamplerConfig
from maskgit_cli.data.classes import NO_CLASS, find_label
from maskgit_cli.data.images import ImageArgument, ImageInput, image_input, read_image, upright_copy
from maskgit_cli.errors import ConfigError, InputError, MaskGITError, counted
from maskgit_cli.formats.atomic import parent, sha256_bytes, sha256_file
from maskgit_cli.formats.samples import GRID_FILE, pixels_digest, samples_digest, samples_record
from maskgit_cli.networks.loading import Model
from maskgit_cli.runtime.distributed import on_main
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.sampling.inpaint.fill import Variants, cells_to_sample, fill_windows, plan_edit
from maskgit_cli.sampling.inpaint.manifests import read_manifest
from maskgit_cli.sampling.inpaint.regions import Edit
from maskgit_cli.sampling.inpaint.sheets import SheetRow, inpaint_sheet, shown_on_sheet
from maskgit_cli.sampling.inpaint.windows import Window
from maskgit_cli.sampling.job import Contents, Job, open_job
from maskgit_cli.sampling.model import (
    ModelArgument,
    Pipeline,
    SamplerChoice,
    choose_sampler,
    open_pipeline,
)
from maskgit_cli.sampling.samplers.registry import step_counts

# Settings of a single image, which a manifest has as columns.
OF_ONE_IMAGE = ("box", "keep_box", "outpaint")


class Inpainted(NamedTuple):
    """The result of :func:`inpaint`.

    Attributes:
        path: the sample directory.
        images: how many it holds: the variants of each edit.
        tokens: number of sampled tokens in one variant of each edit.
        windows: the windows of each edit, in pixels of the image with its added borders.
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

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_png_(self) -> bytes:
        """The sheet, which a notebook shows."""
        return (self.path / GRID_FILE).read_bytes()


class Plan(NamedTuple):
    """The work of a call.

    Attributes:
        summaries: of the edits.
        contents: the variants, and the rows of tokens of their windows.
        sampler: settings for all windows.
    """

    summaries: list[EditSummary]
    contents: Contents
    sampler: SamplerConfig


class EditSummary(NamedTuple):
    """The extent of an edit, small enough to keep for all edits of a manifest.

    Attributes:
        windows: the windows, in order.
        labels: class of each.
        masked: number of tokens to sample in each.
        digests: sha256 of the image, and of the mask if there is one: of the file, or of the pixels of one in
            memory.
    """

    windows: list[Window]
    labels: list[int]
    masked: list[int]
    digests: list[str]


@checked
def inpaint(
    image: ImageArgument,
    model: ModelArgument = None,
    out: PathArgument | None = None,
    mask: ImageArgument | None = None,
    config: InpaintConfig | None = None,
    sampler: SamplerChoice = None,
    *,
    batch_size: int = 16,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Inpainted:
    """Inpaint or outpaint an image, in one or more variants, into a sample directory.

    Works in one process or in several that a launcher started.

    Args:
        image: a readable image of any size, whose transparent parts become white; or a manifest, a CSV of
            many images, see :mod:`~maskgit_cli.sampling.inpaint.manifests`; or an image in memory, see
            :data:`~maskgit_cli.data.images.ImageArgument`.
        model: run or model directory, ``"builtin"``, or an opened model; None is the newest run under
            ``runs/``, else the built-in model.
        out: the sample directory; None is ``samples/IMAGE-DIGEST`` with a digest of the settings.
        mask: an image of the same size, white (True) where it is inpainted.
        config: the region, and how the result is pasted.
        sampler: settings of the sampler, or changes to the model's own. A window with fewer masked
            tokens than steps has one token per step.
        batch_size: images per batch of each process.
        device: of the networks.
        dtype: precision of the transformer's matrix products.
        overwrite: replace finished samples, and unfinished ones of other settings.
        reporter: receives progress updates.

    Raises:
        ConfigError: a setting is out of range, a box isn't inside the image, there is no such class, or
            the region is empty.
        InputError: the image, mask or manifest cannot be read or used, or nothing is masked.
        ArtifactError: the model is incomplete, damaged, or returns NaN or infinite logits.
        OutputError: the directory holds something else, or cannot be written.
    """
    config = config or InpaintConfig()
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    if model is not None and Path(model).is_file():
        raise InputError(f"{model} is a file, not a run or model directory: the image comes first")
    source = image_input(image, "image")
    mask_source = None if mask is None else image_input(mask, "mask")
    edits = _read_edits(source, mask_source, config)
    pipeline = open_pipeline(model, config.weights, device, dtype, reporter)
    summaries, contents, sampler = plan_edits(pipeline, edits, source, config, sampler, reporter)
    settings = _settings(pipeline, edits, summaries, config, sampler)
    parents = [*pipeline.parents(), *_parents(source, mask_source, summaries)]
    record = samples_record("inpaint", settings, parents, len(contents.indices))
    out = optional_path(out) or Path("samples") / f"{_path_of(source).stem}-{samples_digest(record)}"
    variants = Variants(edits, pipeline.model, config)
    with open_job(
        out, record, pipeline, contents, batch_size=batch_size, overwrite=overwrite, reporter=reporter
    ) as job:
        for batch in job.batches():
            inpainted = [variants[position] for position in batch.tolist()]
            tokens = fill_windows(pipeline, inpainted, config.mask_rule, sampler)
            job.write(batch, tokens, [variant.image for variant in inpainted])
        if job.finish_tokens() is not None:
            job.finish(inpaint_sheet(_sheet_rows(job, variants)))
    total = sum(sum(summary.masked) for summary in summaries)
    windows = [summary.windows for summary in summaries]
    return Inpainted(out, job.images, total, windows, pipeline.model.path, record["settings"], job.resumed)


def _sheet_rows(job: Job, variants: Variants) -> list[SheetRow]:
    """The images on the sheet: before, and their stored variants."""
    n = variants.config.n
    images, shown = shown_on_sheet(len(variants.edits), n)
    return [
        SheetRow(
            variants.region(number),
            [job.read_image(number * n + i) for i in range(shown)],
            variants.edits[number].name,
        )
        for number in range(images)
    ]


# --- the edits and what they need -------------------------------------------------------------------


def plan_edits(
    pipeline: Pipeline,
    edits: Sequence[Edit],
    source: ImageInput,
    config: InpaintConfig,
    sampler: SamplerChoice,
    reporter: Reporter,
) -> Plan:
    """Check the edits of an image or manifest, and choose the sampler's settings for all windows.

    Raises:
        ConfigError, InputError: as :func:`inpaint`.
    """
    summaries = on_main(lambda: [_summarize(edit, source, pipeline.model, config) for edit in edits])
    contents = _contents(edits, summaries, config.n)
    chosen = choose_sampler(sampler, pipeline.model, bool((contents.labels != NO_CLASS).any()))
    _check_steps(chosen, [count for summary in summaries for count in summary.masked], reporter)
    return Plan(summaries, contents, chosen)


def _path_of(image: ImageInput) -> Path:
    """The path of an image, or what stands for one of an image in memory."""
    return image if isinstance(image, Path) else Path("memory")


def _is_manifest(image: ImageInput) -> TypeGuard[Path]:
    return isinstance(image, Path) and image.suffix.lower() == ".csv"


def edit_of(image: ImageInput, mask: ImageInput | None, config: InpaintConfig) -> Edit:
    """The edit of one image that the settings describe."""
    own = (config.box, config.keep_box, config.outpaint, config.label, config.window, config.seed)
    return Edit(image, mask, *own, mask_threshold=config.mask_threshold)


def _read_edits(image: ImageInput, mask: ImageInput | None, config: InpaintConfig) -> list[Edit]:
    """The edits of a manifest, or the one of an image."""
    if not _is_manifest(image):
        edits = [edit_of(image, mask, config)]
        _check_threshold_used(edits, config)
        return edits
    for name in OF_ONE_IMAGE:
        if getattr(config, name):
            raise ConfigError(f"{option(name)}: belongs into the column {name!r} of {image}")
    if mask is not None:
        raise ConfigError(f"--mask: belongs into the column 'mask' of {image}")
    edits = on_main(lambda: read_manifest(image, config))
    _check_threshold_used(edits, config)
    return edits


def _check_threshold_used(edits: Sequence[Edit], config: InpaintConfig) -> None:
    """Refuse a threshold without a mask; who gives one has forgotten the mask.

    Raises:
        ConfigError: the threshold would have no effect.
    """
    if config.mask_threshold is not None and all(edit.mask is None for edit in edits):
        raise ConfigError(f"--mask-threshold {config.mask_threshold}: there is no mask that it applies to")


def _digest(image: ImageInput) -> str:
    """The sha256 of a file, or of the pixels of an image in memory, and of their opacity if it has one."""
    if isinstance(image, Path):
        return sha256_file(image)
    pixels = pixels_digest(read_image(image).numpy())
    if not image.image.has_transparency_data:
        return pixels.hex()
    return sha256_bytes(pixels + upright_copy(image.image).convert("RGBA").getchannel("A").tobytes())


def _summarize(edit: Edit, source: ImageInput, model: Model, config: InpaintConfig) -> EditSummary:
    """Check an edit before anything is generated, and measure it.

    Raises:
        MaskGITError: it is impossible; the text names the manifest's line.
    """
    try:
        _, plan = plan_edit(edit, model)
        grid, rule = model.config.grid, config.mask_rule
        cells = [cells_to_sample(plan, i, grid, rule) for i in range(len(plan.windows))]
        masked = [int(x.sum()) for x in cells]
        if not any(masked):
            size = f"{grid}×{grid}"
            raise ConfigError(f"--mask-rule {rule}: no cell of the {size} is mostly masked; use any")
        files = [edit.image, *([edit.mask] if edit.mask is not None else [])]
        return EditSummary(plan.windows, plan.labels, masked, [_digest(file) for file in files])
    except MaskGITError as error:
        if not edit.line:
            raise
        raise InputError(f"{source}: line {edit.line}: {error}") from None


def _contents(edits: Sequence[Edit], summaries: Sequence[EditSummary], n: int) -> Contents:
    """The variants, and the rows of tokens of their windows."""
    labels = np.array([label for summary in summaries for _ in range(n) for label in summary.labels])
    counts = np.array([len(summary.windows) for summary in summaries for _ in range(n)])
    names = [
        " ".join(filter(None, [f"{i:06d}", edits[i // n].name, f"{k}" if count > 1 else ""]))
        for i, count in enumerate(counts.tolist())
        for k in range(count)
    ]
    return Contents(np.arange(len(counts)), labels, names, counts)


def _check_steps(sampler: SamplerConfig, masked: Sequence[int], reporter: Reporter) -> None:
    """Refuse settings that cannot sample a window, and report windows that need fewer steps than set.

    Args:
        sampler: settings for all windows.
        masked: number of masked tokens of each window.
        reporter: receives the message.

    Raises:
        ConfigError: the sampler cannot sample that many tokens, whatever its number of steps.
    """
    steps = {
        count: len(step_counts(sampler.limited(steps=count), count)) for count in sorted(set(masked) - {0})
    }
    fewer = [count for count in masked if count and sampler.limited(steps=count) != sampler]
    if fewer and len(masked) == 1:
        tokens = counted(fewer[0], "token")
        reporter.info(f"{tokens} to sample: {counted(steps[fewer[0]], 'step')}, fewer than --steps")
    elif fewer:
        what = f"{len(fewer)} of {len(masked)} windows have fewer tokens to sample than --steps"
        reporter.info(f"{what}: one token per step there")


def _parents(
    image: ImageInput, mask: ImageInput | None, summaries: Sequence[EditSummary]
) -> list[dict[str, str]]:
    """The input files as parents; a manifest's digest covers all images and masks that it names, too."""
    if _is_manifest(image):
        digests = [sha256_file(image), *(digest for summary in summaries for digest in summary.digests)]
        return [parent("manifest", image.resolve(), sha256_bytes("\n".join(digests).encode()))]
    files = [("image", image), *([("mask", mask)] if mask is not None else [])]
    digests = summaries[0].digests
    return [
        parent(kind, _path_of(file).resolve(), digest)
        for (kind, file), digest in zip(files, digests, strict=True)
    ]


def _settings(
    pipeline: Pipeline,
    edits: Sequence[Edit],
    summaries: Sequence[EditSummary],
    config: InpaintConfig,
    sampler: SamplerConfig,
) -> dict[str, Any]:
    """Everything that the images depend on besides the parents, as JSON values."""
    model = pipeline.model
    label = NO_CLASS
    if config.label is not None:
        label = find_label(config.label, model.config.classes, model.class_names)
    return {
        "n": config.n,
        "edits": len(edits),
        "windows": sum(len(summary.windows) for summary in summaries),
        "label": label,
        "box": _boxes_text(config.box, model),
        "keep_box": _boxes_text(config.keep_box, model),
        "outpaint": str(config.outpaint) if config.outpaint else None,
        "window": config.window,
        "mask_threshold": config.mask_threshold,
        "mask_rule": config.mask_rule,
        "feather": config.feather,
        "weights": config.weights,
        "seed": config.seed,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "sampler": sampler.describe(),
    }


def _boxes_text(boxes: Sequence[Box], model: Model) -> str | None:
    """Boxes as in a cell of a manifest, with classes as numbers, as two classes may share a name."""
    found = [
        None if box.label is None else str(find_label(box.label, model.config.classes, model.class_names))
        for box in boxes
    ]
    texts = [str(box._replace(label=label)) for box, label in zip(boxes, found, strict=True)]
    return "; ".join(texts) or None
