"""Scores during a training: those of `sample` and `fid`, and without any influence on the training."""

import json
import re

import numpy as np
import pytest
from tiny_models import make_tokenizer
from tiny_training import contents, ctrl_c_at, in_processes, metrics, train_tiny, write_tokens

from maskgit_cli.config.stages import SampleConfig, ScoreConfig
from maskgit_cli.errors import ArtifactError, ConfigError, InputError
from maskgit_cli.formats.atomic import read_json
from maskgit_cli.reports.inspecting import describe
from maskgit_cli.sampling.images import sample
from maskgit_cli.scoring.features.tokenizer import TokenizerExtractor
from maskgit_cli.scoring.stages import fid_stats, score
from maskgit_cli.training import evaluation
from maskgit_cli.training import transformer as training

NAME = "frechet_vqgan"
SCORED = {"fid_every": 3, "fid_n": 10, "fid_features": "vqgan"}
PREVIEWED = {"preview_every": 6}


def scores(run):
    return {line["step"]: line[NAME] for line in metrics(run) if NAME in line}


def without_scores(run):
    return [line for line in metrics(run) if NAME not in line]


@pytest.fixture(scope="module")
def scored(tokens, images, tmp_path_factory):
    """A run of six steps with scores against a folder of images."""
    out = tmp_path_factory.mktemp("scored") / "run"
    return train_tiny(tokens, out, {"fid_ref": images}, **SCORED, **PREVIEWED)


def test_scores_are_those_of_sample_and_fid(scored, images, tmp_path):
    """The same images, the same features, the same distance, and so the same bits."""
    assert scores(scored).keys() == {3, 6}
    sampled = sample(scored, tmp_path / "samples", SampleConfig(n=10), device="cpu")
    features = {"config": ScoreConfig(features="vqgan"), "tokenizer": scored, "device": "cpu"}
    assert score(sampled, images, **features).metrics[NAME] == scores(scored)[6]
    reference = fid_stats([images], tmp_path / "reference.npz", **features)
    checkpoint = scored / "checkpoints" / "step-00000004"
    earlier = score(sample(checkpoint, tmp_path / "earlier", SampleConfig(n=10)), reference, **features)
    assert earlier.metrics[NAME] not in scores(scored).values()


def test_statistics_are_a_reference_as_well(scored, tokens, images, tmp_path):
    settings = {"config": ScoreConfig(features="vqgan"), "tokenizer": scored, "device": "cpu"}
    reference = fid_stats([images], tmp_path / "reference.npz", **settings)
    run = train_tiny(tokens, tmp_path / "run", {"fid_ref": reference}, **SCORED)
    assert scores(run) == scores(scored)


def test_weights_and_all_other_files_are_those_of_a_training_without_scores(scored, run):
    mine, plain = contents(scored), contents(run)
    for name in ("metrics.jsonl", "config.json"):
        del mine[name], plain[name]
    assert mine == plain
    assert without_scores(scored) == metrics(run)


def test_stopped_and_resumed_it_has_the_same_scores(scored, tokens, images, tmp_path):
    out, extra = tmp_path / "run", {"fid_ref": images}
    with pytest.MonkeyPatch.context() as patch:
        ctrl_c_at(patch, training, 3, 1)  # the step of a score, which waits for the next call
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tokens, out, extra, **SCORED, **PREVIEWED)
    assert (scores(out), without_scores(out)[-1]["step"]) == ({}, 3)
    train_tiny(tokens, out, extra, **SCORED, **PREVIEWED)
    assert contents(out) == contents(scored)


@pytest.mark.parametrize("at", [0, 1])
def test_ended_while_it_is_scored_it_loses_no_step(scored, tokens, images, tmp_path, monkeypatch, at):
    """The second score is that of the last step, after the training's last checkpoint."""
    out, calls = tmp_path / "run", []
    whole = evaluation.Evaluation.scores

    def ended(*arguments):
        calls.append(arguments)
        if len(calls) > at:
            raise KeyboardInterrupt
        return whole(*arguments)

    settings = SCORED | PREVIEWED | {"checkpoint_every": 1}
    with monkeypatch.context() as patch:
        patch.setattr(evaluation.Evaluation, "scores", ended)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tokens, out, {"fid_ref": images}, **settings)
    assert read_json(out / "checkpoints" / f"step-0000000{3 * at + 3}" / "state.json", "state")
    patch_steps = []
    monkeypatch.setattr(
        training,
        "train_step",
        lambda step, *rest, f=training.train_step: patch_steps.append(step) or f(step, *rest),
    )
    train_tiny(tokens, out, {"fid_ref": images}, **settings)
    assert patch_steps == list(range(3 * at + 4, 7))
    assert metrics(out) == metrics(scored)
    before = contents(out)
    train_tiny(tokens, out, {"fid_ref": images}, **settings)
    assert contents(out) == before


def test_its_settings_may_change_and_a_finished_run_gets_a_score(scored, tokens, images, tmp_path):
    out = train_tiny(tokens, tmp_path / "run", steps=4)
    train_tiny(tokens, out, {"fid_ref": images}, **SCORED | {"fid_every": 100, "fid_n": 5}, steps=5)
    train_tiny(tokens, out, {"fid_ref": images}, **SCORED | {"fid_every": 100})
    assert scores(out).keys() == {5, 6}
    assert scores(out)[6] == scores(scored)[6]
    out = train_tiny(tokens, tmp_path / "finished", **PREVIEWED)
    train_tiny(tokens, out, {"fid_ref": images}, **SCORED, **PREVIEWED)
    assert scores(out) == {6: scores(scored)[6]}
    assert without_scores(out) == without_scores(scored)


