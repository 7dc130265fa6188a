"""`maskgit fid-diff`: which settings differ, in which direction they act, and what remains unknown."""

import copy
import dataclasses
import json

import pytest

from maskgit_cli.config.metrics import METRICS
from maskgit_cli.config.score_effects import EITHER, HIGHER, LOWER, SCORE_EFFECTS, score_effect
from maskgit_cli.config.stages import SampleConfig, ScoreConfig
from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats.scores import SCORES_FORMAT, SCORES_VERSION, write_scores
from maskgit_cli.reports.score_diff import score_diff
from maskgit_cli.sampling.images import sample
from maskgit_cli.scoring.stages import score

SIDE = {"kind": "images", "name": "photos", "sha256": "a" * 64, "pixels_sha256": "a" * 64, "n": 100}
RECORD = {
    "format": SCORES_FORMAT,
    "version": SCORES_VERSION,
    "created_by": "maskgit-cli 1",
    "n": 5000,
    "n_ref": 100,
    "protocol": "adm",
    "features": {"space": "inception-v3-compat", "sha256": "b" * 64, "dimension": 2048},
    "metrics": {"fid": 10.0, "inception_score": 100.0, "precision": 0.7},
    "warnings": [],
    "samples": SIDE | {"kind": "samples", "name": "s", "sha256": "c" * 64, "pixels_sha256": "c" * 64},
    "reference": SIDE,
    "settings": {"features": "inception", "metrics": ["fid"], "neighbors": 3, "splits": 10},
    "sample_settings": {
        "n": 5000,
        "range": [0, 5000],
        "labels": "all",
        "labels_sha256": "d" * 64,
        "weights": "ema",
        "seed": 0,
        "sampler": {"method": "confidence", "cfg": 3.0, "steps": 8, "gumbel_temp": 4.5},
    },
    "parents": [],
}


def changed(record, changes):
    """A copy with other values at some keys, with dots between the names; None removes one."""
    record = copy.deepcopy(record)
    for key, value in changes.items():
        *outer, last = key.split(".")
        inner = record
        for name in outer:
            inner = inner.setdefault(name, {})
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return record


@pytest.fixture
def diff(tmp_path):
    """The comparison of a record with a changed one."""

    def compare(changes, base=RECORD):
        write_scores(tmp_path / "a.json", base)
        write_scores(tmp_path / "b.json", changed(base, changes))
        return score_diff(tmp_path / "a.json", tmp_path / "b.json")

    return compare


def explained(found, metric="fid"):
    (gap,) = [gap for gap in found.gaps if gap.metric == metric]
    return [difference.key for difference in gap.explained_by]


def listed(found):
    return {difference.key: difference.values for difference in found.differences}


def test_equal_scores_differ_in_nothing(diff):
    found = diff({})
    assert (found.differences, found.same_samples) == ((), True)
    assert [gap.gap for gap in found.gaps] == [0, 0, 0]
    assert all("in both" in line for line in found.lines())


def test_fewer_samples_explain_a_higher_score_and_no_lower_one(diff):
    fewer = {"n": 1000, "sample_settings.n": 1000, "sample_settings.range": [0, 1000]}
    fewer |= {"sample_settings.labels_sha256": "e" * 64}
    higher = diff(fewer | {"metrics.fid": 30.0})
    assert listed(higher) == {"n": (5000, 1000)}  # the others follow from it
    assert explained(higher) == ["n"]
    assert explained(diff(fewer | {"metrics.fid": 9.0})) == []
    # No direction is known for other scores.
    assert explained(diff(fewer | {"metrics.inception_score": 90.0}), "inception_score") == ["n"]


def test_names_with_endings_are_paired_with_plain_ones(diff):
    metrics = {"fid_50k": 7.5, "inception_score": 100.0, "precision_legacy_v1": 0.6}
    found = diff({"n": 50_000, "metrics": metrics})
    gap = found.gaps[0]
    assert (gap.metric, gap.names, gap.gap) == ("fid", ("fid", "fid_50k"), -2.5)
    assert explained(found) == ["n"]
    assert [gap.metric for gap in found.gaps] == ["fid", "inception_score", "precision"]


def test_settings_act_on_their_own_scores_alone(diff):
    changes = {"settings.splits": 5, "settings.neighbors": 5}
    changes |= {"metrics.fid": 11.0, "metrics.inception_score": 99.0, "metrics.precision": 0.8}
    found = diff(changes)
    assert explained(found) == []
    assert explained(found, "inception_score") == ["settings.splits"]
    assert explained(found, "precision") == ["settings.neighbors"]


def test_settings_of_the_sampler(diff):
    found = diff({"sample_settings.sampler.cfg": 0.0, "sample_settings.seed": 1, "metrics.fid": 40.0})
    assert listed(found) == {"sample_settings.sampler.cfg": (3.0, 0.0), "sample_settings.seed": (0, 1)}
    assert explained(found) == ["sample_settings.sampler.cfg"]
    halton = {"method": "halton", "steps": 32, "cfg": 3.0, "top_k": 0}
    found = diff({"sample_settings.sampler": halton})
    assert listed(found).keys() == {"sample_settings.sampler.method", "sample_settings.sampler.steps"}


def test_what_one_file_does_not_record_is_unknown_and_explains_nothing(diff):
    newer = {"resolution": 256, "environment.torch": "2.11", "class_balance.samples": None}
    del newer["class_balance.samples"]
    newer["class_balance"] = {"samples": {"classes": 10, "smallest": 500, "largest": 500}, "reference": None}
    found = diff(newer | {"metrics.fid": 11.0, "seconds": 5.0})
    assert listed(found) == {
        "resolution": (None, 256),
        "environment.torch": (None, "2.11"),
        "class_balance.samples": (None, "10 classes, even"),
    }
    assert not any(difference.known for difference in found.differences)
    assert explained(found) == []
    assert "3 settings" in found.lines()[-1]


