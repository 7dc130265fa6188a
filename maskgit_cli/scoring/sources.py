"""Sources of ``fid`` and ``fid-stats``: images or statistics, as statistics in one feature space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from maskgit_cli.config.features import EXTRACTORS, ExtractorEntry, FeatureSpace, extractor_of
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.data.classes import readable_name
from maskgit_cli.data.sources import ImageSource, open_source
from maskgit_cli.data.sources.npz import NpzImages
from maskgit_cli.data.sources.samples import is_sample_directory
from maskgit_cli.errors import ArtifactError, ConfigError, InputError
from maskgit_cli.formats.atomic import parent
from maskgit_cli.formats.feature_statistics import Statistics, holds_statistics, read_statistics
from maskgit_cli.formats.npz import npz_names
from maskgit_cli.formats.samples import SCORES_FILE, TOKENS_FILE, read_record
from maskgit_cli.runtime.progress import Reporter
from maskgit_cli.scoring.extraction import extract, pixels_sha256
from maskgit_cli.scoring.features import FeatureExtractor, Resources, load_extractor


class Source(NamedTuple):
    """A path and its content.

    Attributes:
        path: where it is stored.
        content: its statistics, or the images to extract features from.
        images: images next to the statistics, as in ADM's reference batches: metrics that need every image's
            features use these.
    """

    path: Path
    content: Statistics | ImageSource
    images: ImageSource | None = None


class SourceStatistics(NamedTuple):
    """Statistics of a source, and its description in the scores.

    Attributes:
        statistics: of all images.
        record: kind, name, digests and number of images.
        sizes: number of images of each (height, width); empty for stored statistics.
        settings: of the sampler, for a sample directory.
        digests: number of images of each sha256 of pixels; empty for stored statistics, as are the next two.
        classes: number of images of each class, by its readable name.
        tokenizer_sha256: of the tokenizer that decoded the images.
    """

    statistics: Statistics
    record: dict[str, Any]
    sizes: Counter[tuple[int, int]]
    settings: dict[str, Any] | None = None
    digests: Counter[bytes] = Counter()  # noqa: RUF012 (never changed)
    classes: Counter[str] = Counter()  # noqa: RUF012
    tokenizer_sha256: str | None = None


# --- paths ------------------------------------------------------------------------------------------


def newest_samples(root: Path = Path("samples")) -> Path:
    """The newest finished result of ``sample``: ``root`` or a directory in it, by its token file's time.

    Inpainted images are not samples of the model's distribution, so their directories are skipped.

    Raises:
        InputError: there is none.
    """
    folders = [folder for folder in (root, *root.glob("[!.]*")) if (folder / TOKENS_FILE).is_file()]
    found = [f for f in folders if is_sample_directory(f) and read_record(f).get("stage") == "sample"]
    if not found:
        raise InputError(f"no sample directory under {root}/; name one, or make one with `maskgit sample`")
    return max(found, key=lambda folder: ((folder / TOKENS_FILE).stat().st_mtime_ns, folder))


def scores_path(samples: Path) -> Path:
    """The default path of scores: in a sample directory, else next to the source, never among images."""
    if is_sample_directory(samples):
        return samples / SCORES_FILE
    whole = samples if samples.name not in ("", "..") else samples.resolve()
    return whole.parent / f"{whole.name if whole.is_dir() else whole.stem}.{SCORES_FILE}"


# --- sources to statistics --------------------------------------------------------------------------


def read_source(source: Path | ImageSource, resources: Resources) -> Source:
    """Read a statistics file, or open any other source of images, unless it is opened already.

    Raises:
        InputError: the path does not exist, or contains no images.
        ArtifactError: an artifact is unfinished or damaged.
    """
    path = source if isinstance(source, Path) else source.origin.path
    if path is source and path.suffix.lower() == ".npz" and not path.is_dir() and holds_statistics(path):
        statistics = read_statistics(path)
        try:
            if statistics.space is not None:
                extractor_of(statistics.space)
        except ConfigError as error:
            raise ArtifactError(f"{path}: {error}") from None
        batch = NpzImages(path) if "arr_0" in npz_names(path) else None
        return Source(path, statistics, batch)
    images = source
    if isinstance(images, Path):
        images = open_source(images, resources.tokenizer, resources.device, resources.reporter)
    if len(images) < 2:
        raise InputError(f"{path}: contains one image; a covariance needs two or more")
    return Source(path, images)


class Comparison(NamedTuple):
    """How sources are compared.

    Attributes:
        space: the feature space of all sources.
        extractor: of the space; None if all sources are statistics.
        exact: whether the resolution is that of the samples, so that samples of another size are a mistake.
    """

    space: FeatureSpace
    extractor: FeatureExtractor | None
    exact: bool


def common_space(
    sources: Sequence[Source], config: ScoreConfig, resources: Resources, extracts: bool = False
) -> Comparison:
    """How sources are compared.

    Args:
        sources: of a comparison or a merge. Among several tokenizers, the last source's defines the space.
        config: extractor, protocol and resolution.
        resources: files of the extractor.
        extracts: whether features of all sources' images are extracted, also of those next to statistics.

    Raises:
        ConfigError: the extractor does not support the protocol, its space is unknown, the resolution is not
            given where it must be, or a file is given that nothing is computed with.
        ArtifactError: statistics are of another space, protocol or resolution, or do not name their space and
            neither does the configuration.
        WeightsError, InputError: as :func:`~maskgit_cli.scoring.features.load_extractor`.
    """
    stored = [(s.path, s.content) for s in sources if isinstance(s.content, Statistics)]
    _check_named(stored, config)
    entry = extractor_entry(sources, config)
    if config.protocol not in entry.protocols:
        names = [e.name for e in EXTRACTORS.values() if config.protocol in e.protocols]
        raise ConfigError(f"--protocol {config.protocol}: requires --features {' or '.join(names)}")
    extractor = None
    computes = extracts or len(stored) < len(sources)
    _check_used(sources, entry if computes else None, resources)
    if computes:
        digest = next(filter(None, map(_tokenizer_sha256, reversed(sources))), None)
        extractor = load_extractor(entry.name, resources._replace(tokenizer_sha256=digest))
    resolution, exact = common_resolution(sources, config.res, extractor)
    if extractor is not None:
        space = FeatureSpace(entry.space, extractor.sha256, extractor.dimension, config.protocol)
    else:
        space = _space_of(next((s for _, s in stored if s.space is not None), stored[0][1]), entry)
    space = space._replace(resolution=resolution)
    for path, statistics in stored:
        _check_space(path, statistics, space, config, resources.reporter)
    return Comparison(space, extractor, exact)


def extractor_entry(sources: Sequence[Source], config: ScoreConfig) -> ExtractorEntry:
    """The extractor of a comparison: the one named, else that of stored statistics, else the default."""
    spaces = [s.content.space for s in sources if isinstance(s.content, Statistics) and s.content.space]
    if config.features is None and spaces:
        return extractor_of(spaces[0])
    return EXTRACTORS[config.extractor]


def common_resolution(
    sources: Sequence[Source], given: int | None, extractor: FeatureExtractor | None
) -> tuple[int | None, bool]:
    """The resolution at which images are compared: the given one, else that of the first source that has one.

    A sample's resolution is its side. Photographs have none: they are resized and cropped to that of the
    samples, of stored statistics, or of the extractor.

    Returns:
        Side in pixels, None where all sources are statistics that do not record it; and whether it is that of
        the images of a source, which then all must have.

    Raises:
        ConfigError: there are images, and nothing has a resolution.
    """
    if given is not None:
        return given, False
    shapes: dict[Path, tuple[int, int]] = {}
    for source in sources:
        if isinstance(source.content, Statistics):
            continue
        _, height, width = source.content.open(0).shape
        if height == width:
            return height, True
        shapes[source.path] = (width, height)
    for source in sources:
        if isinstance(source.content, Statistics) and source.content.resolution is not None:
            return source.content.resolution, False
    if not shapes or (extractor is not None and extractor.side is not None):
        return (None if extractor is None or not shapes else extractor.side), False
    path, (width, height) = next(iter(shapes.items()))
    raise ConfigError(
        f"{path} has images of {width}×{height} pixels: give --res N, the resolution of the samples, to "
        "which they are resized and cropped"
    )


def _check_used(sources: Sequence[Source], entry: ExtractorEntry | None, resources: Resources) -> None:
    """Refuse files that nothing is computed with; who names one expects other scores.

    Args:
        sources: of a comparison or a merge.
        entry: the extractor; None if all sources are statistics.
        resources: the files.

    Raises:
        ConfigError: the weights or the tokenizer would have no effect.
    """
    why = f"--features {entry.name} does not use it" if entry else "all sources are statistics"
    if resources.weights is not None and (entry is None or entry.tokenizer):
        raise ConfigError(f"--weights {resources.weights}: {why}; leave it out")
    decoded = any(not isinstance(s.content, Statistics) and s.content.decoded for s in sources)
    if resources.tokenizer is not None and not decoded and (entry is None or not entry.tokenizer):
        raise ConfigError(
            f"--tokenizer {resources.tokenizer}: {why}, and no tokens are decoded; leave it out"
        )


def statistics_of(
    source: Source,
    space: FeatureSpace,
    extractor: FeatureExtractor | None,
    keep: Collection[str],
    batch_size: int,
    reporter: Reporter,
    *,
    exact: bool = False,
    store: Path | None = None,
) -> SourceStatistics:
    """Statistics of a source: the stored ones, or those of its images' features.

    Args:
        source: the source.
        space: of the extractor's features.
        extractor: needed for images.
        keep: ``features``, ``logits`` and ``spatial``, where these are needed.
        batch_size: images per forward pass.
        reporter: receives progress.
        exact: refuse images of another size than the resolution.
        store: where finished parts of the work survive a kill.

    Raises:
        InputError: an image cannot be read or has another size, or features are not finite.
    """
    path, content, images = source
    if isinstance(content, Statistics):
        record = {"kind": "statistics", "name": path.name, "sha256": content.sha256, "n": content.n}
        if images is None or extractor is None:
            return SourceStatistics(content, record, Counter())
        batch = extract(images, extractor, space, keep, batch_size, reporter, store=store)
        rows = replace(content, features=batch.features, logits=batch.logits)
        # Images of the batch are identified by the file, as its statistics are.
        return SourceStatistics(rows, {**record, "n_images": len(images)}, batch.sizes)
    assert extractor is not None
    found = extract(content, extractor, space, keep, batch_size, reporter, exact=exact, store=store)
    origin = content.origin
    # Images are identified by their pixels, and by their file if one contains them all.
    whole = parent(origin.kind, origin.path, origin.sha256 or found.sha256)
    n = found.moments.n
    classes = _classes(content)
    statistics = Statistics(
        found.moments.mean,
        found.moments.covariance(),
        n,
        space.name,
        space.sha256,
        space.protocol,
        space.resolution,
        found.features,
        found.logits,
        None if found.spatial is None else found.spatial.mean,
        None if found.spatial is None else found.spatial.covariance(),
        classes,
        parents=[whole],
    )
    record = {**whole, "pixels_sha256": found.sha256, "n": n}
    return SourceStatistics(
        statistics,
        record,
        found.sizes,
        origin.settings,
        Counter(found.digests),
        Counter(name for name in classes or () if name),
        origin.tokenizer_sha256,
    )


def _classes(images: ImageSource) -> list[str] | None:
    """The readable class name of each image, empty where it has none; None if no image has a class."""
    if not images.class_names or not (images.labels >= 0).any():
        return None
    names = [readable_name(name) for name in images.class_names]
    return [names[label] if label >= 0 else "" for label in images.labels]


def parents_of(sources: Sequence[Source], batch_size: int) -> list[dict[str, str]]:
    """The ``parents`` of scores or statistics before features are extracted; may read all images' pixels."""
    found = []
    for path, content, _ in sources:
        if isinstance(content, Statistics):
            found.append(parent("statistics", path, str(content.sha256)))
        else:
            origin = content.origin
            sha256 = origin.sha256 or pixels_sha256(content, batch_size)
            found.append(parent(origin.kind, origin.path, sha256))
    return found


