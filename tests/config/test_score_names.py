"""The registry of metrics: names of scores with all endings, their labels and directions."""

import pytest

from maskgit_cli.config.features import EXTRACTORS, INCEPTION_SHA256, PROTOCOLS, FeatureSpace
from maskgit_cli.config.metrics import METRICS, TRADE_OFFS, score_label, score_name, score_of
from maskgit_cli.errors import ConfigError


def space_of(name, sha256=None):
    """The space of an extractor with its published weights, or with others."""
    entry = EXTRACTORS[name]
    return FeatureSpace(entry.space, sha256 or entry.sha256, entry.dimension or 8)


PUBLISHED = FeatureSpace("inception-v3-compat", INCEPTION_SHA256, 2048)
SCORES = {score.name: score for entry in METRICS.values() for score in entry.scores}


@pytest.mark.parametrize(
    ("space", "n", "name"),
    [
        (PUBLISHED, 50_000, "fid_50k"),
        (PUBLISHED, 49_999, "fid"),
        (PUBLISHED, 50_001, "fid"),
        (PUBLISHED, None, "fid"),
        (PUBLISHED._replace(protocol="legacy-v1"), 50_000, "fid_legacy_v1"),
        (PUBLISHED._replace(sha256="12345678" + "0" * 56), 50_000, "frechet_inception_12345678"),
        (PUBLISHED._replace(dimension=768), 50_000, "frechet_inception_6726825d"),
        (FeatureSpace("vqgan", INCEPTION_SHA256, 2048), 50_000, "frechet_vqgan"),
        (space_of("efficientnet-lite0"), 50_000, "frechet_efficientnet-lite0"),
        (space_of("efficientnet-lite0", "12345678" + "0" * 56), 10, "frechet_efficientnet-lite0_12345678"),
        (space_of("dinov2"), 50_000, "frechet_dinov2"),
        (space_of("dinov2", INCEPTION_SHA256), 50_000, "frechet_dinov2_6726825d"),
        (space_of("clip"), 50_000, "frechet_clip"),
    ],
)
def test_only_the_published_protocol_is_called_fid(space, n, name):
    assert score_name(SCORES["fid"], space, n) == name


def test_cmmd_is_of_the_published_clip():
    assert score_name(SCORES["cmmd"], space_of("clip"), 50_000) == "cmmd"
    assert score_name(SCORES["cmmd"], space_of("clip", "12345678" + "0" * 56)) == "mmd_clip_12345678"
    assert score_name(SCORES["cmmd"], PUBLISHED) == "mmd_inception_6726825d"


@pytest.mark.parametrize("name", [name for name, entry in EXTRACTORS.items() if entry.logits])
def test_only_the_published_inception_gives_an_inception_score(name):
    for sha256 in (None, "0" * 64):
        space = space_of(name, sha256)
        for score in METRICS["is"].scores:
            found = score_name(score, space)
            assert found.startswith("inception_score") == space.published
            assert ("Inception Score" in score_label(found)) == space.published


def test_other_scores_take_the_same_endings():
    assert score_name(SCORES["precision"], PUBLISHED, 50_000) == "precision"
    assert score_name(SCORES["precision"], PUBLISHED._replace(name="vqgan"), 50_000) == "precision_vqgan"
    with pytest.raises(ConfigError, match="nonsense"):
        score_name(SCORES["precision"], PUBLISHED._replace(name="nonsense"))


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_every_name_resolves_to_its_score(score):
    """Names of all extractors, weights, protocols and numbers of samples."""
    for entry in EXTRACTORS.values():
        for protocol in PROTOCOLS:
            for sha256 in (INCEPTION_SHA256, "0" * 64):
                space = FeatureSpace(entry.space, sha256, entry.dimension or 8, protocol)
                for n in (10, 50_000):
                    assert score_of(score_name(score, space, n)) is score


@pytest.mark.parametrize(
    "name", ["nonsense", "fid_nonsense", "fid_50", "precision_", "std", "frechet_vqgan_std"]
)
def test_an_unknown_score_is_an_error(name):
    with pytest.raises(ConfigError, match=name):
        score_of(name)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("fid_50k", "lower"),
        ("frechet_vqgan", "lower"),
        ("recall_vqgan", "higher"),
        ("inception_score", "higher"),
        ("coverage", "higher"),
        ("kid", "lower"),
        ("kernel_distance_vqgan", "lower"),
        ("kernel_distance_std_vqgan", None),
        ("sfid", "lower"),
        ("spatial_frechet_inception_12345678", "lower"),
        ("inception_score_std", None),
        ("inception_score_std_inception_12345678", None),
    ],
)
def test_directions(name, better):
    assert score_of(name).better == better


def test_labels():
    assert score_label("fid_50k") == "FID"
    assert score_label("frechet_vqgan_legacy_v1") == "Fréchet distance"
    assert score_label("kid_legacy_v1") == "KID"
    assert score_label("inception_score_std") == SCORES["inception_score_std"].label


def test_entries_are_consistent():
    for score in SCORES.values():
        assert score.home in (None, *EXTRACTORS)
    assert {name for entry in METRICS.values() for name in entry.spaces or ()} <= EXTRACTORS.keys()
    assert len(SCORES) == sum(len(entry.scores) for entry in METRICS.values())
    for entry in METRICS.values():
        assert {entry.samples, entry.reference} <= {"moments", "features", "logits", "spatial", None}
        assert {score.better for score in entry.scores} <= {"lower", "higher", None}
    assert all(SCORES[score].better for pair in TRADE_OFFS for score in pair)
