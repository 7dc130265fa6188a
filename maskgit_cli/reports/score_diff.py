"""``fid-diff``: settings that differ between two scores, and those that can explain the gap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maskgit_cli.config.arguments import PathArgument, checked
from maskgit_cli.config.metrics import score_of
from maskgit_cli.config.score_effects import EITHER, HIGHER, ScoreEffect, score_effect
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, counted
from maskgit_cli.formats.records import Record
from maskgit_cli.formats.samples import SCORES_FILE
from maskgit_cli.formats.scores import read_scores

_SAMPLER = "sample_settings.sampler."
# Keys of a record that are results, or repeat others; `samples` and `reference` are compared by digest.
_RESULTS = {"format", "version", "metrics", "left_out", "warnings", "parents", "seconds", "intervals"}
_RESULTS |= {"per_class", "curve", "fid_infinity"}
_REPEATED = {
    "samples",
    "reference",
    "settings.features",
    "settings.protocol",
    "settings.res",
    "settings.metrics",
}
_REPEATED |= {"settings.interval", "settings.per_class", "settings.curve"}


class Difference(NamedTuple):
    """A setting of which two scores have different values, or one has none.

    Attributes:
        key: see :mod:`maskgit_cli.config.score_effects`.
        values: of both; None where it is not recorded.
        effect: its entry in the table of effects; None where the effect is not known.
    """

    key: str
    values: tuple[Any, Any]
    effect: ScoreEffect | None

    @property
    def known(self) -> bool:
        """Whether both values are recorded."""
        return None not in self.values

    def text(self) -> str:
        """How it acts on FID, for a table."""
        if not self.known or self.effect is None:
            return "unknown"
        if not self.effect.explains:
            return "too small"
        return "either way" if self.effect.effect == EITHER else f"{self.effect.effect} as it grows"

    def can_explain(self, name: str, gap: float) -> bool:
        """Whether it can explain a gap of a score: it acts on that score, and in that direction."""
        entry = self.effect
        if not self.known or entry is None or not entry.explains or (entry.only and name not in entry.only):
            return False
        if entry.effect == EITHER or name != "fid":
            return True
        first, second = self.values
        if not all(isinstance(x, int | float) for x in (first, second)):
            return True
        return ((second > first) == (gap > 0)) == (entry.effect == HIGHER)


class Gap(NamedTuple):
    """A score that both files have.

    Attributes:
        metric: its plain name, without the endings of protocol and number of samples.
        names: its names in both files.
        values: in both files.
        intervals: the intervals [low, high] of both, where both are recorded.
        explained_by: the differences that can explain the gap, the table's order.
    """

    metric: str
    names: tuple[str, str]
    values: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]] | None
    explained_by: tuple[Difference, ...]

    @property
    def gap(self) -> float:
        """The second value minus the first."""
        return self.values[1] - self.values[0]

    @property
    def within_spread(self) -> bool | None:
        """Whether the intervals overlap; None where they are not recorded."""
        if self.intervals is None:
            return None
        (low, high), (other_low, other_high) = self.intervals
        return low <= other_high and other_low <= high


class ScoreDiff(NamedTuple):
    """Result of :func:`score_diff`.

    Attributes:
        paths: of both files.
        same_samples: whether both scored the same pixels; None where that is not known.
        differences: all settings that differ, or that one file does not record.
        gaps: the scores that both have.
    """

    paths: tuple[Path, Path]
    same_samples: bool | None
    differences: tuple[Difference, ...]
    gaps: tuple[Gap, ...]

    def lines(self) -> list[str]:
        """The conclusion: a line per score, and what can explain its gap below it."""
        found = [line for gap in self.gaps for line in self._about(gap)]
        if not self.gaps:
            found = ["no score is in both files"]
        unknown = sum(not difference.known for difference in self.differences)
        if unknown:
            found.append(f"{counted(unknown, 'setting')} not recorded in one of the files may differ, too")
        return found

    def _about(self, gap: Gap) -> Iterator[str]:
        first, second = (f"{value:.6g}" for value in gap.values)
        names = gap.names[0] if len({*gap.names}) == 1 else " and ".join(gap.names)
        if gap.gap == 0:
            yield f"{names}: {first} in both"
            return
        way = "higher" if gap.gap > 0 else "lower"
        yield f"{names}: {first} and {second}, the second is {abs(gap.gap):.4g} {way}"
        if gap.within_spread is not None:
            verb = "overlap" if gap.within_spread else "do not overlap"
            where = "within" if gap.within_spread else "beyond"
            yield f"  the intervals {verb}: the gap is {where} the spread of the samples"
        for difference in gap.explained_by:
            yield f"  {difference.key} can explain it{_size(gap, difference)}: {_why(difference)}"
        if not gap.explained_by:
            yield f"  no recorded setting that differs can explain it{self._otherwise()}"

    def _otherwise(self) -> str:
        """What remains where no setting explains a gap."""
        if self.same_samples is None:
            return ""
        if self.same_samples:
            return "; the samples are the same, pixel for pixel"
        return "; the samples are other ones, of another model or by chance"

    def record(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "paths": [str(path) for path in self.paths],
            "same_samples": self.same_samples,
            "differences": [
                {
                    "key": difference.key,
                    "values": list(difference.values),
                    "known": difference.known,
                    "effect": difference.effect.effect if difference.effect else None,
                    "explains": difference.known and bool(difference.effect and difference.effect.explains),
                    "why": difference.effect.why if difference.effect else None,
                }
                for difference in self.differences
            ],
            "gaps": [
                {
                    "metric": gap.metric,
                    "names": list(gap.names),
                    "values": list(gap.values),
                    "gap": gap.gap,
                    "within_spread": gap.within_spread,
                }
                for gap in self.gaps
            ],
            "explanations": [
                {"metric": gap.metric, "key": difference.key, **_measured(difference)}
                for gap in self.gaps
                for difference in gap.explained_by
            ],
        }


@checked
def score_diff(first: PathArgument, second: PathArgument) -> ScoreDiff:
    """Compare the settings of two scores, and find those that can explain why the scores differ.

    A setting that one of the files does not record is unknown, and explains nothing.

    Args:
        first: a ``scores.json``, or a sample directory that has one.
        second: another one.

    Raises:
        InputError: nothing is at a path.
        ArtifactError: a file is damaged, or is no scores file.
    """
    paths = _scores_file(Path(first)), _scores_file(Path(second))
    records = _read(paths[0]), _read(paths[1])
    sides = [_side(record.get("samples")) for record in records]
    same = None if None in sides else sides[0] == sides[1]
    differences = tuple(_differences(*map(_settings, records)))
    return ScoreDiff(paths, same, differences, tuple(_gaps(records, differences)))


# --- records ----------------------------------------------------------------------------------------


def _scores_file(path: Path) -> Path:
    """The scores file at a path, or in the sample directory there."""
    if not path.exists():
        raise InputError(f"{path}: no such file; name a scores.json, from `maskgit fid`")
    return path / SCORES_FILE if path.is_dir() else path


def _read(path: Path) -> Record:
    """A scores record whose scores are numbers."""
    record = read_scores(path)
    for name, value in record["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ArtifactError(f"{path} is damaged: its {name} is {value!r}")
    return record


def _side(side: Any) -> tuple[str, str] | None:
    """What the digest of samples or reference is of, and the digest: of all pixels where that is recorded.

    Statistics are of images that the record does not name; two of them can only be compared as files.
    """
    if not isinstance(side, Mapping):
        return None
    pixels = side.get("pixels_sha256")
    kind, digest = ("pixels", pixels) if pixels else (str(side.get("kind")), side.get("sha256"))
    return (kind, digest) if isinstance(digest, str) else None


def _settings(record: Record) -> dict[str, Any]:
    """All settings of a record by their keys; those with the value null are left out."""
    found: dict[str, Any] = {}

    def add(value: Any, key: str) -> None:
        """Enter a value, or those inside it, under keys that are joined by dots."""
        if key in _REPEATED or value is None:
            return
        if key in ("class_balance.samples", "class_balance.reference") and isinstance(value, Mapping):
            found[key] = _balance(value)
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                add(inner, f"{key}.{name}" if key else str(name))
        else:
            found[key] = value

    add({key: value for key, value in record.items() if key not in _RESULTS}, "")
    for name in ("samples", "reference"):
        side = record.get(name)
        if isinstance(side, Mapping) and name == "reference":
            found[name] = side
        elif isinstance(side, Mapping) and side.get("kind") != "statistics":  # which are of any images
            found["image format"] = str(side.get("kind"))
    return found


def _balance(balance: Mapping[str, Any]) -> str:
    """Number of classes, and of the images of the smallest and the largest one unless they are even."""
    classes, smallest, largest = (balance.get(key) for key in ("classes", "smallest", "largest"))
    even = isinstance(smallest, int) and isinstance(largest, int) and largest - smallest <= 1
    return f"{classes} classes, {'even' if even else f'{smallest} to {largest}'}"


# --- differences ------------------------------------------------------------------------------------


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    """The settings with different values: first those that can explain a gap, last the unknown ones."""
    keys = dict.fromkeys((*first, *second))
    found = [d for key in keys if (d := _difference(key, first.get(key), second.get(key))) is not None]
    differing = {difference.key for difference in found if difference.known}
    found = [d for d in found if not (d.effect and differing.intersection(d.effect.follows))]
    if _SAMPLER + "method" in differing:  # each has settings that the other sampler does not have
        found = [d for d in found if d.known or not d.key.startswith(_SAMPLER)]
    yield from sorted(found, key=lambda d: (not d.known, not (d.effect and d.effect.explains)))


def _difference(key: str, first: Any, second: Any) -> Difference | None:
    """The difference of one setting; None where the values are equal."""
    if key == "reference":
        sides = [_side(first), _side(second)]
        if sides[0] == sides[1]:
            return None
        # Pixels and statistics of the same images have different digests.
        known = None not in sides and sides[0][0] == sides[1][0]  # type: ignore[index]
        names = [None if value is None else _shown_side(value) for value in (first, second)]
        return Difference(key, (names[0], names[1] if known else None), score_effect(key))
    if first == second and isinstance(first, bool) == isinstance(second, bool):
        return None
    return Difference(key, (first, second), score_effect(key))


def _shown_side(side: Mapping[str, Any]) -> str:
    """Images or statistics, as a table shows them: the name and the first digits of the digest."""
    found = _side(side)
    return f"{side.get('name')} {found[1][:8] if found else ''}".rstrip()


def _gaps(records: tuple[Record, Record], differences: tuple[Difference, ...]) -> Iterator[Gap]:
    """The scores of both records, paired by what they measure: ``fid_50k`` with ``fid``."""
    named = [{_plain(name): name for name in record["metrics"]} for record in records]
    for metric in named[0]:
        if metric not in named[1]:
            continue
        names = named[0][metric], named[1][metric]
        first, second = (record["metrics"][name] for record, name in zip(records, names, strict=True))
        gap = second - first
        explained = [d for d in differences if gap != 0 and d.can_explain(metric, gap)]
        yield Gap(metric, names, (first, second), _intervals(records, names), tuple(explained))


def _plain(name: str) -> str:
    """The name of a score without endings; a name that this package does not know stays."""
    try:
        return score_of(name).name
    except ConfigError:
        return name


def _intervals(
    records: tuple[Record, Record], names: tuple[str, str]
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The intervals of a score in both records, where both have them."""
    found = []
    for record, name in zip(records, names, strict=True):
        held = record.get("intervals")
        interval = held.get(name) if isinstance(held, Mapping) else None
        numbers = isinstance(interval, list) and [x for x in interval if isinstance(x, int | float)]
        if not numbers or len(numbers) != 2:
            return None
        found.append((float(numbers[0]), float(numbers[1])))
    return found[0], found[1]


# --- texts ------------------------------------------------------------------------------------------


def _why(difference: Difference) -> str:
    return difference.effect.why if difference.effect else ""


def _size(gap: Gap, difference: Difference) -> str:
    """The measured size of an effect on a Fréchet distance, for people."""
    entry = difference.effect
    if entry is None or entry.size is None or score_of(gap.names[0]).name != "fid":
        return ""
    where = f" (docs/{entry.anchor})" if entry.anchor else ""
    return f", by up to {entry.size:g} {entry.unit} where it was measured{where}"


def _measured(difference: Difference) -> dict[str, Any]:
    """The entry of an effect as JSON values."""
    entry = difference.effect
    assert entry is not None
    return {key: getattr(entry, key) for key in ("effect", "why", "size", "unit", "anchor")}