def test_the_reference_is_extracted_once(tokens, images, tmp_path, monkeypatch):
    seen = []
    call = TokenizerExtractor.__call__

    def counted(self, batch):
        seen.append(len(batch))
        return call(self, batch)

    monkeypatch.setattr(TokenizerExtractor, "__call__", counted)
    train_tiny(tokens, tmp_path / "run", {"fid_ref": images}, **SCORED)
    assert sum(seen) == 12 + 2 * 10
    seen.clear()
    train_tiny(tokens, tmp_path / "run", {"fid_ref": images}, **SCORED)
    assert seen == []  # nothing is left to score


def test_processes_share_the_samples(tokens, images, tmp_path):
    out = tmp_path / "run"
    in_processes(2, train_tiny, tokens, out, {"fid_ref": images}, **SCORED)
    found = scores(out)
    assert found.keys() == {3, 6}
    sampled = sample(out, tmp_path / "samples", SampleConfig(n=10), device="cpu")
    features = {"config": ScoreConfig(features="vqgan"), "tokenizer": out, "device": "cpu"}
    assert found[6] == pytest.approx(score(sampled, images, **features).metrics[NAME], rel=1e-6)


def test_images_without_classes_are_scored_too(tokenizer, images, tmp_path):
    labels = np.full(8, -1, np.int32)
    path = write_tokens(tmp_path / "t.h5", tokenizer, None, labels, class_names=[])
    extra = {"tokenizer": tokenizer, "fid_ref": images}
    run = train_tiny(path, tmp_path / "run", extra, **SCORED, steps=1)
    assert scores(run).keys() == {1}


def test_the_time_of_a_score_is_not_that_of_training(tokens, images, tmp_path, monkeypatch):
    now = [0.0]

    def slowly(function, seconds):
        def call(*arguments):
            now[0] += seconds
            return function(*arguments)

        return call

    monkeypatch.setattr("maskgit_cli.training.common.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(training, "train_step", slowly(training.train_step, 1))
    monkeypatch.setattr(evaluation.Evaluation, "scores", slowly(evaluation.Evaluation.scores, 1000))
    run = train_tiny(tokens, tmp_path / "run", {"fid_ref": images}, **SCORED | {"fid_every": 1}, steps=3)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["images_per_second"] for line in lines if "loss" in line] == [8.0] * 3


def test_the_summary_and_info_show_the_last_score(scored, tokens, images, tmp_path, maskgit):
    assert describe(scored)[NAME] == scores(scored)[6]
    words = ["--size", "tiny", "--steps", 1, "--batch-size", 4, "--device", "cpu", "--preview-every", 0]
    words += ["--fid-every", 1, "--fid-n", 4, "--fid-features", "vqgan", "--fid-ref", images]
    done = maskgit("train", tokens, "--out", tmp_path / "run", *words)
    assert done.status == 0, done.stderr
    assert re.search(rf"{NAME} [\d.e-]+", done.stderr)
    assert "samples" in done.stderr


# --- refusals, before anything is written -----------------------------------------------------------


def refused(error, tokens, out, extra, culprit, **settings):
    with pytest.raises(error) as failure:
        train_tiny(tokens, out, extra, **settings)
    assert culprit in str(failure.value)
    assert not out.exists()


def test_bad_settings_are_refused(tokens, images, tmp_path):
    out = tmp_path / "run"
    refused(ConfigError, tokens, out, {}, "--fid-ref", **SCORED)
    refused(ConfigError, tokens, out, {"fid_ref": images}, "--fid-every")
    refused(
        InputError, tokens, out, {"fid_ref": tmp_path / "none"}, f"--fid-ref {tmp_path / 'none'}", **SCORED
    )
    for name, value in (("fid_features", "eyes"), ("fid_n", 1), ("fid_every", -1)):
        wrong = SCORED | {name: value}
        refused(ConfigError, tokens, out, {"fid_ref": images}, "--" + name.replace("_", "-"), **wrong)


def test_statistics_of_another_tokenizer_are_refused(tokens, images, tmp_path):
    other = make_tokenizer(tmp_path / "other", seed=1)
    vqgan = ScoreConfig(features="vqgan")
    reference = fid_stats([images], tmp_path / "other.npz", vqgan, tokenizer=other, device="cpu")
    extra = {"fid_ref": reference}
    refused(ArtifactError, tokens, tmp_path / "run", extra, f"--fid-ref {reference}", **SCORED)


def test_a_broken_image_of_the_reference_ends_it_before_the_first_step(tokens, images, tmp_path, monkeypatch):
    (tmp_path / "ref").mkdir()
    (tmp_path / "ref" / "a.png").write_bytes((images / "cat" / "0.png").read_bytes())
    (tmp_path / "ref" / "b.png").write_bytes(b"no image")
    monkeypatch.setattr(training, "train_step", lambda *_: pytest.fail("a step was done"))
    with pytest.raises(InputError, match=r"b\.png"):
        train_tiny(tokens, tmp_path / "run", {"fid_ref": tmp_path / "ref"}, **SCORED)
