"""Plots of a sweep (the paper's Figure 2): each metric against each setting, and pairs that trade off."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from maskgit_cli.config.base import option
from maskgit_cli.config.metrics import LOWER, TRADE_OFFS, score_label, score_of
from maskgit_cli.errors import ConfigError
from maskgit_cli.reports.sweep_points import show_value

LABELS = {
    "cfg": "guidance weight w",
    "steps": "decoding steps",
    "gumbel_temp": "Gumbel noise temperature",
    "choice_temp": "choice temperature",
    "sm_temp": "softmax temperature",
    "schedule": "mask schedule",
    "model": "model",
}
# More lines than these have no name in the legend, and more points than these no annotation.
MOST_NAMED_LINES, MOST_NAMED_POINTS = 8, 30
GREY, BEST = "0.75", "#d62728"
NO_BEST = "no best point: differences are within the spread of the samples"


class Line(NamedTuple):
    """Points that differ in one setting only.

    Attributes:
        name: the values of the other swept settings.
        points: in order of that setting's values.
    """

    name: str
    points: list[Mapping[str, Any]]


def plot_files(points: Sequence[Mapping[str, Any]], unnamed: Collection[str] = ()) -> dict[str, bytes]:
    """PNG files by name: ``by-SETTING`` for each setting that varies, ``METRIC-against-METRIC`` for pairs.

    Args:
        points: of a sweep's record, all scored.
        unnamed: scores without a best point, as the differences are within the spread of the samples.

    Raises:
        ConfigError: a score is not of a metric of this package.
    """
    metrics = [name for name in points[0]["metrics"] if score_of(name).better is not None]
    metrics = [name for name in metrics if all(name in point["metrics"] for point in points)]
    if not metrics:  # all are left out, for reasons that the points record
        return {}
    varied = [name for name in points[0]["values"] if len({_key(p, name) for p in points}) > 1]
    plots = {
        f"by-{name.replace('_', '-')}": _by_setting(points, name, varied, metrics, unnamed) for name in varied
    }
    by_score = {score_of(name).name: name for name in metrics}
    for across, up in TRADE_OFFS:
        if across in by_score and up in by_score and varied:
            name = f"{by_score[up]}-against-{by_score[across]}".replace("_", "-")
            plots[name] = _trade_off(points, by_score[across], by_score[up], varied, unnamed)
    return {name: figure_png(figure) for name, figure in plots.items()}


def best_point(points: Sequence[Mapping[str, Any]], metric: str) -> Mapping[str, Any]:
    """The point with the best value of a score, the first of several.

    Raises:
        ConfigError: the score is unknown, or neither lower nor higher is better.
    """
    better = score_of(metric).better
    if better is None:
        raise ConfigError(f"{metric} has no best value")
    sign = 1 if better == LOWER else -1
    return min((p for p in points if metric in p["metrics"]), key=lambda p: sign * p["metrics"][metric])


# --- figures ----------------------------------------------------------------------------------------


def _by_setting(
    points: Sequence[Mapping[str, Any]],
    setting: str,
    varied: Sequence[str],
    metrics: Sequence[str],
    unnamed: Collection[str] = (),
) -> Figure:
    """One panel per score, against the values of a setting, with the spread of the samples."""
    figure = Figure((7, 0.8 + 3.2 * len(metrics)), dpi=120, layout="constrained")
    panels = figure.subplots(len(metrics), 1, squeeze=False)[:, 0]
    lines = _lines(points, setting, varied)
    categorical = not all(_is_number(point["values"][setting]) for point in points)
    order = list(dict.fromkeys(_key(point, setting) for point in points))
    for panel, metric in zip(panels, metrics, strict=True):

        def at(point: Mapping[str, Any], metric: str = metric) -> tuple[float, float]:
            value = point["values"][setting]
            return order.index(_key(point, setting)) if categorical else value, point["metrics"][metric]

        best = best_point(points, metric)
        # Categories have no order: dotted lines only guide the eye.
        _draw_lines(panel, lines, best, at, "o:" if categorical else "o-")
        _draw_spread(panel, points, metric, at)
        if metric in unnamed:
            panel.set_title(NO_BEST, fontsize=9, color=BEST)
        else:
            text = f"best: {best['metrics'][metric]:.4g}"
            _mark(panel, at(best), text, below=score_of(metric).better == LOWER)
        if len(lines) == 1:
            marked = None if metric in unnamed else best
            _annotate(panel, points, at, [f"{p['metrics'][metric]:.3g}" for p in points], marked)
        panel.set_xlabel(_setting_label(setting))
        panel.set_ylabel(_metric_label(metric))
        if categorical:
            panel.set_xticks(range(len(order)), order)
        elif len(order) <= 12:
            panel.set_xticks([float(key) for key in order], order)
    for panel in panels if len(lines) > MOST_NAMED_LINES else panels[:1]:
        _legend(panel, lines)
    return figure


def _trade_off(
    points: Sequence[Mapping[str, Any]],
    across: str,
    up: str,
    varied: Sequence[str],
    unnamed: Collection[str] = (),
) -> Figure:
    """One score against another; lines connect points along the setting with the most values."""
    figure = Figure((7, 5.2), dpi=120, layout="constrained")
    panel = figure.subplots()
    along = max(varied, key=lambda name: len({_key(point, name) for point in points}))
    lines = _lines(points, along, varied)
    best = best_point(points, up)

    def at(point: Mapping[str, Any]) -> tuple[float, float]:
        return point["metrics"][across], point["metrics"][up]

    categorical = not all(_is_number(point["values"][along]) for point in points)
    _draw_lines(panel, lines, best, at, "o:" if categorical else "o-")
    named = [line for line in lines if len(points) <= MOST_NAMED_POINTS or best in line.points]
    for line in named:
        _annotate(panel, line.points, at, [_key(point, along) for point in line.points])
    _draw_spread(panel, points, up, at)
    if up not in unnamed:
        text = f"best {score_label(up)}: {best['metrics'][up]:.4g}"
        _mark(panel, at(best), text, below=score_of(up).better == LOWER)
    panel.set_xlabel(_metric_label(across))
    panel.set_ylabel(_metric_label(up))
    title = f"annotation: {_setting_label(along)}"
    panel.set_title(title if up not in unnamed else f"{title}\n{NO_BEST}", fontsize=9, color="0.35")
    _legend(panel, lines)
    return figure


def _draw_lines(
    panel: Axes, lines: Sequence[Line], best: Mapping[str, Any], at: Any, style: str = "o-"
) -> None:
    """Lines in colors with names; of many, all but the best point's in gray without a name."""
    many = len(lines) > MOST_NAMED_LINES
    for i, line in enumerate(lines):
        has_best = any(point is best for point in line.points)
        color = f"C{i % 10}" if not many else BEST if has_best else GREY
        across, up = zip(*map(at, line.points), strict=True)
        name = "_" if many and not has_best else line.name  # matplotlib leaves "_" out of a legend
        panel.plot(
            across, up, style, color=color, markersize=4, linewidth=1.3, label=name, zorder=2 + has_best
        )
    panel.grid(True, color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(x=0.1, y=0.12)


def _draw_spread(panel: Axes, points: Sequence[Mapping[str, Any]], metric: str, at: Any) -> None:
    """The 95 % interval of each point's score as a vertical bar."""
    for point in points:
        bounds = (point.get("spread") or {}).get(metric)
        if bounds is not None:
            panel.vlines(at(point)[0], *bounds, color="0.45", linewidth=0.9, zorder=1)


def _annotate(
    panel: Axes,
    points: Sequence[Mapping[str, Any]],
    at: Any,
    texts: Sequence[str],
    left_out: Mapping[str, Any] | None = None,
) -> None:
    """Annotations of points, unless these are too many."""
    for point, text in zip(points, texts, strict=True):
        if len(points) <= MOST_NAMED_POINTS and point is not left_out:
            shown = panel.annotate(
                text, at(point), xytext=(4, 4), textcoords="offset points", fontsize=7, color="0.35"
            )
            # A white outline, because a line may run behind the text.
            shown.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _mark(panel: Axes, place: tuple[float, float], text: str, below: bool = True) -> None:
    """A star on the best point, annotated on the side where no other point can be."""
    panel.plot(*place, "*", color=BEST, markersize=15, markeredgecolor="white", zorder=5)
    panel.annotate(
        text,
        place,
        xytext=(0, -16 if below else 9),
        textcoords="offset points",
        ha="center",
        color=BEST,
        fontsize=9,
    )


def _legend(panel: Axes, lines: Sequence[Line]) -> None:
    """A legend of the lines, where there are several."""
    if len(lines) > 1:
        panel.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _lines(points: Sequence[Mapping[str, Any]], along: str, varied: Sequence[str]) -> list[Line]:
    """Lines through the points that differ in ``along`` only."""
    others = [name for name in varied if name != along]
    found: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        name = ", ".join(f"{_short_setting(other)} {_key(point, other)}" for other in others)
        found.setdefault(name, []).append(point)
    for group in found.values():
        if all(_is_number(point["values"][along]) for point in group):
            group.sort(key=lambda point: point["values"][along])
    return [Line(name, group) for name, group in found.items()]


# --- labels -----------------------------------------------------------------------------------------


def _key(point: Mapping[str, Any], setting: str) -> str:
    return show_value(point["values"][setting])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short_setting(name: str) -> str:
    return "w" if name == "cfg" else name.replace("_", " ")


def _setting_label(name: str) -> str:
    return f"{LABELS.get(name, name.replace('_', ' '))} ({option(name)})" if name != "model" else "model"


def _metric_label(metric: str) -> str:
    """Label of a score, with its name where that is not the published one, and its better direction."""
    score = score_of(metric)
    name = "" if metric == score.name else f" ({metric})"
    return f"{score_label(metric)}{name}\n{score.better} is better"


def figure_png(figure: Figure) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    # Without matplotlib's version in the file, its bytes depend on the figure only.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
