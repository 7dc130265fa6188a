"""Trainings that are given more steps, finished or not: what was trained already does not change."""

import json
import random
import shutil

import pytest
from resigned import rewrite_record
from tiny_training import (
    Warnings,
    contents,
    count_syncs,
    ctrl_c_at,
    kill_at,
    metrics,
    train_tiny,
    train_tiny_vqgan,
)

from maskgit_cli.config.networks import SIZES, Size
from maskgit_cli.errors import MaskGITError, OutputError
from maskgit_cli.formats.atomic import read_json
from maskgit_cli.formats.runs import ORDER, load_checkpoint
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.training import transformer
from maskgit_cli.training import vqgan as vqgan_training

FROM_STEPS = {"adversarial_start": None}  # half of the steps


def record_of(path):
    return json.loads((path / "config.json").read_text())


def settings_of(path):
    return record_of(path)["settings"]


def checkpoint_of(path, step):
    return contents(path / "checkpoints" / f"step-{step:08d}")


@pytest.fixture(scope="module")
def short(images, tmp_path_factory):
    """A tokenizer of six steps, with the adversarial loss from the fourth on."""
    return train_tiny_vqgan(images, tmp_path_factory.mktemp("short") / "t", **FROM_STEPS)


@pytest.fixture
def copy(short, tmp_path):
    return shutil.copytree(short, tmp_path / "t")


@pytest.fixture(scope="module")
def extended(short, images, tmp_path_factory):
    """The same tokenizer, extended to ten steps, and the number of moments at which that can be killed."""
    out = shutil.copytree(short, tmp_path_factory.mktemp("extended") / "t")
    return out, count_syncs(train_tiny_vqgan, images, out, steps=10, **FROM_STEPS)


# --- tokenizers -------------------------------------------------------------------------------------


def test_a_finished_tokenizer_is_extended(extended, short):
    out, _ = extended
    assert load_checkpoint(out).step == 10
    tokenizer = load_tokenizer(out)  # which compares the weights with their digest
    assert tokenizer.sha256 != load_tokenizer(short).sha256
    ema = load_checkpoint(out).tensors["ema"]
    assert all(tensor.equal(ema[name]) for name, tensor in tokenizer.network.state_dict().items())
    lines = metrics(out)
    assert [line["step"] for line in lines] == [*range(1, 11)]
    assert lines[:6] == metrics(short)


def test_settings_that_followed_from_the_steps_keep_their_values(extended, short):
    before, after = record_of(short), record_of(extended[0])
    assert sorted(before["derived"]) == ["adversarial_start", "decay_steps"]
    assert after["derived"] == before["derived"]
    assert after["settings"] == before["settings"] | {"steps": 10}
    assert (after["settings"]["adversarial_start"], after["settings"]["decay_steps"]) == (3, 6)
    assert (before["step"], after["step"]) == (6, 10)
    rates = [line["lr"] for line in metrics(extended[0])]
    assert rates[6:] == pytest.approx([1e-4] * 4, rel=1e-6)


def test_it_equals_one_that_was_started_with_these_settings(extended, images, tmp_path):
    given = {"steps": 10, "adversarial_start": 3, "decay_steps": 6}
    whole = train_tiny_vqgan(images, tmp_path / "whole", **given)
    assert (whole / "model.safetensors").read_bytes() == (extended[0] / "model.safetensors").read_bytes()
    assert contents(whole / "checkpoints") == contents(extended[0] / "checkpoints")
    assert record_of(whole)["derived"] == []


def test_where_nothing_follows_from_the_steps_it_equals_a_longer_one(images, tmp_path):
    fixed = {"lr_floor": 1.0, "adversarial_weight": 0.0, **FROM_STEPS}
    out = train_tiny_vqgan(images, tmp_path / "out", **fixed)
    train_tiny_vqgan(images, out, steps=9, **fixed)
    longer = train_tiny_vqgan(images, tmp_path / "longer", steps=9, **fixed)
    assert checkpoint_of(out, 9) == checkpoint_of(longer, 9)
    assert settings_of(out)["decay_steps"] is None


