"""Intervals, distances per class, and the curve of the Fréchet distance."""

import numpy as np
import pytest
import torch

from maskgit_cli.config.metrics import METRICS
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.scoring.bootstrap import interval, replicates_of
from maskgit_cli.scoring.details import curve, details_of, needed_features
from maskgit_cli.scoring.details.curve import distances_by_size, limit_of
from maskgit_cli.scoring.details.per_class import class_distances
from maskgit_cli.scoring.metrics import compute
from maskgit_cli.scoring.metrics.frechet import frechet_distance

CPU = torch.device("cpu")


def moments(features):
    features = features.astype(np.float64)
    return features.mean(axis=0), np.cov(features, rowvar=False)


def statistics_of(features, classes=None, keep=True):
    features = features.astype(np.float32)
    return Statistics(
        *moments(features), n=len(features), features=features if keep else None, classes=classes
    )


def vectors(n, seed, dimension=6):
    return np.random.default_rng(seed).normal(size=(n, dimension)) * np.linspace(0.5, 2, dimension)


def details(samples, reference, scores=None, influences=(), **settings):
    return details_of(samples, reference, ScoreConfig(**settings), scores or {}, influences, CPU)


# --- intervals --------------------------------------------------------------------------------------


def test_the_interval_of_a_score_is_that_of_its_bootstrap():
    samples, reference = statistics_of(vectors(200, 0)), statistics_of(0.2 + vectors(300, 1))
    scored = compute(METRICS["fid"], samples, reference, ScoreConfig(), CPU)
    found = details(
        samples, reference, {"frechet": scored.values["fid"]},
        [("frechet", scored.influences()["fid"])], interval=True,
    )  # fmt: skip
    low, high = found.record["intervals"]["frechet"]
    assert low < scored.values["fid"] < high
    assert (low, high) == interval(replicates_of(scored.values["fid"], scored.influences()["fid"]))
    assert found.left_out == {}


def test_nothing_is_computed_that_is_not_asked_for():
    def never():
        raise AssertionError
        yield

    samples = statistics_of(vectors(20, 0))
    found = details(samples, samples, influences=never())
    assert (found.record, found.left_out, found.warnings) == ({}, {}, [])
    assert needed_features(ScoreConfig()) == (False, False)
    assert needed_features(ScoreConfig(interval=True)) == (True, False)
    assert needed_features(ScoreConfig(per_class=True)) == (True, True)


def test_statistics_without_features_have_no_details():
    bare, full = statistics_of(vectors(20, 0), keep=False), statistics_of(vectors(20, 1))
    asked = {"interval": True, "per_class": True, "curve": True}
    assert details(bare, full, **asked).left_out.keys() == asked.keys()
    assert all("--with-features" in text for text in details(bare, full, **asked).left_out.values())
    assert set(details(full, bare, interval=True, per_class=True).left_out) == {"per_class"}


# --- classes ----------------------------------------------------------------------------------------


def test_distances_of_classes_are_those_of_their_images():
    """More and fewer images than features; images without a class, and classes of one side, do not count."""
    here = ["cat"] * 40 + ["dog"] * 4 + [""] * 5 + ["emu"] + ["fox"] * 3
    there = ["fox"] * 1 + ["dog"] * 30 + ["gnu"] * 5 + ["emu"] * 9 + ["cat"] * 3
    rng = np.random.default_rng(0)
    here, there = rng.permutation(here).tolist(), rng.permutation(there).tolist()
    a, b = vectors(len(here), 1), 0.5 + vectors(len(there), 2)
    found = class_distances(statistics_of(a, here), statistics_of(b, there))
    assert list(found) == ["cat", "dog"]
    for name, entry in found.items():
        x, y = a[np.array(here) == name], b[np.array(there) == name]
        assert (entry.n, entry.n_ref) == (len(x), len(y))
        assert entry.distance == pytest.approx(frechet_distance(*moments(x), *moments(y)), rel=1e-5)


def test_singular_and_small_classes_are_warned_about():
    classes = ["cat"] * 40 + ["dog"] * 4 + ["emu"]
    found = details(*[statistics_of(vectors(45, seed), classes) for seed in (1, 2)], per_class=True)
    assert found.record["per_class"]["dog"].keys() == {"distance", "n", "n_ref"}
    assert ["1 of 2 classes" in found.warnings[0], "1 of 3 classes" in found.warnings[1]] == [True, True]


@pytest.mark.parametrize("classes", [None, [""] * 20, ["cat"] + ["dog"] * 19])
def test_without_shared_classes_there_are_no_distances(classes):
    samples, reference = statistics_of(vectors(20, 0), classes), statistics_of(vectors(20, 1), ["cat"] * 20)
    with pytest.raises(ConfigError, match="--per-class"):
        class_distances(samples, reference)
    found = details(samples, reference, per_class=True)
    assert found.record == {}
    assert "--per-class" in found.left_out["per_class"]


# --- the curve --------------------------------------------------------------------------------------


def test_the_curve_ends_in_the_distance_of_all_samples():
    samples, reference = statistics_of(vectors(500, 0)), statistics_of(0.2 + vectors(600, 1))
    points = distances_by_size(samples, reference)
    assert [n for n, _ in points] == np.linspace(50, 500, 15).round().astype(int).tolist()
    assert points[-1][1] == pytest.approx(
        frechet_distance(samples.mu, samples.sigma, reference.mu, reference.sigma), rel=1e-9
    )
    assert points == distances_by_size(samples, reference)
    assert points[0] != distances_by_size(samples, reference, seed=1)[0]


def test_a_point_is_the_distance_of_a_subset(monkeypatch):
    """Whatever the block in which it is summed."""
    samples, reference = statistics_of(vectors(200, 0)), statistics_of(vectors(300, 1))
    whole = distances_by_size(samples, reference)
    monkeypatch.setattr(curve, "BLOCK", 7)
    assert np.allclose(distances_by_size(samples, reference), whole, rtol=1e-9)
    order = np.argsort(curve.uniform(0, [0], 0, 200, curve.SUBSET)[0].numpy(), kind="stable")
    some = moments(samples.features[order[: whole[0][0]]])
    assert whole[0][1] == pytest.approx(frechet_distance(*some, reference.mu, reference.sigma), rel=1e-9)


def test_the_limit_removes_the_bias():
    """Samples of the reference's own distribution, whose distance would be 0 with enough of them."""
    reference = Statistics(np.zeros(6), np.diag(np.linspace(0.5, 2, 6) ** 2))
    limits, ends = [], []
    for seed in range(20):
        points = distances_by_size(statistics_of(vectors(400, seed)), reference)
        limits.append(limit_of(points))
        ends.append(points[-1][1])
    assert np.mean(ends) > 0.01
    assert abs(np.mean(limits)) < 0.25 * np.mean(ends)


def test_the_limit_is_the_intercept_of_the_line():
    sizes = [50, 80, 200]
    assert limit_of([(n, 3 + 7 / n) for n in sizes]) == pytest.approx(3)


def test_the_curve_needs_samples():
    with pytest.raises(ConfigError, match=r"--curve: 23 .*24"):
        distances_by_size(statistics_of(vectors(23, 0)), statistics_of(vectors(40, 1)))
    found = details(statistics_of(vectors(23, 0)), statistics_of(vectors(40, 1)), curve=True)
    assert set(found.left_out) == {"curve"}
    assert len(distances_by_size(statistics_of(vectors(24, 0)), statistics_of(vectors(40, 1)))) == 15
