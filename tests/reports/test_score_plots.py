"""The plot of the Fréchet distance against the number of samples."""

import io

import pytest
from PIL import Image

from maskgit_cli.reports import score_plots

CURVE = [[n, 3 + 7 / n] for n in (50, 80, 200)]


@pytest.mark.parametrize(
    ("name", "label"), [("fid", "FID"), ("fid_50k", "FID"), ("frechet_vqgan", "Fréchet distance"), ("x", "")]
)
def test_the_curve_has_points_a_line_and_a_limit(name, label):
    metrics = {name: 3.0} if label else {}
    record = {"curve": CURVE, "fid_infinity": 3.0, "metrics": metrics}
    panel = score_plots._curve(record).axes[0]
    points, line, limit = panel.get_lines()
    assert points.get_xydata().tolist() == CURVE
    across, up = line.get_xydata().T
    assert up == pytest.approx(3 + 7 / across)
    assert set(limit.get_ydata()) == {3.0}
    assert panel.get_ylabel().startswith(label or "Fréchet distance")
    assert Image.open(io.BytesIO(score_plots.curve_plot(record))).size == (840, 504)
