"""Each metric against published numbers and independent formulas."""

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
from maskgit_cli.scoring.metrics.cmmd import discrepancy, kernel_means
from maskgit_cli.scoring.metrics.frechet import distance_of_roots, features_root, frechet_distance
from maskgit_cli.scoring.metrics.inception_score import score_of_logits
from maskgit_cli.scoring.metrics.kid import kernel_influences, subset_distances
from maskgit_cli.scoring.metrics.prdc import parts_of_features, prdc_of_features

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
    spatial = dict(zip(("mu_s", "sigma_s"), moments(rng.normal(size=(20, 3))), strict=True))
    statistics = Statistics(*moments(features), n=20, features=features, logits=logits, **spatial)
    for entry in METRICS.values():
        config = ScoreConfig(kid_subset_size=10)
        scored = compute(entry, statistics, statistics, config, torch.device("cpu"))
        assert list(scored.values) == [score.name for score in entry.scores]
        influences = scored.influences()
        expected = [score.name for score in entry.scores if score.better is not None]
        assert list(influences) == (expected if entry.samples != "spatial" else [])
        assert all(x.shape == (20,) and abs(x.mean()) < 1e-9 for x in influences.values())
    modules = {entry.function.split(":")[0] for entry in METRICS.values()}
    assert modules == {path.stem for path in Path(metrics.__file__).parent.glob("*.py")} - {"__init__"}


def test_golden_fid(golden):
    arrays, expected = golden
    distance = frechet_distance(*moments(arrays["fake"]), *moments(arrays["real"]))
    assert distance == pytest.approx(expected["fid"], abs=1e-9)


def changed_scores(features, logits, reference, weights, splits):
    """FID and Inception Score of samples that count as often as their weights say."""
    shares = weights / weights.sum()
    mean = shares @ features
    centered = features - mean
    n = len(features)
    covariance = (shares[:, None] * centered).T @ centered * n / (n - 1)
    found = {"fid": frechet_distance(mean, covariance, *reference)}
    p = torch.from_numpy(logits).double().softmax(1).numpy()
    scores = []
    for part in np.array_split(np.arange(n), splits):
        share = weights[part] / weights[part].sum()
        scores.append(np.exp(share @ (p[part] * np.log(p[part] / (share @ p[part]))).sum(1)))
    return found | {"inception_score": np.mean(scores)}


@pytest.mark.parametrize("n", [60, 12])  # with fewer samples than features, too
def test_influences_are_derivatives(n):
    """Against a small change of each sample's weight, of metrics computed by other formulas."""
    rng = np.random.default_rng(n)
    features = rng.normal(size=(n, 20)) @ np.diag(rng.uniform(0.2, 3, 20))
    logits = 3 * rng.normal(size=(n, 5))
    reference = moments(rng.normal(size=(200, 20)))
    splits, small = 3, 1e-6
    statistics = Statistics(*moments(features), n=n, features=features, logits=logits)
    other = Statistics(*reference, n=200)
    found = {}
    for name in ("fid", "is"):
        config = ScoreConfig(splits=splits)
        scored = compute(METRICS[name], statistics, other, config, torch.device("cpu"))
        found |= scored.influences()
    for i in (0, 3, n - 1):
        ends = []
        for sign in (-1, 1):
            weights = np.ones(n)
            weights[i] += sign * small
            ends.append(changed_scores(features, logits, reference, weights, splits))
        for name, influences in found.items():
            slope = (ends[1][name] - ends[0][name]) / (2 * small)
            assert slope == pytest.approx(influences[i] / n, rel=1e-3, abs=1e-6), (name, i)


@pytest.mark.parametrize("block", [7, 64])
def test_cmmd_equals_its_definition_whatever_the_block(block):
    rng = np.random.default_rng(block)
    x, y = (rng.normal(size=(n, 5)).astype(np.float32) * 4 for n in (31, 22))
    kernel = gaussian_kernel(np.concatenate([x, y]))
    signs = np.concatenate([np.full(31, 1 / 31), np.full(22, -1 / 22)])  # of one quadratic form
    means = kernel_means(x, y, block=block)
    assert discrepancy(means) == pytest.approx(1000 * signs @ kernel @ signs, rel=1e-9)
    assert discrepancy(kernel_means(x, x, block=block)) == pytest.approx(0, abs=1e-9)