# --- feature spaces ---------------------------------------------------------------------------------


def _space_of(statistics: Statistics, entry: ExtractorEntry) -> FeatureSpace:
    """The space of stored statistics. Other projects' files do not name it; then it is the extractor's."""
    return FeatureSpace(
        statistics.space or entry.space,
        statistics.space_sha256 or str(entry.fid_sha256),
        statistics.dimension,
        statistics.protocol,
        statistics.resolution,
    )


def _tokenizer_sha256(source: Source) -> str | None:
    """The digest of the tokenizer of a source's tokens or features, where it has one."""
    if not isinstance(source.content, Statistics):
        return source.content.origin.tokenizer_sha256
    space = source.content.space
    tokenizer = space is not None and extractor_of(space).tokenizer
    return source.content.space_sha256 if tokenizer else None


def _check_named(stored: Sequence[tuple[Path, Statistics]], config: ScoreConfig) -> None:
    """Refuse statistics whose feature space neither they nor the configuration name.

    Raises:
        ArtifactError: there are such statistics.
    """
    for path, statistics in stored if config.features is None else ():
        if statistics.space is None:
            raise ArtifactError(
                f"{path} does not name its feature space, as files of other projects; give --features NAME "
                "(inception for statistics of ADM, pytorch-fid and TTUR)"
            )


