"""Statistics files: sums and merging, the file, its older version and its readers' checks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats import npz
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.feature_statistics import (
    Statistics,
    holds_statistics,
    merge_moments,
    merge_statistics,
    moments_of,
    read_statistics,
    write_statistics,
)


def random_features(n, dimension=5, seed=0, mean=0.0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=(n, dimension)) * scale + mean).astype(np.float32)


def make(features, **changes):
    moments = moments_of(features)
    known = {"n": moments.n, "space": "vqgan", "space_sha256": "ab" * 32, "features": features}
    return Statistics(moments.mean, moments.covariance(), **{**known, **changes})


def assert_close(found, expected, tolerance):
    """Each array to ``tolerance``, relative to its largest entry."""
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


# --- sums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1e3, 1.0), (1e5, 0.1)])
def test_moments_are_numpys_in_float64(mean, scale):
    features = random_features(400, 20, mean=mean, scale=scale)
    expected = features.astype(np.float64)
    blocks = [moments_of(block) for block in np.split(features, [100, 101, 350])]
    merged = blocks[0]
    for block in blocks[1:]:
        merged = merge_moments(merged, block)
    for found in (moments_of(features), merged):
        assert_close(
            [found.mean, found.covariance()], [expected.mean(axis=0), np.cov(expected, rowvar=False)], 1e-10
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(0, 40), st.sampled_from([0.0, 1e3]))
def test_parts_in_any_order_merge_into_the_whole(seed, n, cut, mean):
    features = random_features(n, 4, seed, mean)
    order = np.random.default_rng(seed).permutation(n)
    a, b = (moments_of(part) for part in np.split(features[order], [min(cut, n)]))
    whole = moments_of(features)
    for merged in (merge_moments(a, b), merge_moments(b, a)):
        assert merged.n == n
        assert_close(merged[1:], whole[1:], 1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(bad):
    features = random_features(4)
    features[2, 1] = bad
    with pytest.raises(InputError):
        moments_of(features)


def test_one_image_has_no_covariance():
    with pytest.raises(InputError, match="1 image"):
        moments_of(random_features(1)).covariance()


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
    write_statistics(tmp_path / "b.npz", read)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_files_of_two_halves_merge_into_the_whole(tmp_path):
    features = random_features(21, 12, mean=1e3)
    for name, part in (("a", features[:8]), ("b", features[8:]), ("all", features)):
        write_statistics(tmp_path / f"{name}.npz", make(part))
    parts = [(tmp_path / name, read_statistics(tmp_path / name)) for name in ("a.npz", "b.npz")]
    merged, whole = merge_statistics(parts), read_statistics(tmp_path / "all.npz")
    assert_close([merged.mu, merged.sigma], [whole.mu, whole.sigma], 1e-12)
    assert np.array_equal(merged.features, whole.features)
    assert merged.n == 21
    assert merged.parents == [
        {"kind": "statistics", "name": path.name, "sha256": sha256_file(path)} for path, _ in parts
    ]


def test_version_1_is_read_and_merges(tmp_path):
    """Its files also contain digits of exact sums, which are not needed."""
    features = random_features(21, 12)
    made = make(features[:8])
    record = {"format": "maskgit-statistics", "version": 1, "unit_bits": 24, "digit_bits": 16, "parents": []}
    record |= {"space": made.space, "space_sha256": made.space_sha256, "protocol": "standard"}
    digits = {"sum_digits": np.ones((2, 12), np.int64), "product_digits": np.ones((3, 78), np.int64)}
    path = tmp_path / "old.npz"
    np.savez(path, meta=np.array(json.dumps(record)), mu=made.mu, sigma=made.sigma, n=np.int64(8), **digits)
    old = read_statistics(path)
    assert np.array_equal(old.sigma, made.sigma)
    merged = merge_statistics([(path, old), (Path("new.npz"), make(features[8:]))])
    whole = make(features)
    assert_close([merged.mu, merged.sigma], [whole.mu, whole.sigma], 1e-12)


def test_merging_keeps_features_only_if_all_have_them():
    a, b = make(random_features(4)), replace(make(random_features(5)), features=None)
    assert merge_statistics([(Path("a"), a), (Path("b"), b)]).features is None


def test_what_cannot_be_merged():
    a = make(random_features(4))
    with pytest.raises(InputError, match=r"b\.npz"):
        merge_statistics([(Path("a.npz"), a), (Path("b.npz"), replace(a, n=None))])
    for change in ({"space": "other"}, {"space_sha256": "cd" * 32}, {"protocol": "legacy-v1"}):
        (key,) = change
        with pytest.raises(ArtifactError, match=rf"b\.npz.*{key}"):
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
    assert (read.n, read.space) == (None, None)
    assert read.mu.dtype == np.float64
    assert np.array_equal(read.sigma, sigma)


def test_an_npz_of_images_is_not_statistics(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, np.zeros((2, 4, 4, 3), np.uint8))
    assert not holds_statistics(path)
    with pytest.raises(InputError, match="arr_0"):
        read_statistics(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match=r"none\.npz"):
        read_statistics(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(InputError, match=r"text\.npz"):
        read_statistics(tmp_path / "text.npz")


def meta(**changes):
    """A record of statistics as JSON, with some values changed."""
    known = {"format": "maskgit-statistics", "version": 2, "space": "vqgan", "space_sha256": "ab" * 32}
    return json.dumps({**known, "protocol": "standard", "parents": [], **changes})


def resaved(path, **changes):
    """The file's arrays with some changed (None leaves one out), under the same path."""
    with np.load(path) as arrays:
        values = {**arrays, **changes}
    np.savez(path, **{name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sigma": np.eye(4)}, "(4, 4)"),
        ({"mu": np.full(5, np.nan)}, "NaN"),
        ({"sigma": np.triu(np.ones((5, 5)))}, "symmetric"),
        ({"n": None}, "n is missing"),
        ({"n": np.int64(0)}, "n is missing"),
        ({"features": np.zeros((3, 5), np.float32)}, "9 rows"),
        ({"meta": np.array("[]")}, "object"),
        ({"meta": np.array("{")}, "JSON"),
        ({"meta": np.array('{"format": "maskgit-statistics", "version": 4}')}, "version 4"),
        ({"meta": np.array('{"format": "maskgit-tokens", "version": 1}')}, "maskgit-tokens"),
        ({"meta": np.array('{"format": "maskgit-statistics", "version": 2}')}, "'parents'"),
        ({"meta": np.array(meta(parents=5))}, "parents"),
        ({"meta": np.array(meta(parents=[5]))}, "parents"),
        ({"meta": np.array(meta(parents=[{"kind": 1}]))}, "parents"),
        ({"meta": np.array(meta(space=["vqgan"]))}, "space"),
        ({"mu": np.array([object()] * 5)}, "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path, changes, named):
    path = tmp_path / "a.npz"
    write_statistics(path, make(random_features(9)))
    resaved(path, **changes)
    with pytest.raises(ArtifactError) as error:
        read_statistics(path)
    assert str(path) in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    write_statistics(path, make(random_features(200, 30)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"a\.npz"):
        read_statistics(path)


def test_arrays_that_compress_well_are_read(tmp_path):
    """Such as the statistics of images that are all black."""
    np.savez_compressed(tmp_path / "a.npz", mu=np.zeros(1500), sigma=np.zeros((1500, 1500)))
    assert read_statistics(tmp_path / "a.npz").sigma.shape == (1500, 1500)


def test_an_array_that_unpacks_to_far_more_than_the_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "WHOLE_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", mu=np.zeros(1500), sigma=np.zeros((1500, 1500)))
    with pytest.raises(ArtifactError, match=r"a\.npz.*18,000,000 bytes"):
        read_statistics(tmp_path / "a.npz")


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_statistics(path, make(random_features(9)))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"a\.npz"):
        read_statistics(path)
