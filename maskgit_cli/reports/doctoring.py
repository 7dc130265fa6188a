"""Stage ``doctor``: whether a token file is worth a training, and what to change where it is not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.arguments import PathArgument, checked, optional_path
from maskgit_cli.config.base import require
from maskgit_cli.config.stages import DoctorConfig, random_views
from maskgit_cli.data.classes import readable_name
from maskgit_cli.data.images import views
from maskgit_cli.data.sources import ImageSource, open_source, recorded_images
from maskgit_cli.data.tokenizing import quality_warnings
from maskgit_cli.errors import ConfigError, InputError, WeightsError, counted
from maskgit_cli.figures.grids import png_bytes
from maskgit_cli.figures.sheets import captioned_sheet, stack_sheets
from maskgit_cli.formats.atomic import sha256_bytes, write_bytes
from maskgit_cli.formats.claim import Outcome, check_output, claim
from maskgit_cli.formats.models import find_tokenizer
from maskgit_cli.formats.tokens import TokenFile, open_tokens
from maskgit_cli.networks.inference import decode_tokens
from maskgit_cli.networks.loading import Tokenizer, load_tokenizer
from maskgit_cli.reports.comparing import SHEET, sheet_record
from maskgit_cli.runtime.distributed import resolve_device
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.scoring.perceptual import Perceptual, load_perceptual
from maskgit_cli.scoring.reconstruction import ReconstructionMeter, load_features

# Rows read at a time.
ROWS = 4096
# Fraction of the codebook below which most of it is not in use although there are tokens enough.
LOW_USAGE = 0.25
# Tokens per codebook entry from which on an unused entry is no accident of few images.
ENOUGH_TOKENS = 10
# Fraction of images that repeat another one, and ratio of the largest to the smallest class, that matter.
MANY_DUPLICATES, UNBALANCED = 0.01, 10
# Fraction of all tokens that one token may have: more is mostly a uniform background.
COMMON_TOKEN = 0.2
NAMES_LISTED = 3
COLUMNS = 8  # of the sheet


class Diagnosis(NamedTuple):
    """Result of :func:`diagnose`.

    Attributes:
        path: the sheet: originals, if they were found, and reconstructions below them.
        images: number of images.
        views: views of each.
        grid: tokens per side.
        resolution: pixels per side.
        skipped: number of images that could not be read.
        codebook_size: K.
        usage: fraction of the codebook that occurs.
        entropy_bits: entropy H of the tokens in bits; log2(K) if all entries were equally frequent.
        perplexity: 2^H, the number of entries that would have this entropy if they were equally frequent.
        most_common: the fraction of all tokens that the most frequent one has.
        duplicates: number of images whose tokens (of the first view) repeat those of an earlier one; None of
            random views, which differ in equal images.
        duplicate_names: the first of them, with the image that each repeats.
        classes: number of images of each class, by name.
        unlabeled: number of images without a class.
        psnr_recorded: mean PSNR in dB of the first images, as ``tokenize`` measured it, or None.
        psnr: mean PSNR in dB of ``measured`` images, or None where the originals are not here.
        ssim: mean structural similarity of the same images, of 11 px and more, or None.
        distances: of the same images, by name: ``lpips`` or ``st_lpips``, the mean perceptual distance;
            ``rfid`` or ``frechet_NAME``, the Fréchet distance between originals and reconstructions.
        measured: how many images were compared with their reconstructions.
        warnings: what promises poor samples.
    """

    path: Path
    images: int
    views: int
    grid: int
    resolution: int
    skipped: int
    codebook_size: int
    usage: float
    entropy_bits: float
    perplexity: float
    most_common: float
    duplicates: int | None
    duplicate_names: list[tuple[str, str]]
    classes: dict[str, int]
    unlabeled: int
    psnr_recorded: float | None
    psnr: float | None
    ssim: float | None
    distances: dict[str, float]
    measured: int
    warnings: list[str]

    def record(self) -> dict[str, Any]:
        """All but the path, as JSON has it; each distance under its own name."""
        values = self._asdict()
        del values["path"], values["distances"]
        return values | self.distances | {"duplicate_names": [list(pair) for pair in self.duplicate_names]}

    def lines(self) -> dict[str, str]:
        """Names and values for people."""
        bits = math.log2(self.codebook_size)
        found = {
            "images": f"{self.images:,}" + (f", {self.views} views of each" if self.views > 1 else ""),
            "tokens": f"{self.grid}×{self.grid} per view of {self.resolution} px",
            "codebook": f"{self.usage:.1%} of {self.codebook_size:,} entries in use",
            "entropy": f"{self.entropy_bits:.2f} of {bits:.2f} bits, perplexity {self.perplexity:,.0f}",
            "most common": f"one token has {self.most_common:.1%} of all places",
        }
        if self.duplicates is not None:
            pairs = [f"{name} = {first}" for name, first in self.duplicate_names]
            shown = f" ({', '.join(pairs)}{', ...' if self.duplicates > len(pairs) else ''})" if pairs else ""
            found["duplicates"] = f"{self.duplicates:,}{shown}"
        if self.classes:
            found["classes"] = f"{len(self.classes):,}, {_range(self.classes)}"
        if self.unlabeled:
            found["unlabeled"] = f"{self.unlabeled:,}"
        if self.skipped:
            found["skipped"] = f"{self.skipped:,} that could not be read"
        if self.psnr is not None:
            found["PSNR"] = f"{self.psnr:.2f} dB, of {counted(self.measured, 'image')}"
        elif self.psnr_recorded is not None:
            found["PSNR"] = f"{self.psnr_recorded:.2f} dB, as tokenize measured it"
        if self.ssim is not None:
            found["SSIM"] = f"{self.ssim:.4f}"
        return found | {_title(name): f"{value:.4f}" for name, value in self.distances.items()}


def _title(distance: str) -> str:
    """The name of a distance for people."""
    titles = {"lpips": "LPIPS", "st_lpips": "ST-LPIPS", "rfid": "rFID"}
    return titles.get(distance) or distance.replace("frechet_", "Fréchet distance, ")


@checked
def diagnose(
    tokens: PathArgument,
    out: PathArgument | None = None,
    config: DoctorConfig = DoctorConfig(),  # noqa: B008 (frozen)
    *,
    images: PathArgument | None = None,
    tokenizer: PathArgument | None = None,
    batch_size: int = 32,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Diagnosis:
    """Diagnose a token file, and show some of its images with their reconstructions.

    Args:
        tokens: the token file.
        out: PNG to write; None is ``NAME-doctor.png`` next to the token file.
        config: how many images are decoded and shown.
        images: the images that were tokenized; None looks where they were. Images that are not found are
            left out of the sheet.
        tokenizer: decodes the tokens; None finds it.
        batch_size: images decoded at a time.
        device: where the tokenizer runs.
        overwrite: replace an existing sheet.
        reporter: receives progress and warnings.

    Raises:
        ConfigError: a setting is out of range, or the images are too small for the perceptual distance.
        WeightsError: those of a perceptual distance or of features that are named are not available.
        InputError: ``images`` are given, and are not those that were tokenized.
        ArtifactError: the token file is damaged, or its tokenizer is not here.
        OutputError: the sheet exists or cannot be written.
    """
    path, images, tokenizer = Path(tokens), optional_path(images), optional_path(tokenizer)
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    out = optional_path(out) or path.with_name(f"{path.stem}-doctor.png")
    check_output(out, SHEET)
    target = resolve_device(device)
    file = open_tokens(path)
    found = find_tokenizer(file.meta.tokenizer_sha256, tokenizer, [path.parent / "tokenizer"])
    decoder = load_tokenizer(found, target)
    originals = _originals(file, images, reporter)
    meter = _meter(config, file.meta.resolution, target, reporter) if originals else ReconstructionMeter()
    counts = _token_counts(file, reporter)
    pairs = _pairs(file, decoder, originals, config, target, batch_size, reporter)
    _measure(pairs, meter, batch_size, reporter)
    diagnosis = _diagnosis(out, file, counts, meter)
    for warning in diagnosis.warnings:
        reporter.warn(warning)
    png = png_bytes(_sheet(pairs, config.shown))
    record = sheet_record(out, sha256_bytes(png))
    with claim(out, SHEET, record, overwrite=overwrite, warn=reporter.warn) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
        else:
            write_bytes(out, png)
    return diagnosis


def _range(classes: dict[str, int]) -> str:
    """The sizes of the smallest and the largest class, with their names."""
    (small, fewest), (large, most) = (f(classes.items(), key=lambda item: item[1]) for f in (min, max))
    if fewest == most:
        return f"of {counted(most, 'image')} each"
    return f"of {fewest:,} ({small}) to {most:,} ({large}) images"


# --- images and their reconstructions ---------------------------------------------------------------


class _Originals(NamedTuple):
    """The images of a token file, and the number of each in their listing by its row."""

    source: ImageSource
    numbers: np.ndarray


def _originals(tokens: TokenFile, images: Path | None, reporter: Reporter) -> _Originals | None:
    """The images that were tokenized; None, with the reason reported, where they are not here.

    Raises:
        InputError: ``images`` are given, and are others.
    """
    if images is None:
        try:
            images = recorded_images(tokens.path, tokens.meta, reporter)
        except InputError as error:
            reporter.info(f"no originals are shown: {error}; name them with --images")
            return None
    source = open_source(images, reporter=reporter)
    if source.names == tokens.names:  # also where names are not unique
        return _Originals(source, np.arange(len(tokens)))
    number_of = {name: i for i, name in enumerate(source.names)}
    missing = next((name for name in tokens.names if name not in number_of), None)
    if missing is not None:
        raise InputError(f"{images} has no image {missing}, which {tokens.path} has; name its images")
    return _Originals(source, np.array([number_of[name] for name in tokens.names]))


class _Pair(NamedTuple):
    """An image's name, its reconstruction uint8 (3, side, side), and the original or None."""

    name: str
    decoded: Tensor
    original: Tensor | None


