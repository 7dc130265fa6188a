"""Sources of ``fid`` and ``fid-stats``: images or statistics, as statistics in one feature space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_cli.config.features import EXTRACTORS, ExtractorEntry, FeatureSpace, extractor_of
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.data.classes import readable_name
from maskgit_cli.data.sources import ImageSource, open_source
from maskgit_cli.data.sources.samples import is_sample_directory
from maskgit_cli.errors import ArtifactError, ConfigError, InputError
from maskgit_cli.formats.atomic import parent
from maskgit_cli.formats.feature_statistics import Statistics, holds_statistics, read_statistics
from maskgit_cli.formats.samples import SCORES_FILE, TOKENS_FILE, read_record
from maskgit_cli.runtime.progress import Reporter
from maskgit_cli.scoring.extraction import extract, pixels_sha256
from maskgit_cli.scoring.features import FeatureExtractor, Resources, load_extractor


class Source(NamedTuple):
    """A path and its content.

    Attributes:
        path: where it is stored.
        content: its statistics, or the images to extract features from.
    """

    path: Path
    content: Statistics | ImageSource


class SourceStatistics(NamedTuple):
    """Statistics of a source, and its description in the scores.

    Attributes:
        statistics: of all images.
        record: kind, name, digests and number of images.
        sizes: number of images of each (height, width); empty for stored statistics.
        settings: of the sampler, for a sample directory.
        digests: number of images of each sha256 of pixels; empty for stored statistics, as are the next two.
        classes: readable names of the classes that the images have.
        tokenizer_sha256: of the tokenizer that decoded the images.
    """

    statistics: Statistics
    record: dict[str, Any]
    sizes: Counter[tuple[int, int]]
    settings: dict[str, Any] | None = None
    digests: Counter[bytes] = Counter()  # noqa: RUF012 (never changed)
    classes: frozenset[str] = frozenset()
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
            extractor_of(_space_of(statistics).name)
        except ConfigError as error:
            raise ArtifactError(f"{path}: {error}") from None
        return Source(path, statistics)
    images = source
    if isinstance(images, Path):
        images = open_source(images, resources.tokenizer, resources.device, resources.reporter)
    if len(images) < 2:
        raise InputError(f"{path}: contains one image; a covariance needs two or more")
    return Source(path, images)


def common_space(
    sources: Sequence[Source], config: ScoreConfig, resources: Resources
) -> tuple[FeatureSpace, FeatureExtractor | None]:
    """The feature space of all sources, and its extractor unless all sources are statistics.

    Args:
        sources: of a comparison or a merge. Among several tokenizers, the last source's defines the space.
        config: the extractor and the protocol, where there are images.
        resources: files of the extractor.

    Raises:
        ConfigError: the extractor does not support the protocol, its space is unknown, or a file is given
            that nothing is computed with.
        ArtifactError: statistics are of another space.
        WeightsError, InputError: as :func:`~maskgit_cli.scoring.features.load_extractor`.
    """
    stored = [(s.path, s.content) for s in sources if isinstance(s.content, Statistics)]
    extractor = None
    if len(stored) == len(sources):
        _check_used(sources, None, resources)
        space = _space_of(stored[0][1])
    else:
        entry = EXTRACTORS[config.features]
        _check_used(sources, entry, resources)
        if config.protocol not in entry.protocols:
            names = [e.name for e in EXTRACTORS.values() if config.protocol in e.protocols]
            raise ConfigError(f"--protocol {config.protocol}: requires --features {' or '.join(names)}")
        digest = next(filter(None, map(_tokenizer_sha256, reversed(sources))), None)
        extractor = load_extractor(entry.name, resources._replace(tokenizer_sha256=digest))
        space = FeatureSpace(entry.space, extractor.sha256, extractor.dimension, config.protocol)
    for path, statistics in stored:
        _check_space(path, statistics, space, resources.reporter)
    return space, extractor


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
) -> SourceStatistics:
    """Statistics of a source: the stored ones, or those of its images' features.

    Args:
        source: the source.
        space: of the extractor's features.
        extractor: needed for images.
        keep: ``features`` and ``logits``, where the vectors of every image are needed.
        batch_size: images per forward pass.
        reporter: receives progress.

    Raises:
        InputError: an image cannot be read, or features are not finite.
    """
    path, content = source
    if isinstance(content, Statistics):
        record = {"kind": "statistics", "name": path.name, "sha256": content.sha256, "n": content.n}
        return SourceStatistics(content, record, Counter())
    assert extractor is not None
    found = extract(content, extractor, space.protocol, keep, batch_size, reporter)
    origin = content.origin
    # Images are identified by their pixels, and by their file if one contains them all.
    images = parent(origin.kind, origin.path, origin.sha256 or found.sha256)
    n = found.moments.n
    statistics = Statistics(
        found.moments.mean,
        found.moments.covariance(),
        n,
        space.name,
        space.sha256,
        space.protocol,
        found.features,
        found.logits,
        parents=[images],
    )
    record = {**images, "pixels_sha256": found.sha256, "n": n}
    present = np.unique(content.labels[content.labels >= 0]) if content.class_names else ()
    classes = frozenset(readable_name(content.class_names[label]) for label in present)
    digests = Counter(found.digests)
    return SourceStatistics(
        statistics, record, found.sizes, origin.settings, digests, classes, origin.tokenizer_sha256
    )


def parents_of(sources: Sequence[Source], batch_size: int) -> list[dict[str, str]]:
    """The ``parents`` of scores or statistics before features are extracted; may read all images' pixels."""
    found = []
    for path, content in sources:
        if isinstance(content, Statistics):
            found.append(parent("statistics", path, str(content.sha256)))
        else:
            origin = content.origin
            sha256 = origin.sha256 or pixels_sha256(content, batch_size)
            found.append(parent(origin.kind, origin.path, sha256))
    return found


# --- feature spaces ---------------------------------------------------------------------------------


def _space_of(statistics: Statistics) -> FeatureSpace:
    """The space of stored statistics. Other projects' files do not name it; theirs is the published one."""
    published = EXTRACTORS["inception"]
    return FeatureSpace(
        statistics.space or published.space,
        statistics.space_sha256 or str(published.fid_sha256),
        statistics.dimension,
        statistics.protocol,
    )


def _tokenizer_sha256(source: Source) -> str | None:
    """The digest of the tokenizer of a source's tokens or features, where it has one."""
    if not isinstance(source.content, Statistics):
        return source.content.origin.tokenizer_sha256
    return source.content.space_sha256 if _space_of(source.content).entry.tokenizer else None


def _check_space(path: Path, statistics: Statistics, space: FeatureSpace, reporter: Reporter) -> None:
    """Refuse statistics of another feature space or protocol.

    Raises:
        ArtifactError: a property differs.
    """
    titles = {"name": "feature space", "sha256": "weights"}
    for key, found, expected in zip(FeatureSpace._fields, _space_of(statistics), space, strict=True):
        if found != expected:
            raise ArtifactError(
                f"{path}: its {titles.get(key, key)} is {found}, that of the comparison {expected}; give "
                "--features, --weights, --tokenizer and --protocol as they were when it was made"
            )
    if statistics.space is None:
        reporter.warn(f"{path} does not name its feature space; assuming the published Inception's")
