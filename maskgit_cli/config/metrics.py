"""Registry of the metrics of ``fid``, and the names of their scores.

``--metrics``, help pages, reasons why a metric is missing, and the labels, the direction and the best
point of plots and sweeps derive from the entries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from maskgit_cli.config.features import EXTRACTORS, FeatureSpace
from maskgit_cli.config.protocols import PROTOCOLS, STANDARD
from maskgit_cli.errors import ConfigError

LOWER, HIGHER = "lower", "higher"


@dataclass(frozen=True)
class Score:
    """A number that a metric gives.

    Attributes:
        name: in ``scores.json`` under the published protocol.
        label: for plots.
        better: ``lower`` or ``higher``; None for a number that is not an objective, such as a deviation.
        unpublished: name and label outside the published protocol, where they differ.
        counts_samples: whether the name of exactly 50,000 samples' score ends in ``_50k``.
        home: the extractor whose published weights give the score its plain name; None means that of FID.
    """

    name: str
    label: str
    better: str | None
    unpublished: tuple[str, str] | None = None
    counts_samples: bool = False
    home: str | None = None


@dataclass(frozen=True)
class MetricEntry:
    """A metric.

    Attributes:
        name: value of ``--metrics``.
        title: noun phrase for messages and the help page.
        function: ``module:function`` in :mod:`maskgit_cli.scoring.metrics`, a
            :data:`~maskgit_cli.scoring.metrics.Metric`.
        scores: the numbers that it gives.
        samples: what it needs of the samples: ``moments``, ``features``, ``logits``, or ``spatial`` for the
            moments of spatial features.
        reference: what it needs of the reference; None if it has no reference.
        sweep: whether ``sweep`` computes it by default.
        spaces: extractors for whose features it is defined; None is all.
    """

    name: str
    title: str
    function: str
    scores: tuple[Score, ...]
    samples: str
    reference: str | None
    sweep: bool
    spaces: tuple[str, ...] | None = None


METRICS: dict[str, MetricEntry] = {
    entry.name: entry
    for entry in (
        MetricEntry(
            name="fid",
            title="Fréchet distance",
            function="frechet:fid",
            scores=(
                Score("fid", "FID", LOWER, unpublished=("frechet", "Fréchet distance"), counts_samples=True),
            ),
            samples="moments",
            reference="moments",
            sweep=True,
        ),
        MetricEntry(
            name="sfid",
            title="Fréchet distance of spatial features",
            function="sfid:sfid",
            scores=(
                Score("sfid", "sFID", LOWER, unpublished=("spatial_frechet", "spatial Fréchet distance")),
            ),
            samples="spatial",
            reference="spatial",
            # Its spread over the samples is not known, so that no point of a sweep would be named the best.
            sweep=False,
        ),
        MetricEntry(
            name="kid",
            title="Kernel Inception Distance",
            function="kid:kid",
            scores=(
                Score("kid", "KID", LOWER, unpublished=("kernel_distance", "kernel distance")),
                Score(
                    "kid_std",
                    "deviation of KID",
                    None,
                    unpublished=("kernel_distance_std", "deviation of the kernel distance"),
                ),
            ),
            samples="features",
            reference="features",
            # It needs every feature of the reference, and 300 kernel matrices at every point.
            sweep=False,
        ),
        MetricEntry(
            name="is",
            title="Inception Score",
            function="inception_score:inception_score",
            scores=(
                Score(
                    "inception_score",
                    "Inception Score",
                    HIGHER,
                    unpublished=("classifier_score", "classifier score"),
                ),
                Score(
                    "inception_score_std",
                    "deviation of the Inception Score",
                    None,
                    unpublished=("classifier_score_std", "deviation of the classifier score"),
                ),
            ),
            samples="logits",
            reference=None,
            sweep=True,
        ),
        MetricEntry(
            name="prdc",
            title="precision, recall, density and coverage",
            function="prdc:prdc",
            scores=(
                Score("precision", "precision", HIGHER),
                Score("recall", "recall", HIGHER),
                Score("density", "density", HIGHER),
                Score("coverage", "coverage", HIGHER),
            ),
            samples="features",
            reference="features",
            # Its cost is the product of the numbers of samples and reference images, at every point.
            sweep=False,
        ),
        MetricEntry(
            name="cmmd",
            title="CLIP maximum mean discrepancy, CMMD",
            function="cmmd:cmmd",
            scores=(Score("cmmd", "CMMD", LOWER, unpublished=("mmd", "MMD"), home="clip"),),
            samples="features",
            reference="features",
            sweep=False,  # as of prdc
            spaces=("clip",),
        ),
    )
}

# Pairs of scores, (x axis, y axis), that improve at each other's cost.
TRADE_OFFS = (("inception_score", "fid"), ("recall", "precision"))


# --- names of scores --------------------------------------------------------------------------------


def score_name(score: Score, space: FeatureSpace, n: int | None = None) -> str:
    """The name of a score of ``n`` samples: the published one for the published protocol alone.

    ``fid`` becomes ``fid_50k`` for exactly 50,000 samples, ``fid_legacy_v1`` for the paper's own
    evaluator, ``frechet_inception_1a2b3c4d`` with other weights, and ``frechet_vqgan`` with a tokenizer's
    features; other scores take the same endings. An extractor's published weights need no digest:
    ``frechet_dinov2``, but ``frechet_dinov2_1a2b3c4d`` with others.
    """
    entry = space.entry
    protocol = _protocol_ending(space.protocol)
    at_home = (entry.name, entry.sha256) == (score.home, space.sha256)
    if at_home or (score.home is None and space.published):
        exact = score.counts_samples and n == 50_000 and not protocol
        return score.name + ("_50k" if exact else protocol)
    # Which weights it was, if not the published ones. (Inception's may be those, and its features others than
    # FID's.)
    named = entry.fid_sha256 is not None or entry.sha256 not in (None, space.sha256)
    weights = f"_{space.sha256[:8]}" if named else ""
    return f"{(score.unpublished or (score.name,))[0]}_{entry.name}{weights}{protocol}"


def _protocol_ending(protocol: str) -> str:
    return "" if protocol == STANDARD else "_" + protocol.replace("-", "_")


def score_of(name: str) -> Score:
    """The score behind a name with or without endings, as :func:`score_name` gives it.

    Raises:
        ConfigError: no metric gives such a score.
    """
    return _parse(name)[0]


def is_score(name: str) -> bool:
    """Whether a name is that of a score, with or without endings."""
    try:
        return bool(_parse(name))
    except ConfigError:
        return False


def score_label(name: str) -> str:
    """The label of a score in plots: ``FID`` of ``fid_50k``, ``Fréchet distance`` of ``frechet_vqgan``."""
    return _parse(name)[1]


def _parse(name: str) -> tuple[Score, str]:
    extractors = "|".join(map(re.escape, EXTRACTORS))
    protocols = "|".join(re.escape(_protocol_ending(protocol)) for protocol in PROTOCOLS)
    ending = rf"(_50k)?(_({extractors})(_[0-9a-f]{{8}})?)?({protocols})"
    scores = [score for entry in METRICS.values() for score in entry.scores]
    for score in scores:
        for stem, label in ((score.name, score.label), *([score.unpublished] if score.unpublished else [])):
            if re.fullmatch(re.escape(stem) + ending, name):
                return score, label
    known = ", ".join(score.name for score in scores)
    raise ConfigError(f"{name} is not the name of a score of this package, which has {known}")