def _pairs(
    tokens: TokenFile,
    decoder: Tokenizer,
    originals: _Originals | None,
    config: DoctorConfig,
    device: torch.device,
    batch_size: int,
    reporter: Reporter,
) -> list[_Pair]:
    """First views of images spread evenly over the file, and the originals of those that can be read."""
    count = min(len(tokens), config.n if originals else config.shown)
    rows = np.linspace(0, len(tokens) - 1, count).round().astype(np.int64)
    found = []
    with reporter.task("decode", count) as task:
        for batch in np.split(rows, range(batch_size, count, batch_size)):
            grids = torch.from_numpy(tokens.codes[batch, 0].astype(np.int64))  # (B, h, w)
            for row, image in zip(batch.tolist(), decode_tokens(decoder, grids, device), strict=True):
                found.append(_Pair(_caption(tokens, row), image, _original(tokens, originals, row)))
            task.advance(len(batch))
    return found


def _original(tokens: TokenFile, originals: _Originals | None, row: int) -> Tensor | None:
    """The first view of an image, uint8 (3, side, side), as it was tokenized."""
    if originals is None:
        return None
    meta, number = tokens.meta, int(originals.numbers[row])
    try:
        image = originals.source.open(number, meta.resolution)
        return views(image, meta.resolution, meta.views, meta.settings.get("seed", 0), number)[0]
    except InputError:  # it could be read when it was tokenized
        return None


