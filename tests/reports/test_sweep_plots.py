"""Plots of a sweep, what they show, and the best point."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from maskgit_cli.errors import ConfigError
from maskgit_cli.reports import sweep_plots as plots
from maskgit_cli.reports.sweep_plots import best_point


def points(swept, metrics):
    """Points whose metrics are given as functions of the values."""
    found = []
    for values in itertools.product(*swept.values()):
        named = dict(zip(swept, values, strict=True))
        scores = {name: function(named) for name, function in metrics.items()}
        found.append({"name": str(named), "values": named, "metrics": scores})
    return found


SWEPT = {"steps": [4, 8], "cfg": [0.0, 1.0, 2.0, 3.0], "schedule": ["arccos"]}
METRICS = {
    "fid": lambda v: (v["cfg"] - 2) ** 2 + 8 / v["steps"],
    "inception_score": lambda v: 10 * v["cfg"] + v["steps"],
    "inception_score_std": lambda v: 1.0,
}


def test_the_best_point():
    found = points(SWEPT, METRICS)
    assert best_point(found, "fid")["values"] == {"steps": 8, "cfg": 2.0, "schedule": "arccos"}
    assert best_point(found, "inception_score")["values"]["cfg"] == 3.0


@pytest.mark.parametrize("metric", ["inception_score_std", "nonsense"])
def test_a_score_without_direction_has_no_best_point(metric):
    found = points(SWEPT, METRICS | {"nonsense": lambda v: 1.0})
    with pytest.raises(ConfigError, match=metric):
        best_point(found, metric)


def test_an_unknown_score_is_not_plotted():
    with pytest.raises(ConfigError, match="nonsense"):
        plots.plot_files(points(SWEPT, METRICS | {"nonsense": lambda v: 1.0}))


def test_a_plot_for_each_setting_that_varies_and_each_pair():
    names = set(plots.plot_files(points(SWEPT, METRICS)))
    assert names == {"by-steps", "by-cfg", "fid-against-inception-score"}
    only = {"frechet_vqgan": METRICS["fid"]}
    assert set(plots.plot_files(points(SWEPT, only))) == {"by-steps", "by-cfg"}
    both = only | {"precision_vqgan": METRICS["fid"], "recall_vqgan": METRICS["fid"]}
    assert "precision-vqgan-against-recall-vqgan" in plots.plot_files(points(SWEPT, both))
    assert plots.plot_files(points({"steps": [4], "cfg": [0.0]}, METRICS)) == {}


def test_plots_are_images_and_reproducible():
    found = points(SWEPT, METRICS)
    first, second = plots.plot_files(found), plots.plot_files(found)
    assert first == second
    for data in first.values():
        pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        assert min(pixels.shape[:2]) >= 400
        assert (pixels != 255).any()


def figure_texts(figure):
    axes = figure.axes[0]
    return {
        "x": axes.get_xlabel(),
        "y": axes.get_ylabel(),
        "ticks": [tick.get_text() for tick in axes.get_xticklabels()],
        "legend": [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else [],
        "notes": [text.get_text() for text in axes.texts],
    }


def test_axes_have_labels_and_the_best_point_is_marked():
    found = points(SWEPT, METRICS)
    figure = plots._by_setting(found, "cfg", ["steps", "cfg"], ["fid", "inception_score"])
    assert len(figure.axes) == 2
    texts = figure_texts(figure)
    assert texts["x"] == "guidance weight w (--cfg)"
    assert texts["y"] == "FID\nlower is better"
    assert texts["legend"] == ["steps 4", "steps 8"]
    assert texts["notes"] == ["best: 1"]
    star = next(line for line in figure.axes[0].lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2.0, 1.0)
    lines = [line for line in figure.axes[0].lines if line.get_marker() != "*"]
    assert [list(line.get_xdata()) for line in lines] == [[0, 1, 2, 3]] * 2
    assert list(lines[1].get_ydata()) == [5, 2, 1, 2]


def test_categories_keep_their_order_and_points_are_annotated():
    swept = {"schedule": ["square", "arccos", "root"]}
    found = points(swept, {"frechet_vqgan": lambda v: len(v["schedule"])})
    figure = plots._by_setting(found, "schedule", ["schedule"], ["frechet_vqgan"])
    texts = figure_texts(figure)
    assert texts["ticks"] == ["square", "arccos", "root"]
    assert texts["y"] == "Fréchet distance (frechet_vqgan)\nlower is better"
    assert sorted(texts["notes"]) == ["6", "6", "best: 4"]


def test_of_many_lines_only_the_best_has_a_name():
    swept = {"cfg": [float(i) for i in range(12)], "steps": [4, 8]}
    figure = plots._by_setting(points(swept, METRICS), "steps", ["cfg", "steps"], ["fid"])
    assert figure_texts(figure)["legend"] == ["w 2"]
    colors = [line.get_color() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert colors.count(plots.GREY) == 11
    assert colors.count(plots.BEST) == 1


def test_a_trade_off_connects_points_along_the_setting_with_the_most_values():
    figure = plots._trade_off(points(SWEPT, METRICS), "inception_score", "fid", ["steps", "cfg"])
    texts = figure_texts(figure)
    assert texts["x"] == "Inception Score\nhigher is better"
    assert sorted(texts["notes"]) == sorted(["0", "1", "2", "3"] * 2 + ["best FID: 1"])
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in lines] == [[4, 14, 24, 34], [8, 18, 28, 38]]
