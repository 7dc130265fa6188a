"""The bootstrap of scores: the spread of a mean, pairing, and which points may be the best."""

import numpy as np
import pytest

from maskgit_cli.scoring.bootstrap import contenders, interval, replicates_of
from maskgit_cli.scoring.metrics.frechet import frechet_distance, frechet_influences


def test_the_spread_is_the_standard_error():
    influences = np.random.default_rng(0).normal(size=400)
    influences -= influences.mean()
    replicates = replicates_of(5.0, influences, 2000)
    error = influences.std() / 20
    assert replicates.std() == pytest.approx(error, rel=0.06)
    assert interval(replicates) == pytest.approx((5 - 1.96 * error, 5 + 1.96 * error), abs=0.15 * error)
    assert np.array_equal(replicates, replicates_of(5.0, influences, 2000))
    assert not np.array_equal(replicates, replicates_of(5.0, influences, 2000, seed=1))


def test_resamples_take_the_same_images_at_every_point():
    """What two points have in common cancels: their difference is known far better than either."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=300), 0.01 * rng.normal(size=(2, 300))
    a, b = (replicates_of(value, common + extra) for value, extra in zip((1.0, 1.01), own, strict=True))
    assert (b - a).std() < 0.05 * a.std()
    assert contenders({"a": a, "b": b}, lower_is_better=True) == ["a"]
    assert contenders({"a": a, "b": b}, lower_is_better=False) == ["b"]
    unpaired = replicates_of(1.01, common + own[1], seed=1)
    assert set(contenders({"a": a, "b": unpaired}, lower_is_better=True)) == {"a", "b"}


def test_the_spread_of_fid_is_that_of_new_samples():
    """Against what no user has: many independent sets of samples of the same model."""
    rng = np.random.default_rng(1)
    scale = np.linspace(0.5, 2, 6)
    reference = np.full(6, 0.3), np.eye(6)
    sets = [rng.normal(size=(500, 6)) * scale for _ in range(200)]
    distances = [frechet_distance(x.mean(0), np.cov(x, rowvar=False), *reference) for x in sets]
    spreads = [replicates_of(0.0, frechet_influences(x, *reference), 200).std() for x in sets[:10]]
    assert np.mean(spreads) == pytest.approx(np.std(distances), rel=0.15)


def test_equal_points_share():
    """Two settings without a difference are not told apart, whichever comes first."""
    same = replicates_of(1.0, np.linspace(-1, 1, 50))
    assert contenders({"a": same, "b": same * (1 + 1e-15)}, lower_is_better=True) == ["a", "b"]
    assert contenders({"a": same}, lower_is_better=True) == ["a"]


def test_all_points_that_may_be_the_best_are_listed():
    rng = np.random.default_rng(2)
    near = {name: rng.normal(1, 0.1, 1000) for name in "abc"}
    assert set(contenders(near | {"far": rng.normal(3, 0.1, 1000)}, lower_is_better=True)) == {*"abc"}
