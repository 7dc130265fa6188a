"""Statistics files: exact sums, merging, the file and its readers' checks."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.feature_statistics import (
    Statistics,
    add_sums,
    holds_statistics,
    merge_statistics,
    moments,
    read_statistics,
    sums_of,
    write_statistics,
)


def random_features(n, dimension=5, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=(n, dimension)) * scale).astype(np.float32)


def make(features, **changes):
    sums = sums_of(features)
    known = {"n": sums.n, "space": "vqgan", "space_sha256": "ab" * 32, "sums": sums, "features": features}
    return Statistics(*moments(sums), **{**known, **changes})


def same(a, b):
    return a.n == b.n and np.array_equal(a.first, b.first) and np.array_equal(a.second, b.second)


# --- sums -------------------------------------------------------------------------------------------


def test_moments_are_numpys():
    features = random_features(300, 20) ** 2
    mu, sigma = moments(sums_of(features))
    # Features below 1 are rounded at 3e-8.
    np.testing.assert_allclose(mu, features.astype(np.float64).mean(axis=0), atol=1e-8)
    np.testing.assert_allclose(sigma, np.cov(features.astype(np.float64), rowvar=False), atol=1e-7)


def test_moments_are_correctly_rounded_where_squares_cancel():
    """A mean of 10⁵ and a deviation of 0.01: float64 sums of squares would keep five digits at best."""
    features = (1e5 + random_features(50, 3, scale=0.01)).astype(np.float32)
    exact = [[Fraction(float(x)) for x in row] for row in features]
    means = [sum(column) / 50 for column in zip(*exact, strict=True)]
    mu, sigma = moments(sums_of(features))
    assert mu.tolist() == [float(mean) for mean in means]
    for i in range(3):
        for j in range(3):
            products = ((row[i] - means[i]) * (row[j] - means[j]) for row in exact)
            assert sigma[i, j] == float(sum(products) / 49)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 40),
    st.integers(0, 40),
    st.sampled_from([1e-3, 1.0, 300.0, 1e7]),
)
def test_any_two_parts_in_any_order_merge_into_the_whole_bit_for_bit(seed, n, cut, scale):
    rng = np.random.default_rng(seed)
    features = random_features(n, 4, seed, scale)
    order = rng.permutation(n)
    a, b = features[order[: min(cut, n)]], features[order[min(cut, n) :]]
    whole = sums_of(features)
    assert same(add_sums(sums_of(a), sums_of(b)), whole)
    assert same(add_sums(sums_of(b), sums_of(a)), whole)


def test_large_features_take_more_digits():
    small, large = random_features(10), random_features(10, seed=1, scale=1e8)
    assert len(sums_of(small).first) < len(sums_of(large).first)
    assert same(add_sums(sums_of(small), sums_of(large)), sums_of(np.concatenate([large, small])))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e13])
def test_unusable_features_are_refused(bad):
    features = random_features(4)
    features[2, 1] = bad
    with pytest.raises(InputError, match="unusable"):
        sums_of(features)


def test_one_image_has_no_covariance():
    with pytest.raises(InputError, match="1 image: a covariance needs two"):
        moments(sums_of(random_features(1)))


# --- the file ---------------------------------------------------------------------------------------


def test_round_trip(tmp_path):
    features = random_features(9)
    logits = random_features(9, 7)
    parents = [{"kind": "images", "name": "é", "sha256": "0" * 64}]
    made = make(features, logits=logits, parents=parents, protocol="legacy-v1")
    write_statistics(tmp_path / "a.npz", made)
    read = read_statistics(tmp_path / "a.npz")
    assert (read.n, read.space, read.space_sha256, read.protocol) == (9, "vqgan", "ab" * 32, "legacy-v1")
    assert read.parents == parents
    assert read.sha256 == sha256_file(tmp_path / "a.npz")
    for name in ("mu", "sigma", "features", "logits"):
        assert np.array_equal(getattr(read, name), getattr(made, name))
        assert getattr(read, name).dtype == getattr(made, name).dtype
    assert same(read.sums, made.sums)
    write_statistics(tmp_path / "b.npz", read)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_files_of_two_halves_merge_into_the_whole(tmp_path):
    features = random_features(21, 12)
    for name, part in (("a", features[:8]), ("b", features[8:]), ("all", features)):
        write_statistics(tmp_path / f"{name}.npz", make(part))
    parts = [(tmp_path / name, read_statistics(tmp_path / name)) for name in ("a.npz", "b.npz")]
    merged, whole = merge_statistics(parts), read_statistics(tmp_path / "all.npz")
    for name in ("mu", "sigma", "features"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name))
    assert merged.n == 21
    assert same(merged.sums, whole.sums)
    assert merged.parents == [
        {"kind": "statistics", "name": path.name, "sha256": sha256_file(path)} for path, _ in parts
    ]


def test_merging_keeps_features_only_if_all_have_them():
    a, b = make(random_features(4)), replace(make(random_features(5)), features=None)
    assert merge_statistics([(Path("a"), a), (Path("b"), b)]).features is None


def test_what_cannot_be_merged():
    a = make(random_features(4))
    with pytest.raises(InputError, match=r"b\.npz: holds mean and covariance but no sums"):
        merge_statistics([(Path("a.npz"), a), (Path("b.npz"), replace(a, sums=None))])
    for change in ({"space": "other"}, {"space_sha256": "cd" * 32}, {"protocol": "legacy-v1"}):
        (key,) = change
        with pytest.raises(ArtifactError, match=rf"b\.npz has {key}"):
            merge_statistics([(Path("a.npz"), a), (Path("b.npz"), replace(a, **change))])
    with pytest.raises(ArtifactError, match="dimension 6"):
        merge_statistics([(Path("a.npz"), a), (Path("b.npz"), make(random_features(4, 6)))])


@pytest.mark.parametrize("names", [("mu", "sigma"), ("m", "s")])
def test_other_projects_files(tmp_path, names):
    path = tmp_path / "other.npz"
    features = random_features(9).astype(np.float64)
    mu, sigma = features.mean(axis=0), np.cov(features, rowvar=False)
    extra = {"mu_s": np.zeros(3), "sigma_s": np.eye(3), "arr_0": np.zeros((2, 4, 4, 3), np.uint8)}
    np.savez(path, **{names[0]: mu.astype(np.float32), names[1]: sigma}, **extra)
    assert holds_statistics(path)
    read = read_statistics(path)
    assert (read.n, read.space, read.sums) == (None, None, None)
    assert read.mu.dtype == np.float64
    assert np.array_equal(read.sigma, sigma)


def test_an_npz_of_images_is_no_statistics(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, np.zeros((2, 4, 4, 3), np.uint8))
    assert not holds_statistics(path)
    with pytest.raises(InputError, match=r"holds no statistics .*arr_0"):
        read_statistics(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_statistics(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(InputError, match=r"not a readable \.npz"):
        read_statistics(tmp_path / "text.npz")


def resaved(path, **changes):
    """The file's arrays with some changed (None leaves one out), under the same path."""
    with np.load(path) as arrays:
        values = {**arrays, **changes}
    np.savez(path, **{name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sigma": np.eye(4)}, "do not fit together"),
        ({"mu": np.full(5, np.nan)}, "NaN or infinity"),
        ({"sigma": np.triu(np.ones((5, 5)))}, "not symmetric"),
        ({"mu": np.zeros(5)}, "not those of its mean"),
        ({"n": None}, "how many images"),
        ({"n": np.int64(0)}, "how many images"),
        ({"product_digits": None}, "do not fit a mean of 5"),
        ({"product_digits": np.zeros((3, 7), np.int64)}, "do not fit a mean of 5"),
        ({"features": np.zeros((3, 5), np.float32)}, "not 9 rows"),
        ({"meta": np.array("[]")}, "not a JSON object"),
        ({"meta": np.array("{")}, "not JSON"),
        ({"meta": np.array('{"format": "maskgit-statistics", "version": 2}')}, "version 2"),
        ({"meta": np.array('{"format": "maskgit-statistics", "version": 1}')}, "no 'parents'"),
        ({"mu": np.array([object()] * 5)}, "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path, changes, reason):
    path = tmp_path / "a.npz"
    write_statistics(path, make(random_features(9)))
    resaved(path, **changes)
    with pytest.raises(ArtifactError, match=reason) as error:
        read_statistics(path)
    assert "\n" not in str(error.value)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    write_statistics(path, make(random_features(200, 30)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        read_statistics(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_statistics(path, make(random_features(9)))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="not a readable"):
        read_statistics(path)