def test_killed_while_it_is_extended_it_ends_in_the_same_bytes(extended, copy, images):
    wanted, moments = extended
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    settings = {"steps": 10, **FROM_STEPS}
    kills = sum(
        kill_at(chance.randint(1, moments // 2), train_tiny_vqgan, images, copy, **settings) for _ in range(3)
    )
    assert kills > 0, f"seed {seed}"
    train_tiny_vqgan(images, copy, **settings)
    assert contents(copy) == contents(wanted), f"seed {seed}"


def test_its_weights_are_the_earlier_ones_until_the_end(extended, short, copy, images, monkeypatch):
    with monkeypatch.context() as patch:
        ctrl_c_at(patch, vqgan_training, 8, 1)
        with pytest.raises(KeyboardInterrupt):
            train_tiny_vqgan(images, copy, steps=10, **FROM_STEPS)
    assert load_checkpoint(copy).step == 8
    assert load_tokenizer(copy).sha256 == load_tokenizer(short).sha256
    assert (settings_of(copy)["steps"], record_of(copy)["step"]) == (10, 6)
    train_tiny_vqgan(images, copy, steps=10, **FROM_STEPS)
    assert contents(copy) == contents(extended[0])


def test_a_kill_between_the_new_weights_and_their_digest(extended, copy, images):
    """The old digest is gone by then, so that the weights are unfinished, not damaged."""
    wanted, moments = extended
    settings = {"steps": 10, **FROM_STEPS}
    assert kill_at(moments - 2, train_tiny_vqgan, images, copy, **settings)
    with pytest.raises(MaskGITError, match="maskgit train-vqgan"):
        load_tokenizer(copy)
    train_tiny_vqgan(images, copy, **settings)
    assert contents(copy) == contents(wanted)


def test_an_unfinished_one_is_extended(images, tmp_path, extended, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        ctrl_c_at(patch, vqgan_training, 3, 1)
        with pytest.raises(KeyboardInterrupt):
            train_tiny_vqgan(images, out, **FROM_STEPS)
    train_tiny_vqgan(images, out, steps=10, **FROM_STEPS)
    assert settings_of(out)["adversarial_start"] == 3
    assert checkpoint_of(out, 10) == checkpoint_of(extended[0], 10)


def test_fewer_steps_than_are_done_are_refused(copy, short, images):
    with pytest.raises(OutputError, match=r"--steps 4: .*already trained for 6 steps"):
        train_tiny_vqgan(images, copy, steps=4, **FROM_STEPS)
    assert contents(copy) == contents(short)


def test_a_refusal_names_what_was_changed(copy, short, images):
    for change, text in (
        ({"lr": 2e-3}, r"--lr 0\.001, not 0\.002"),
        ({"adversarial_start": 5}, "--adversarial-start 3, not 5"),
        ({"decay_steps": 10}, "--decay-steps 6, not 10"),
    ):
        with pytest.raises(OutputError, match=text):
            train_tiny_vqgan(images, copy, **{"steps": 10, **FROM_STEPS, **change})
    assert contents(copy) == contents(short)


def test_an_explicit_setting_is_not_forgotten(images, tmp_path):
    out = train_tiny_vqgan(images, tmp_path / "out", adversarial_start=2)
    with pytest.raises(OutputError, match="--adversarial-start 2, not 5"):
        train_tiny_vqgan(images, out, steps=10, adversarial_start=None)


def test_without_a_checkpoint_the_weights_are_kept(copy, images):
    shutil.rmtree(copy / "checkpoints")
    before = contents(copy)
    with pytest.raises(OutputError, match="--init-from"):
        train_tiny_vqgan(images, copy, steps=10, **FROM_STEPS)
    assert contents(copy) == before
    assert train_tiny_vqgan(images, copy, **FROM_STEPS) == copy, "a finished one needs none"


def test_one_that_replaces_it_has_settings_of_its_own(copy, images):
    train_tiny_vqgan(images, copy, {"overwrite": True}, steps=8, **FROM_STEPS)
    assert (settings_of(copy)["adversarial_start"], settings_of(copy)["decay_steps"]) == (4, 8)


def test_records_without_derived_settings_are_continued(copy, images, extended):
    record = record_of(copy)
    del record["derived"], record["step"], record["settings"]["decay_steps"]
    (copy / "config.json").write_text(json.dumps(record))
    rewrite_record(copy / "config.json")
    train_tiny_vqgan(images, copy, steps=10, **FROM_STEPS)
    assert contents(copy) == contents(extended[0])


# --- runs -------------------------------------------------------------------------------------------


def test_a_run_with_a_decay_is_extended(tokens, tmp_path):
    run = train_tiny(tokens, tmp_path / "run", lr_floor=0.2)
    train_tiny(tokens, run, lr_floor=0.2, steps=8)
    whole = train_tiny(tokens, tmp_path / "whole", lr_floor=0.2, steps=8, decay_steps=6)
    assert contents(run / "checkpoints") == contents(whole / "checkpoints")
    assert metrics(run) == metrics(whole)
    other = train_tiny(tokens, tmp_path / "other", lr_floor=0.2, steps=8)
    assert checkpoint_of(other, 8) != checkpoint_of(whole, 8), "the decay has another length"


def test_a_run_is_not_cut(run, tokens, tmp_path):
    twin = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(OutputError, match=r"--steps 4: .*already trained for 6 steps"):
        train_tiny(tokens, twin, steps=4)
    assert contents(twin) == contents(run)


def test_a_recipe_keeps_its_settings(tokens, tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "small", Size(32, 1, 4, 64))
    changes = {"preview_every": 0, "batch_size": 8}

    def train(steps):
        given = changes | {"steps": steps}
        transformer.train(tokens, tmp_path / "run", given, recipe="small", device="cpu")
        return record_of(tmp_path / "run")

    before, after = train(100), train(104)
    assert sorted(before["derived"]) == ["decay_steps", "ema", "warmup", "weight_decay_on"]
    assert (before["settings"]["warmup"], before["settings"]["ema"]) == (2, 0.92)
    free = {"steps": 104, "checkpoint_every": 10}
    assert after["settings"] == before["settings"] | free
    assert load_checkpoint(tmp_path / "run").step == 104


def test_a_length_of_a_decay_without_one_is_refused(tokens, images, tmp_path):
    for train, source in ((train_tiny, tokens), (train_tiny_vqgan, images)):
        with pytest.raises(MaskGITError, match=r"--decay-steps 4: .*--lr-floor"):
            train(source, tmp_path / "out", decay_steps=4, lr_floor=1.0)


@pytest.mark.parametrize("more", [True, False])
def test_a_run_of_another_order_continues_in_this_one(tokens, tmp_path, more):
    """Its record has no ``order``; a finished run keeps the record that it has."""
    run = train_tiny(tokens, tmp_path / "run", steps=2)
    assert read_json(run / "config.json", "a run")["order"] == ORDER
    rewrite_record(run / "config.json", order=None)
    reporter = Warnings()
    train_tiny(tokens, run, {"reporter": reporter}, steps=3 if more else 2)
    assert [text for text in reporter.warnings if "from step 3 on" in text] == reporter.warnings
    assert len(reporter.warnings) == more
    assert ("order" in read_json(run / "config.json", "a run")) == more