def test_cmmd_of_points():
    """Two points at distance 10: 1 + 1 - 2·exp(-1/2)."""
    means = kernel_means(np.zeros((2, 3)), np.full((3, 3), 10 / 3**0.5))
    assert discrepancy(means) == pytest.approx(2000 * (1 - np.exp(-0.5)))


def gaussian_kernel(x):
    x = x.astype(np.float64)
    return np.exp(-np.square(x[:, None] - x[None]).sum(axis=2) / 200)


def test_influences_of_cmmd_are_derivatives():
    """Against reweighted samples, by their kernel matrix; and exactly, the score being quadratic."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(25, 4)) * 6, rng.normal(size=(40, 4)) * 5 + 2
    sides = [Statistics(*moments(z), n=len(z), features=z) for z in (x, y)]
    scored = compute(METRICS["cmmd"], *sides, ScoreConfig(), torch.device("cpu"))
    influences = scored.influences()["cmmd"]
    kernel = gaussian_kernel(np.concatenate([x, y]))

    def weighted(weights):
        signs = np.concatenate([weights / weights.sum(), np.full(40, -1 / 40)])
        return 1000 * signs @ kernel @ signs

    assert scored.values["cmmd"] == pytest.approx(weighted(np.ones(25)))
    for i in (0, 7, 24):
        change = np.eye(25)[i] * 1e-4
        slope = (weighted(1 + change) - weighted(1 - change)) / 2e-4
        assert slope == pytest.approx(influences[i] / 25, rel=1e-5, abs=1e-8)
    counts = rng.multinomial(25, np.full(25, 1 / 25))  # a resample of the bootstrap
    step = (counts - 1) / 25
    expected = weighted(counts.astype(float)) - 1000 * step @ kernel[:25, :25] @ step
    assert scored.values["cmmd"] + counts @ influences / 25 == pytest.approx(expected, rel=1e-9)


def test_influences_of_precision_and_density_are_their_parts():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) * 1.3
    sides = [Statistics(*moments(x), n=len(x), features=x) for x in (fake, real)]
    scored = compute(METRICS["prdc"], *sides, ScoreConfig(), torch.device("cpu"))
    influences = scored.influences()
    assert {name: len(x) for name, x in influences.items()} == {
        "precision": 30, "recall": 40, "density": 30, "coverage": 40
    }  # fmt: skip
    for name in ("precision", "recall", "coverage"):
        parts = influences[name] + scored.values[name]
        assert set(np.round(parts, 9)) <= {0.0, 1.0}
    assert (influences["density"] + scored.values["density"] >= -1e-12).all()


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


def adm_precision_recall(real, fake, k):
    """Precision and recall as ADM's evaluator defines them: balls contain their surface."""

    def squared(a, b):
        return np.maximum(np.square(a).sum(1)[:, None] - 2 * a @ b.T + np.square(b).sum(1), 0)

    radius_real, radius_fake = (np.partition(squared(x, x), range(k + 1), axis=1)[:, k] for x in (real, fake))
    precision = (squared(fake, real) <= radius_real).any(axis=1)
    recall = (squared(real, fake) <= radius_fake).any(axis=1)
    return precision.mean(), recall.mean()


@pytest.mark.parametrize("block", [3, 4096])
def test_precision_and_recall_of_equal_images_are_adms(block):
    """Whole numbers, so that equal distances are equal in any order of the sums."""
    rng = np.random.default_rng(4)
    real = rng.integers(0, 3, (25, 3)).astype(np.float32)
    fake = np.concatenate([rng.integers(0, 4, (20, 3)), np.repeat([[9, 9, 9]], 5, axis=0)]).astype(np.float32)
    found = prdc_of_features(real, fake, 3, block=block)
    expected = adm_precision_recall(real.astype(np.float64), fake.astype(np.float64), 3)
    assert (found.precision, found.recall) == pytest.approx(expected)