def _caption(tokens: TokenFile, row: int) -> str:
    """Class and name of an image."""
    label = int(tokens.labels[row])
    name = Path(_name(tokens, row)).name
    return f"{_class_name(tokens, label)} {name}" if label >= 0 else name


def _name(tokens: TokenFile, row: int) -> str:
    """An image's name, or where it has none its row."""
    return tokens.names[row] or f"#{row}"


def _class_name(tokens: TokenFile, label: int) -> str:
    names = tokens.meta.class_names
    return readable_name(names[label]) if names else f"class {label}"


def _sheet(pairs: Sequence[_Pair], shown: int) -> Tensor:
    """Bands of a column per image: the original above its reconstruction, or the latter alone."""
    complete = [pair for pair in pairs if pair.original is not None] or list(pairs)
    places = np.linspace(0, len(complete) - 1, min(shown, len(complete))).round().astype(np.int64)
    chosen = [complete[i] for i in places]
    bands = []
    for first in range(0, len(chosen), COLUMNS):
        band = chosen[first : first + COLUMNS]
        rows = {"original": [pair.original for pair in band if pair.original is not None]}
        rows["decoded"] = [pair.decoded for pair in band]
        images = torch.stack([image for row in rows.values() for image in row])
        names, row_names = [pair.name for pair in band], [name for name, row in rows.items() if row]
        bands.append(captioned_sheet(images, len(band), headers=names, row_names=row_names))
    return stack_sheets(bands)


def _meter(config: DoctorConfig, side: int, device: torch.device, reporter: Reporter) -> ReconstructionMeter:
    """What measures reconstructions; ``auto`` downloads nothing, and is left out where there is nothing."""
    perceptual: Perceptual | None = None
    if config.perceptual != "none":
        named = config.perceptual != "auto"
        try:
            perceptual = load_perceptual(config.perceptual, side, device, reporter, download=named)
        except (WeightsError, ConfigError) as error:
            if named:
                raise
            reporter.info(f"no perceptual distance is measured. {error}")
    features = None if config.features is None else load_features(config.features, device, reporter)
    return ReconstructionMeter(device, perceptual, features)


def _measure(pairs: Sequence[_Pair], meter: ReconstructionMeter, batch_size: int, reporter: Reporter) -> None:
    """Measure the reconstructions of those originals that were read."""
    found = [(pair.original, pair.decoded) for pair in pairs if pair.original is not None]
    with reporter.task("measure", len(found)) as task:
        for first in range(0, len(found), batch_size):
            originals, decoded = zip(*found[first : first + batch_size], strict=True)
            meter.add(torch.stack(originals), torch.stack(decoded))
            task.advance(len(originals))


# --- counts -----------------------------------------------------------------------------------------


