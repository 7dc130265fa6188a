"""Reasons to doubt scores, for the ``warnings`` of ``scores.json``: what a reviewer would ask about them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from maskgit_cli.config.features import FeatureSpace
from maskgit_cli.config.metrics import METRICS, score_label, score_name, score_of
from maskgit_cli.config.protocols import PROTOCOLS
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.scoring.sources import SourceStatistics

# Images per split of the Inception Score; published scores have 5,000.
FEW_PER_SPLIT = 1000
# Precision and recall of fewer images have standard errors of more than a percent.
FEW_FOR_PRDC = 1000
# Ratio of the largest to the smallest class from which on classes are unbalanced. ImageNet's training images
# have 1.8.
UNBALANCED = 3
# Names of classes that a warning lists.
MOST_LISTED = 3

VQGAN = (
    "vqgan features are means and deviations of a tokenizer's latents over the whole image: they see color, "
    "contrast and texture, not shapes or what is shown, so unrecognizable images can score well; look at the "
    "images, and use --features inception where its weights are available, or efficientnet-lite0"
)


def score_warnings(
    samples: SourceStatistics,
    reference: SourceStatistics,
    config: ScoreConfig,
    space: FeatureSpace,
    names: Collection[str],
) -> list[str]:
    """Reasons to doubt the scores.

    Args:
        samples: what was scored.
        reference: what it was compared with.
        config: settings of the scores.
        space: of the features.
        names: of the scores that were computed.
    """
    scores = {score_of(name).name for name in names}
    return [
        *_protocol(samples, reference, space, scores),
        *_features(samples, reference, space),
        *_numbers(samples, reference, config, space, scores),
        *_sizes(samples, reference, space.resolution),
        *_content(samples, reference),
    ]


def _protocol(
    samples: SourceStatistics, reference: SourceStatistics, space: FeatureSpace, scores: Collection[str]
) -> Iterator[str]:
    """Departures from the protocol, and what other projects' files do not say about it."""
    n, published = samples.statistics.n, PROTOCOLS[space.protocol].n
    if "fid" in scores and space.published and n is not None and n < published:
        yield (
            f"{n:,} samples: scores that papers report under the protocol {space.protocol} are of "
            f"{published:,}, and FID of fewer is higher"
        )
    for name, source in (("samples", samples), ("reference", reference)):
        record, statistics = source.record, source.statistics
        if statistics.space is None:
            yield (
                f"{record['name']}, the {name}, names neither its feature space nor its protocol: taken as "
                f"{space.entry.name} features under {space.protocol}"
            )
        elif statistics.resolution is None and space.resolution is not None:
            yield (
                f"{record['name']}, the {name}, does not record its resolution: if its images were not "
                f"squares of {space.resolution} px, they were not cropped"
            )


def _features(samples: SourceStatistics, reference: SourceStatistics, space: FeatureSpace) -> Iterator[str]:
    """What the features cannot tell, and what they were made from."""
    if space.entry.tokenizer:
        yield VQGAN
        for name, source in (("samples", samples), ("reference images", reference)):
            if source.tokenizer_sha256 not in (None, space.sha256):
                yield (
                    f"the {name} were decoded by tokenizer {str(source.tokenizer_sha256)[:12]}…, the "
                    f"features are of tokenizer {space.sha256[:12]}…: part of the scores is their difference"
                )
    elif len({samples.tokenizer_sha256, reference.tokenizer_sha256} - {None}) == 2:
        yield (
            f"samples and reference images were decoded by different tokenizers, "
            f"{str(samples.tokenizer_sha256)[:12]}… and {str(reference.tokenizer_sha256)[:12]}…: part of the "
            "scores is the difference of the two"
        )
    if reference.record["kind"] == "tokens":
        yield (
            "the reference images are decoded tokens, not photographs: what the tokenizer loses does not "
            "count against the samples"
        )


def _numbers(
    samples: SourceStatistics,
    reference: SourceStatistics,
    config: ScoreConfig,
    space: FeatureSpace,
    scores: Collection[str],
) -> Iterator[str]:
    """Too few images for a score."""
    n, n_ref = samples.statistics.n, reference.statistics.n
    for name, count in (("samples", n), ("reference images", n_ref)):
        if "fid" in scores and count is not None and count <= space.dimension:
            yield (
                f"{count} {name} for {space.dimension} features: the covariance is singular and the distance "
                "biased; compare it with distances at the same numbers of images only"
            )
    score = METRICS["is"].scores[0]
    if score.name in scores and n is not None and n // config.splits < FEW_PER_SPLIT:
        yield (
            f"the {score_label(score_name(score, space))} has {n // config.splits} samples in each of its "
            f"{config.splits} splits, published ones have 5,000: with fewer it is lower"
        )
    few = min((count for count in (n, n_ref) if count is not None), default=FEW_FOR_PRDC)
    if "precision" in scores and few < FEW_FOR_PRDC:
        yield (
            f"precision, recall, density and coverage of {few} images have a standard error of up to "
            f"{50 / few**0.5:.0f} percentage points, and depend on the number of images"
        )


def _sizes(samples: SourceStatistics, reference: SourceStatistics, resolution: int | None) -> Iterator[str]:
    """Images that do not have the resolution already."""
    if resolution is None:
        return
    for name, source in (("samples", samples), ("reference images", reference)):
        small = sum(n for size, n in source.sizes.items() if min(size) < resolution)
        if small:
            yield (
                f"{small:,} of {source.sizes.total():,} {name} have a side below {resolution} px and were "
                "enlarged: part of the distance comes from that"
            )
    shrunk = sum(
        n for size, n in samples.sizes.items() if size != (resolution,) * 2 and min(size) >= resolution
    )
    if shrunk:
        yield f"{shrunk:,} of {samples.sizes.total():,} samples were resized and cropped to {resolution} px"


def _content(samples: SourceStatistics, reference: SourceStatistics) -> Iterator[str]:
    """Images that occur twice, and classes that one side lacks."""
    if np.array_equal(samples.statistics.sigma, reference.statistics.sigma):
        yield "samples and reference have the same statistics: are they the same images?"
    else:
        shared = sum(digest in reference.digests for digest in samples.digests.elements())
        if shared:
            yield (
                f"{shared:,} of {samples.digests.total():,} samples are, pixel for pixel, reference images"
            )
    for name, classes in (("samples", samples.classes), ("reference images", reference.classes)):
        if classes and max(classes.values()) >= UNBALANCED * min(classes.values()):
            smallest, largest = (f(classes.items(), key=lambda item: item[1]) for f in (min, max))
            yield (
                f"the classes of the {name} are unbalanced, {smallest[1]:,} of {smallest[0]} to "
                f"{largest[1]:,} of {largest[0]}: part of the distance is that of the class frequencies"
            )
    repeated = samples.digests.total() - len(samples.digests)
    if repeated:
        yield f"{repeated:,} of {samples.digests.total():,} samples repeat another one pixel for pixel"
    if samples.settings is not None and "mask_rule" in samples.settings:
        yield "the samples are inpainted: most of their pixels are those of real images"
    for name, here, there in (
        ("the samples have", samples.classes, reference.classes),
        ("the reference images have", reference.classes, samples.classes),
    ):
        missing = sorted(there.keys() - here.keys())
        if missing and here.keys() & there.keys():  # otherwise the two sides name their classes differently
            shown = ", ".join(missing[:MOST_LISTED]) + (", ..." if len(missing) > MOST_LISTED else "")
            yield f"{name} no image of {len(missing)} of the other side's {len(there)} classes: {shown}"