def _check_space(
    path: Path, statistics: Statistics, space: FeatureSpace, config: ScoreConfig, reporter: Reporter
) -> None:
    """Refuse statistics of another feature space, protocol or resolution.

    Raises:
        ArtifactError: a property differs.
    """
    if statistics.space is None:
        reporter.info(
            f"{path} does not name its feature space; taken as {config.features}, as --features says"
        )
        # Other projects' files have no protocol, either: theirs is the one that is asked for.
        statistics = replace(statistics, protocol=space.protocol, space_sha256=space.sha256)
    found = _space_of(statistics, space.entry)
    if statistics.resolution is None:
        found = found._replace(resolution=space.resolution)
    titles = {"name": "feature space", "sha256": "weights"}
    for key, here, expected in zip(FeatureSpace._fields, found, space, strict=True):
        if here != expected:
            raise ArtifactError(
                f"{path}: its {titles.get(key, key)} is {here}, that of the comparison {expected}; give "
                "--features, --weights, --tokenizer, --protocol and --res as they were when it was made, or "
                f"make the right one: maskgit fid-stats IMAGES REF.npz {_as_made(space)}"
            )


def _as_made(space: FeatureSpace) -> str:
    """The options of ``fid-stats`` that make statistics of a space."""
    res = "" if space.resolution is None else f" --res {space.resolution}"
    return f"--features {space.entry.name} --protocol {space.protocol}{res}"