def test_new_keys_of_both_files_are_compared(diff):
    even, uneven = ({"classes": 10, "smallest": 500, "largest": most} for most in (501, 900))
    base = RECORD | {"resolution": 256, "environment": {"torch": "2.11", "device": "cpu"}}
    base["class_balance"] = {"samples": even, "reference": None}
    changes = {"resolution": 299, "environment.torch": "2.9", "class_balance.samples": uneven}
    found = diff(changes | {"metrics.fid": 11.0}, base)
    assert listed(found) == {
        "resolution": (256, 299),
        "class_balance.samples": ("10 classes, even", "10 classes, 500 to 900"),
        "environment.torch": ("2.11", "2.9"),
    }
    assert explained(found) == ["resolution", "class_balance.samples"]


def test_references_are_compared_by_their_pixels(diff):
    assert listed(diff({"reference.name": "renamed", "reference.sha256": "f" * 64})) == {}
    other = diff({"reference.pixels_sha256": "f" * 64, "metrics.fid": 11.0})
    assert listed(other) == {"reference": ("photos aaaaaaaa", "photos ffffffff")}
    assert explained(other) == ["reference"]
    statistics = {"kind": "statistics", "name": "ref.npz", "sha256": "f" * 64, "n": 100}
    unknown = diff({"reference": statistics, "metrics.fid": 11.0})  # they may be of the same images
    assert [difference.known for difference in unknown.differences] == [False]
    assert explained(unknown) == []


def test_without_a_setting_the_samples_or_their_spread_are_named(diff):
    other = {"samples.pixels_sha256": "f" * 64, "metrics.fid": 11.0}
    assert diff(other).same_samples is False
    assert "other ones" in diff(other).lines()[1]
    assert "pixel for pixel" in diff({"metrics.fid": 11.0}).lines()[1]
    assert diff(other).gaps[0].within_spread is None
    base = RECORD | {"intervals": {"fid": [9.0, 10.9]}}
    assert diff(other | {"intervals.fid": [10.5, 12.0]}, base).gaps[0].within_spread is True
    assert diff(other | {"intervals.fid": [10.95, 12.0]}, base).gaps[0].within_spread is False


def test_measured_sizes_are_shown(diff, monkeypatch):
    measured = dataclasses.replace(SCORE_EFFECTS["n"], size=20.5, unit="FID", anchor="scores.md#samples")
    monkeypatch.setitem(SCORE_EFFECTS, "n", measured)
    found = diff({"n": 1000, "metrics.fid": 30.0})
    assert "20.5 FID" in found.lines()[1]
    assert "scores.md#samples" in found.lines()[1]
    assert found.record()["explanations"] == [
        {
            "metric": "fid",
            "key": "n",
            "effect": LOWER,
            "why": measured.why,
            "size": 20.5,
            "unit": "FID",
            "anchor": "scores.md#samples",
        }
    ]


def test_the_table_of_effects():
    scores = {score.name for entry in METRICS.values() for score in entry.scores}
    for key, entry in SCORE_EFFECTS.items():
        assert key == entry.key
        assert entry.effect in (HIGHER, LOWER, EITHER)
        assert set(entry.only) <= scores
        assert key not in entry.follows
    assert score_effect("sample_settings.sampler.cfg").key == "sample_settings.sampler"
    assert score_effect("environment.torch").explains is False
    assert score_effect("sample_settings.box") is None


def test_real_scores_by_their_directories(run, images, tokenizer, tmp_path, maskgit, monkeypatch):
    settings = {"config": ScoreConfig(features="vqgan"), "tokenizer": tokenizer, "device": "cpu"}
    for name, n, steps in (("a", 4, 2), ("b", 6, 3)):
        sampled = sample(run, tmp_path / name, SampleConfig(n=n), {"steps": steps}, device="cpu")
        score(sampled, images, **settings)
    monkeypatch.chdir(tmp_path)
    found = score_diff("a", "b/scores.json")
    assert listed(found).keys() == {"n", "sample_settings.sampler.steps"}
    assert found.gaps[0].names == ("frechet_vqgan",) * 2
    assert set(explained(found)) <= {"n", "sample_settings.sampler.steps"}
    done = maskgit("fid-diff", "a", "b")
    assert done.status == 0, done.stderr
    assert done.stdout.splitlines() == found.lines()
    assert "sample_settings.sampler.steps" in done.stderr
    as_json = maskgit("fid-diff", "a", "b", "--json", "--quiet")
    assert json.loads(as_json.stdout)["differences"] == json.loads(json.dumps(found.record()["differences"]))
    assert as_json.stderr == ""


@pytest.mark.parametrize("metrics", [{"fid": "low"}, {"fid": True}, {"fid": float("nan")}, {"fid": [1]}])
def test_scores_that_are_no_numbers_are_refused(diff, metrics):
    with pytest.raises(ArtifactError, match=r"b\.json.*fid"):
        diff({"metrics": metrics})


@pytest.mark.parametrize("strange", [[], "x", 3, {"": {"": {}}}, {"kind": 5, "sha256": 7}])
def test_strange_values_are_compared_or_unknown(diff, strange):
    for key in ("samples", "reference", "sample_settings", "class_balance", "n", "intervals", "resolution"):
        found = diff({key: strange, "metrics.fid": 11.0})
        assert found.lines()
        json.dumps(found.record())


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.json"):
        score_diff(tmp_path / "none.json", tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ArtifactError):
        score_diff(tmp_path / "x.json", tmp_path / "x.json")