class _Counts(NamedTuple):
    """How often each token occurs (K,), and the rows that repeat an earlier one, with that one."""

    tokens: np.ndarray
    repeated: list[tuple[int, int]] | None


def _token_counts(tokens: TokenFile, reporter: Reporter) -> _Counts:
    """One pass over the tokens."""
    counts = np.zeros(tokens.meta.codebook_size, np.int64)
    first_of: dict[bytes, int] = {}
    repeated: list[tuple[int, int]] = []
    alike = random_views(tokens.meta.views) is None
    with reporter.task("count", len(tokens)) as task:
        for start in range(0, len(tokens), ROWS):
            rows = tokens.codes[start : start + ROWS]  # (B, V, h, w)
            counts += np.bincount(rows.ravel(), minlength=len(counts))
            for i, row in enumerate(rows[:, 0] if alike else (), start):
                first = first_of.setdefault(hashlib.blake2b(row, digest_size=16).digest(), i)
                repeated += [(i, first)] if first < i else []
            task.advance(len(rows))
    return _Counts(counts, repeated if alike else None)


def _diagnosis(out: Path, tokens: TokenFile, counts: _Counts, meter: ReconstructionMeter) -> Diagnosis:
    """All of the diagnosis, from what was read."""
    meta, total = tokens.meta, counts.tokens.sum()
    p = counts.tokens[counts.tokens > 0] / total
    bits = float(-(p * np.log2(p)).sum())
    labels, numbers = np.unique(tokens.labels[tokens.labels >= 0], return_counts=True)
    per_class = {_class_name(tokens, label): 0 for label in range(len(meta.class_names))}
    per_class |= {_class_name(tokens, int(i)): int(n) for i, n in zip(labels, numbers, strict=True)}
    measured = {name: round(value, 5) for name, value in meter.result().items()}
    psnr, ssim = measured.pop("psnr", None), measured.pop("ssim", None)
    repeated = counts.repeated
    found = Diagnosis(
        path=out,
        images=len(tokens),
        views=meta.row_shape[0],
        grid=meta.grid,
        resolution=meta.resolution,
        skipped=len(tokens.skipped),
        codebook_size=meta.codebook_size,
        usage=round(float((counts.tokens > 0).mean()), 4),
        entropy_bits=round(bits, 4),
        perplexity=round(2**bits, 2),
        most_common=round(float(p.max()), 4),
        duplicates=None if repeated is None else len(repeated),
        duplicate_names=[(_name(tokens, i), _name(tokens, j)) for i, j in (repeated or [])[:NAMES_LISTED]],
        classes=per_class,
        unlabeled=int((tokens.labels < 0).sum()),
        psnr_recorded=meta.psnr,
        psnr=None if psnr is None else round(psnr, 2),
        ssim=ssim,
        distances=measured,
        measured=meter.count,
        warnings=[],
    )
    return found._replace(warnings=list(_warnings(found, tokens)))


def _warnings(found: Diagnosis, tokens: TokenFile) -> Iterator[str]:
    """What promises poor samples."""
    measured = found.psnr_recorded if found.psnr is None else found.psnr
    yield from quality_warnings(tokens.meta, measured)
    size = found.codebook_size
    per_entry = found.images * found.views * found.grid**2 / size
    if found.usage < LOW_USAGE and per_entry >= ENOUGH_TOKENS:
        yield (
            f"only {found.usage:.1%} of the codebook is in use: the tokenizer was trained for other images, "
            "or its codebook has collapsed; `maskgit train-vqgan IMAGES --init-from TOKENIZER` adapts it"
        )
    if found.most_common > COMMON_TOKEN:
        yield (
            f"one token has {found.most_common:.0%} of all places, mostly that of a uniform background: "
            "sample with a higher --gumbel-temp where samples come out empty"
        )
    if found.duplicates is not None and found.duplicates > MANY_DUPLICATES * found.images:
        yield (
            f"{found.duplicates:,} of {found.images:,} images repeat another one: a model memorizes what "
            "it sees often; remove them"
        )
    empty = [name for name, count in found.classes.items() if not count]
    if empty:
        shown = ", ".join(empty[:NAMES_LISTED]) + (", ..." if len(empty) > NAMES_LISTED else "")
        yield f"{len(empty)} of {len(found.classes)} classes have no image and cannot be learned: {shown}"
    sizes = [count for count in found.classes.values() if count]
    if sizes and max(sizes) >= UNBALANCED * min(sizes):
        yield (
            f"the largest class has {max(sizes) / min(sizes):.0f} times as many images as the smallest: rare "
            "classes are learned poorly, and scores of samples of all classes equally often suffer"
        )
    if found.classes and found.unlabeled:
        yield f"{counted(found.unlabeled, 'image')} without a class train the unconditional model only"
