"""Plots of scores: FID against the number of samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maskgit_cli.config.metrics import METRICS, score_label, score_of
from maskgit_cli.reports.sweep_plots import BEST, figure_png


def curve_plot(record: Mapping[str, Any]) -> bytes:
    """A PNG of the curve of a record of scores: distances, the line against 1/n, and its limit.

    Args:
        record: of ``scores.json``, with ``curve`` and ``fid_infinity``.
    """
    return figure_png(_curve(record))


def _curve(record: Mapping[str, Any]) -> Figure:
    sizes, distances = np.array(record["curve"], np.float64).T
    limit, label = record["fid_infinity"], _label(record)
    # The least-squares line is known by its limit and the means, through which it passes.
    slope = (distances.mean() - limit) / (1 / sizes).mean()
    across = np.linspace(sizes.min(), sizes.max(), 200)
    figure = Figure((7, 4.2), dpi=120, layout="constrained")
    panel = figure.subplots()
    panel.plot(sizes, distances, "o", color="C0", markersize=4, label="random subsets of the samples")
    panel.plot(across, limit + slope / across, "-", color="C0", linewidth=1.3, label="line against 1/n")
    panel.axhline(limit, color=BEST, linewidth=1.3, linestyle="--", label=f"{label}∞ = {limit:.4g}")
    panel.set_xlabel("samples n")
    panel.set_ylabel(f"{label}\nlower is better")
    panel.grid(True, color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False)
    return figure


def _label(record: Mapping[str, Any]) -> str:
    """The label of the distance, which is FID of the published features only."""
    named = [name for name in record["metrics"] if score_of(name) is METRICS["fid"].scores[0]]
    return score_label(named[0]) if named else METRICS["fid"].title
