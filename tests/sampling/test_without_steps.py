"""A sampler whose settings have no number of steps works in every command that samples."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import GRID
from tiny_training import train_tiny

from maskgit_cli.config.inpaint import Box, InpaintConfig
from maskgit_cli.config.samplers import RasterConfig
from maskgit_cli.config.stages import SampleConfig, ScoreConfig, SweepConfig
from maskgit_cli.formats.samples import open_samples
from maskgit_cli.networks.loading import load_model
from maskgit_cli.reports.sweeping import sweep
from maskgit_cli.sampling.images import sample
from maskgit_cli.sampling.inpaint.inpainting import inpaint
from maskgit_cli.weights.exporting import export

RASTER = RasterConfig(cfg=1.0)


@pytest.fixture(scope="module")
def samples(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("samples") / "s"
    return sample(run, out, SampleConfig(n=3, trace="gif"), RASTER, device="cpu").path


def test_sample_and_trace(samples):
    tokens = open_samples(samples).tokens
    assert tokens.trace.masks.shape == (3, GRID**2, GRID, GRID)
    assert tokens.trace.masks[0].sum((1, 2)).tolist() == list(range(GRID**2 - 1, -1, -1))
    with Image.open(samples / "traces" / "000002.gif") as animation:
        assert animation.n_frames == GRID**2


def test_inpaint(samples, run, tmp_path):
    image = samples / "images" / "000000.png"
    config = InpaintConfig(box=(Box(0, 0, 8, 8, "cat"), Box(12, 12, 4, 4)), n=2)
    result = inpaint(image, run, tmp_path / "i", None, config, RASTER, device="cpu")
    assert result.settings["sampler"] == RASTER.describe()
    assert result.tokens == (4 + 1) + 4  # the first window does not see what the second one fills
    before, after = (np.array(Image.open(x)) for x in (image, result.path / "images" / "000001.png"))
    assert (before[:8, :8] != after[:8, :8]).any()
    assert (before[:8, 8:] == after[:8, 8:]).all()


def test_export(run, tmp_path):
    exported = export(run, tmp_path / "m", sampler=RASTER)
    assert load_model(exported).sampler == RASTER


def test_sweep(samples, run, tmp_path):
    swept = {"sampler": ["raster"], "cfg": [0.0]}
    scoring = ScoreConfig(features="vqgan", metrics=("fid",))
    config = SweepConfig(n=2, keep="none")
    done = sweep([run], swept, samples, tmp_path / "w", config, scoring=scoring, device="cpu")
    (point,) = json.loads((done.path / "sweep.json").read_text())["points"]
    assert point["sampler"] == RasterConfig(cfg=0.0).describe()


def test_previews(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr("maskgit_cli.training.previews.preset_for", lambda *_: "raster")
    path = train_tiny(tokens, tmp_path / "run", steps=2, preview_every=2)
    with Image.open(path / "previews" / "step-00000002.png") as preview:
        assert len(preview.getcolors(preview.width * preview.height)) > 2