def test_copies_of_one_image():
    """All radii are 0. The copies lie on each other's balls, which as open ones contain nothing."""
    images = np.full((6, 2048), 0.1, np.float32) * np.linspace(0.5, 3, 2048, dtype=np.float32)
    for block in (2, 4096):
        found = parts_of_features(images, images[:5], 3, block=block)
        assert [part.mean() for part in found] == [1, 1, 0, 0]


def test_prdc_does_not_copy_the_features():
    """Float32 features in blocks give what float64 features give at once."""
    rng = np.random.default_rng(5)
    real, fake = (rng.normal(size=(n, 8)).astype(np.float32) for n in (50, 41))
    whole = parts_of_features(real.astype(np.float64), fake.astype(np.float64), 3)
    for found, expected in zip(parts_of_features(real, fake, 3, block=16), whole, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_kid_is_torch_fidelitys_own(dtype, tolerance):
    """The same subsets; what remains in float32 are its kernels, which are float64 here."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    rng = np.random.default_rng(6)
    fake, real = rng.normal(size=(150, 16)).astype(dtype), (0.1 + rng.normal(size=(130, 16))).astype(dtype)
    sides = [torch.from_numpy(x) for x in (fake, real)]
    expected = kid_features_to_metric(*sides, kid_subsets=7, kid_subset_size=60, verbose=False)
    found = subset_distances(fake, real, 7, 60)
    assert found.mean() == pytest.approx(expected["kernel_inception_distance_mean"], abs=tolerance)
    assert found.std() == pytest.approx(expected["kernel_inception_distance_std"], abs=tolerance)


def test_kid_has_no_bias():
    """Of samples of the same distribution its mean is 0, and that of the influences' metric too."""
    rng = np.random.default_rng(7)
    found = subset_distances(rng.normal(size=(4000, 4)), rng.normal(size=(4000, 4)), 200, 50)
    assert abs(found.mean()) < 3 * found.std() / 200**0.5 + 0.002
    assert found.min() < 0


def test_influences_of_kid_are_derivatives():
    rng = np.random.default_rng(8)
    fake, real = rng.normal(size=(30, 5)), 0.3 + rng.normal(size=(40, 5))
    within, across = (fake @ fake.T / 5 + 1) ** 3, (fake @ real.T / 5 + 1) ** 3
    np.fill_diagonal(within, 0)

    def distance(weights):
        shares = weights / weights.sum()
        return shares @ within @ shares * 30 / 29 - 2 * shares @ across.mean(axis=1)

    influences = kernel_influences(fake, real, block=7)
    assert influences.mean() == pytest.approx(0, abs=1e-12)
    for i in (0, 11, 29):
        step = 1e-5 * (np.arange(30) == i)
        slope = (distance(np.ones(30) + step) - distance(np.ones(30) - step)) / 2e-5
        assert slope == pytest.approx(influences[i] / 30, rel=1e-5, abs=1e-9)


def test_kid_needs_as_many_images_as_a_subset():
    with pytest.raises(ConfigError, match=r"--kid-subset-size 100: must be 10 "):
        subset_distances(np.zeros((200, 2)), np.zeros((10, 2)), 5, 100)


def test_sfid_is_the_distance_of_the_spatial_moments():
    rng = np.random.default_rng(9)
    a, b = moments(rng.normal(size=(50, 3))), moments(1 + rng.normal(size=(60, 3)))
    sides = [Statistics(np.zeros(2), np.eye(2), mu_s=mu, sigma_s=sigma) for mu, sigma in (a, b)]
    scored = compute(METRICS["sfid"], *sides, ScoreConfig(), torch.device("cpu"))
    assert scored.values == {"sfid": frechet_distance(*a, *b)}


@pytest.mark.parametrize("n", [3, 12, 40])
def test_roots_of_features_give_the_distance_of_their_moments(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(n, 12)), 1 + rng.normal(size=(25, 12)) @ rng.normal(size=(12, 12))
    found = distance_of_roots(*features_root(a.astype(np.float32)), *features_root(b.astype(np.float32)))
    assert found == pytest.approx(frechet_distance(*moments(a), *moments(b)), rel=1e-5)
