"""Settings of scores, and how each acts on the Fréchet distance: what ``fid-diff`` explains a gap with.

The keys are those of ``scores.json`` (docs/artifacts.md), with dots between the names of nested objects. An
entry also covers the keys below its own that have none.
"""

from __future__ import annotations

from dataclasses import dataclass

HIGHER, LOWER, EITHER = "higher", "lower", "either"


@dataclass(frozen=True)
class ScoreEffect:
    """How a difference in one setting acts on scores.

    Attributes:
        key: of the record, or of a group of its keys.
        effect: where FID goes as the value grows: ``higher`` or ``lower``; ``either`` for values without an
            order. For scores other than Fréchet distances it counts as ``either``.
        explains: whether it can explain a gap larger than rounding.
        why: a clause for people.
        only: the scores, by their plain names, that it acts on; empty is all.
        follows: other keys; where one of them differs, this one does for that reason and is not listed.
        size: the largest effect that was measured; None where none was.
        unit: of ``size``: ``FID`` or ``%`` of it.
        anchor: page and heading of docs/ where it was measured.
    """

    key: str
    effect: str
    explains: bool
    why: str
    only: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    size: float | None = None
    unit: str = "FID"
    anchor: str | None = None


# The largest differences of that page: photographs against the same ones prepared in another way; 250 images
# against 2,907; equal against natural shares of the classes.
MEASURED, ANCHOR = "in frechet_efficientnet-lite0", "scores.md#how-large-the-differences-are"
_PRDC = ("precision", "recall", "density", "coverage")
_IS = ("inception_score", "inception_score_std")

SCORE_EFFECTS: dict[str, ScoreEffect] = {
    entry.key: entry
    for entry in (
        # What is measured
        ScoreEffect("features", EITHER, True, "distances in different feature spaces have different scales"),
        ScoreEffect(
            "features.sha256", EITHER, True, "the features have other weights", follows=("features.space",)
        ),
        ScoreEffect(
            "features.dimension",
            EITHER,
            True,
            "the features have another number",
            follows=("features.sha256",),
        ),
        ScoreEffect(
            "protocol",
            EITHER,
            True,
            "images are prepared differently before the features",
            size=21.6,
            unit=MEASURED,
            anchor=ANCHOR,
        ),
        ScoreEffect(
            "resolution",
            EITHER,
            True,
            "resizing removes or adds detail, on which the features depend",
            size=38.9,
            unit=MEASURED,
            anchor=ANCHOR,
        ),
        ScoreEffect("reference", EITHER, True, "the distance is to other images"),
        # How much of it
        ScoreEffect(
            "n",
            LOWER,
            True,
            "the estimate's bias falls with the number of samples",
            size=52.8,
            unit=MEASURED,
            anchor=ANCHOR,
        ),
        ScoreEffect("n_ref", LOWER, True, "the estimate's bias falls with the number of reference images"),
        ScoreEffect(
            "class_balance.samples",
            EITHER,
            True,
            "the classes have other shares of the samples",
            size=2.1,
            unit=MEASURED,
            anchor=ANCHOR,
        ),
        ScoreEffect(
            "class_balance.reference", EITHER, True, "the classes have other shares of the reference"
        ),
        ScoreEffect("settings.neighbors", EITHER, True, "the neighborhoods have another size", only=_PRDC),
        ScoreEffect("settings.splits", EITHER, True, "fewer samples per split lower it", only=_IS),
        # What was sampled
        ScoreEffect(
            "image format",
            EITHER,
            True,
            "lossy compression and resizing change the pixels",
            size=18.9,
            unit=MEASURED,
            anchor=ANCHOR,
        ),
        ScoreEffect(
            "sample_settings.weights", EITHER, True, "raw weights usually give a higher FID than EMA"
        ),
        ScoreEffect("sample_settings.sampler", EITHER, True, "it trades fidelity against diversity"),
        ScoreEffect("sample_settings.labels", EITHER, True, "the classes have other shares of the samples"),
        ScoreEffect(
            "sample_settings.labels_sha256",
            EITHER,
            True,
            "the samples have other classes",
            follows=("sample_settings.n", "sample_settings.labels"),
        ),
        ScoreEffect("sample_settings.n", EITHER, False, "it is n", follows=("n",)),
        ScoreEffect(
            "sample_settings.range", EITHER, True, "other samples of the set", follows=("sample_settings.n",)
        ),
        ScoreEffect("sample_settings.stage", EITHER, True, "inpainted images are no samples of the model"),
        ScoreEffect("sample_settings.seed", EITHER, False, "only within the spread of the samples"),
        ScoreEffect("sample_settings.dtype", EITHER, False, "rounding, which changes some tokens"),
        ScoreEffect("sample_settings.format", EITHER, False, "the pixels are the same"),
        ScoreEffect("sample_settings.trace", EITHER, False, "the pixels are the same"),
        # What computed it
        ScoreEffect("environment", EITHER, False, "rounding: the last digits"),
        ScoreEffect("created_by", EITHER, False, "the same computation, unless its changes name it"),
    )
}


def score_effect(key: str) -> ScoreEffect | None:
    """The entry of a key, or of the nearest group that it is in; None where its effect is not known."""
    while key not in SCORE_EFFECTS:
        key, dot, _ = key.rpartition(".")
        if not dot:
            return None
    return SCORE_EFFECTS[key]
