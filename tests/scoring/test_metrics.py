"""Fréchet distance, Inception Score and PRDC against published numbers and independent formulas."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from maskgit_cli.config.metrics import METRICS
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.scoring import metrics
from maskgit_cli.scoring.metrics import compute
from maskgit_cli.scoring.metrics.frechet import frechet_distance
from maskgit_cli.scoring.metrics.inception_score import score_of_logits
from maskgit_cli.scoring.metrics.prdc import prdc_of_features

GOLDEN = Path(__file__).parent.parent / "data" / "metrics"


@pytest.fixture(scope="module")
def golden():
    expected = json.loads((GOLDEN / "expected.json").read_text())
    with np.load(GOLDEN / "features.npz") as arrays:
        return {**arrays}, expected


def moments(features):
    features = features.astype(np.float64)
    return features.mean(axis=0), np.cov(features, rowvar=False)


def test_every_entry_has_a_file_and_gives_its_scores():
    rng = np.random.default_rng(0)
    features, logits = rng.normal(size=(20, 4)), rng.normal(size=(20, 7))
    statistics = Statistics(*moments(features), n=20, features=features, logits=logits)
    for entry in METRICS.values():
        scores = compute(entry, statistics, statistics, ScoreConfig(), torch.device("cpu"))
        assert list(scores) == [score.name for score in entry.scores]
    modules = {entry.function.split(":")[0] for entry in METRICS.values()}
    assert modules == {path.stem for path in Path(metrics.__file__).parent.glob("*.py")} - {"__init__"}


def test_golden_fid(golden):
    arrays, expected = golden
    distance = frechet_distance(*moments(arrays["fake"]), *moments(arrays["real"]))
    assert distance == pytest.approx(expected["fid"], abs=1e-9)


def test_golden_inception_score(golden):
    arrays, expected = golden
    mean, deviation = score_of_logits(arrays["logits"], 10)
    assert mean == pytest.approx(expected["inception_score_10_splits_in_order"], abs=1e-9)
    assert 0 < deviation < mean


def test_golden_prdc(golden):
    arrays, expected = golden
    assert prdc_of_features(arrays["real"], arrays["fake"], expected["k"])._asdict() == pytest.approx(
        expected["prdc"]
    )


def test_frechet_distance_equals_scipys_square_root():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 12)), rng.normal(size=(50, 12)) @ rng.normal(size=(12, 12))
    (mu1, sigma1), (mu2, sigma2) = moments(a), moments(b)
    root = scipy.linalg.sqrtm(sigma1 @ sigma2).real
    expected = np.square(mu1 - mu2).sum() + np.trace(sigma1 + sigma2 - 2 * root)
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_with_fewer_images_than_features():
    """Null directions add nothing: the distance is that inside the subspace where the images vary."""
    rng = np.random.default_rng(2)
    basis, _ = np.linalg.qr(rng.normal(size=(400, 6)))
    a, b = rng.normal(size=(30, 6)), 1 + 2 * rng.normal(size=(30, 6))
    inside = frechet_distance(*moments(a), *moments(b))
    assert frechet_distance(*moments(a @ basis.T), *moments(b @ basis.T)) == pytest.approx(inside, rel=1e-9)
    few = rng.normal(size=(5, 400))
    assert frechet_distance(*moments(few), *moments(few)) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_points():
    zero = np.zeros((3, 3))
    assert frechet_distance(np.zeros(3), zero, np.full(3, 2.0), zero) == 12


def test_frechet_distance_refuses_an_indefinite_covariance():
    with pytest.raises(InputError, match="-1"):
        frechet_distance(np.zeros(2), np.diag([1.0, -1.0]), np.zeros(2), np.eye(2))


def test_inception_score_of_certain_and_of_equal_predictions():
    certain = 1000 * np.eye(5, dtype=np.float32).repeat(4, axis=0)
    assert score_of_logits(certain, 1)[0] == pytest.approx(5)
    assert score_of_logits(np.ones((6, 5), np.float32), 2) == pytest.approx((1, 0))
    # Sorted by class, each of five parts holds one class only: the order matters, and is the one given.
    assert score_of_logits(certain, 5)[0] == pytest.approx(1)


def test_inception_score_needs_an_image_per_split():
    with pytest.raises(ConfigError, match="--splits 10"):
        score_of_logits(np.ones((9, 5), np.float32), 10)


def test_prdc_equals_its_definition_whatever_the_block():
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(31, 5)), 0.7 * rng.normal(size=(23, 5)) + 0.3
    across = np.linalg.norm(real[:, None] - fake[None], axis=2)  # (31, 23)
    radius_real = np.sort(np.linalg.norm(real[:, None] - real[None], axis=2), axis=1)[:, 4]
    radius_fake = np.sort(np.linalg.norm(fake[:, None] - fake[None], axis=2), axis=1)[:, 4]
    inside = across < radius_real[:, None]
    expected = (
        inside.any(axis=0).mean(),
        (across < radius_fake).any(axis=1).mean(),
        inside.sum(axis=0).mean() / 4,
        (across.min(axis=1) < radius_real).mean(),
    )
    for block in (1, 7, 4096):
        assert prdc_of_features(real, fake, k=4, block=block) == pytest.approx(expected)


def test_prdc_needs_more_images_than_neighbors():
    with pytest.raises(ConfigError, match="--neighbors 3"):
        prdc_of_features(np.zeros((10, 2)), np.zeros((3, 2)), 3)
