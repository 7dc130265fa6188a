"""Training: one step, and that interruption, processes and micro-batches change nothing."""

import copy
import dataclasses
import json
import math
import os
import random
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_models import CODES, GRID, NAMES, make_tokenizer
from tiny_training import (
    TRAINING,
    contents,
    count_syncs,
    ctrl_c_at,
    in_processes,
    kill_at,
    metrics,
    train_tiny,
    write_tokens,
)

from maskgit_cli.config.networks import SIZES, Size
from maskgit_cli.config.training import TrainConfig
from maskgit_cli.data.splitting import held_out
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, MaskGITError, OutputError
from maskgit_cli.formats.atomic import read_json
from maskgit_cli.formats.locks import lock
from maskgit_cli.formats.runs import load_checkpoint, newest_checkpoint
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.networks.loading import load_model
from maskgit_cli.networks.maskgit import MaskGIT
from maskgit_cli.runtime.distributed import World, make_accelerator
from maskgit_cli.runtime.progress import SILENT
from maskgit_cli.training import batches, objective
from maskgit_cli.training import transformer as training

CPU = torch.device("cpu")
# The resolved settings of these trainings.
RESOLVED = TRAINING | {"network": "maskgit", "drop_label": 0.1, "init": "truncated"}


def weights(run):
    return load_checkpoint(run).tensors


def initial(run, seed):
    """The network of a run before its first step."""
    config = load_model(run).config
    torch.manual_seed(seed)
    return MaskGIT(config)


def settings_of(**changes):
    """The settings in the record of a tiny run; the network is another key of the record."""
    settings = TrainConfig(**RESOLVED | changes).to_json()
    del settings["network"]
    return settings


def steps_of(run):
    return [line["step"] for line in metrics(run) if "loss" in line]


# --- the batch --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch(tokens):
    config = TrainConfig(batch_size=12_000, drop_label=0.1)
    return batches.make_batch(3, open_tokens(tokens), config, CPU)


def test_masked_tokens_and_no_others_become_the_mask(batch):
    assert torch.equal(batch.inputs == CODES, batch.masked)
    assert torch.equal(batch.inputs[~batch.masked], batch.tokens[~batch.masked])


def test_mask_ratio_is_the_arccos_of_a_uniform_number(batch):
    """Its distribution is 1 - cos(π/2·x), because arccos falls."""
    share = batch.masked.flatten(1).double().mean(1)
    for x in (0.25, 0.5, 0.75):
        # A share of 16 tokens spreads around the ratio; the spread is symmetric enough for 3 percent.
        assert (share < x).double().mean() + (share == x).double().mean() / 2 == pytest.approx(
            1 - math.cos(math.pi / 2 * x), abs=0.03
        )


def test_every_token_is_masked_independently(batch):
    """Moments of the ratio ρ: E ρ = 2/π and E ρ² = (π-2)·4/π², the probability that two tokens are masked."""
    masked = batch.masked.flatten(1).double()
    together = masked.T @ masked / len(masked)
    alone = together.diagonal()
    pairs = together[~torch.eye(GRID**2, dtype=torch.bool)]
    assert (alone - 2 / math.pi).abs().max() < 0.02
    assert (pairs - (math.pi - 2) * 4 / math.pi**2).abs().max() < 0.02


@pytest.mark.parametrize("schedule", ["cosine", "arccos", "square"])
@pytest.mark.parametrize("n", [16, 64])
def test_an_exact_count_is_masked(schedule, n):
    """⌈γ(r)·N⌉ of each image, at least one (arXiv 2202.04200, section 3.2), all places being alike."""
    config = TrainConfig(mask_schedule=schedule, mask_count="exact")
    torch.manual_seed(0)
    u, v = torch.rand(4000, dtype=torch.float64), torch.rand(4000, n, dtype=torch.float64)
    u[0] = 1 - 1e-12  # a ratio near zero
    masked = batches.draw_masks(u, v, config)
    wanted = {
        "cosine": lambda r: math.cos(math.pi / 2 * r),
        "arccos": lambda r: math.acos(r) / (math.pi / 2),
        "square": lambda r: 1 - r**2,
    }[schedule]
    assert masked.sum(1).tolist() == [max(1, math.ceil(wanted(r) * n)) for r in u.tolist()]
    shares = masked.double().mean(0)
    assert (shares - shares.mean()).abs().max() < 4.5 * (0.25 / 4000) ** 0.5


@pytest.mark.parametrize("count", ["bernoulli", "exact"])
def test_the_mask_ratio_has_a_minimum(count):
    config = TrainConfig(mask_min=0.5, mask_count=count)
    torch.manual_seed(0)
    u, v = torch.rand(2000, dtype=torch.float64), torch.rand(2000, 64, dtype=torch.float64)
    masked, free = (batches.draw_masks(u, v, c) for c in (config, TrainConfig(mask_count=count)))
    low = torch.arccos(u) / (math.pi / 2) < 0.5
    assert float(masked[low].double().mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(masked[~low], free[~low])
    if count == "exact":
        assert set(masked[low].sum(1).tolist()) == {32}


def test_validation_masks_as_the_training_does(run, tokens):
    found = {}
    accelerator = make_accelerator(CPU, torch.float32)
    network = load_model(run).network.eval()
    for count in ("bernoulli", "exact"):
        config = TrainConfig(batch_size=8, mask_count=count)
        found[count] = objective.validation_loss(network, open_tokens(tokens), config, accelerator)
    assert found["bernoulli"] != found["exact"]


def test_label_dropout_has_its_probability(batch):
    assert batch.drop.double().mean() == pytest.approx(0.1, abs=0.01)


def test_an_epoch_takes_every_image_once(tokens):
    data = open_tokens(tokens)
    config = TrainConfig(batch_size=8, drop_label=0.1)
    parts = [batches.make_batch(step, data, config, CPU) for step in (1, 2, 3)]
    tokens = torch.cat([part.tokens for part in parts]).flatten(1)
    labels = torch.cat([part.labels for part in parts])
    assert sorted(labels.tolist()) == sorted(data.labels.tolist())
    # The images differ in their label alone.
    assert torch.equal(tokens, torch.from_numpy(data.codes[labels.numpy(), 0].astype("int64")).flatten(1))
    assert not torch.equal(parts[0].masked, parts[1].masked)
    assert not torch.equal(labels, torch.cat([parts[1].labels, parts[2].labels, parts[0].labels]))


def test_processes_share_a_batch(tokens, monkeypatch):
    data, config = open_tokens(tokens), TrainConfig(batch_size=8, drop_label=0.1)
    whole = batches.make_batch(5, data, config, CPU)
    for rank in (0, 1):
        monkeypatch.setattr(batches, "world", lambda rank=rank: World(rank, 2))
        part = batches.make_batch(5, data, config, CPU)
        for mine, all_of_them in zip(part, whole, strict=True):
            assert torch.equal(mine, all_of_them[4 * rank : 4 * rank + 4])


def test_views_are_chosen_at_random(tokenizer, tmp_path):
    codes = np.broadcast_to(np.arange(2).reshape(1, 2, 1, 1), (4, 2, GRID, GRID))
    path = write_tokens(tmp_path / "t.h5", tokenizer, codes, np.zeros(4, np.int32), views="flip")
    batch = batches.make_batch(1, open_tokens(path), TrainConfig(batch_size=4000, drop_label=0.1), CPU)
    assert batch.tokens.double().mean() == pytest.approx(0.5, abs=0.03)


def test_every_random_view_of_an_image_is_used(tokenizer, tmp_path):
    codes = np.broadcast_to(np.arange(7).reshape(1, 7, 1, 1), (4, 7, GRID, GRID))
    path = write_tokens(tmp_path / "t.h5", tokenizer, codes, np.zeros(4, np.int32), views="random:7")
    data, config = open_tokens(path), TrainConfig(batch_size=4, drop_label=0.1)
    epochs = [batches.make_batch(step, data, config, CPU).tokens[:, 0, 0] for step in range(1, 201)]
    counts = torch.cat(epochs).bincount(minlength=7)
    assert len(counts) == 7
    assert counts.min() > 80  # 114 on average
    assert not all(torch.equal(epoch, epochs[0]) for epoch in epochs)


def test_training_on_a_part_warns(tokenizer, tmp_path):
    path = write_tokens(tmp_path / "part.h5", tokenizer, settings={"range": [24, 48], "listed": 90})
    data, warnings = open_tokens(path), []
    reporter = SimpleNamespace(warn=warnings.append, info=None)
    training._resolve(data, training._split(data, None, None), None, "paper", None, reporter)
    assert len(warnings) == 1
    assert "24:48 of 90" in warnings[0]


# --- the loss ---------------------------------------------------------------------------------------


def test_label_smoothing_spreads_over_the_tokens_and_the_mask(batch):
    batch = batches.Batch(*(part[:5] for part in batch))
    logits = torch.randn(5, GRID**2, CODES + 1)
    target = F.one_hot(batch.tokens.flatten(1), CODES + 1) * 0.9 + 0.1 / (CODES + 1)
    by_position = -(target * logits.log_softmax(-1)).sum(-1)
    everywhere = objective.masked_loss(logits, batch, TrainConfig())
    torch.testing.assert_close(everywhere, by_position.sum())
    masked = objective.masked_loss(logits, batch, TrainConfig(loss_on="masked"))
    torch.testing.assert_close(masked, by_position[batch.masked.flatten(1)].sum())
    assert masked < everywhere


@pytest.mark.parametrize("loss_on", ["all", "masked"])
def test_the_loss_is_a_mean_over_the_positions_it_is_on(tokens, tmp_path, loss_on):
    run = train_tiny(tokens, tmp_path / "run", steps=1, dropout=0.0, loss_on=loss_on, seed=4)
    config = TrainConfig(**RESOLVED | {"loss_on": loss_on, "seed": 4, "dropout": 0.0})
    batch = batches.make_batch(1, open_tokens(tokens), config, CPU)
    logits = initial(run, 4)(batch.inputs, batch.labels, batch.drop)
    positions = batch.masked.numel() if loss_on == "all" else int(batch.masked.sum())
    wanted = float(objective.masked_loss(logits, batch, config).detach()) / positions
    assert metrics(run)[0]["loss"] == pytest.approx(wanted, abs=2e-6)


def test_the_steps_are_those_of_a_plain_loop(tokens, tmp_path):
    """The same recipe with torch's own AdamW and without Accelerate."""
    settings = {"dropout": 0.0, "weight_decay": 0.5, "clip": 0.2, "warmup": 3, "lr": 2e-3, "steps": 4}
    run = train_tiny(tokens, tmp_path / "run", **settings)
    config, data = TrainConfig(**RESOLVED | settings), open_tokens(tokens)
    network = initial(run, 0)
    ema = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.96), weight_decay=0.5, foreach=False)
    for step in range(1, 5):
        batch = batches.make_batch(step, data, config, CPU)
        logits = network(batch.inputs, batch.labels, batch.drop)
        F.cross_entropy(logits.flatten(0, 1), batch.tokens.flatten(), label_smoothing=0.1).backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.2)
        assert metrics(run)[step - 1]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, step / 3)
        optimizer.step()
        optimizer.zero_grad()
        kept = (1 + step) / (10 + step)
        for mean, value in zip(ema.parameters(), network.parameters(), strict=True):
            mean.data = kept * mean.data + (1 - kept) * value.data
    for kind, wanted in [("model", network), ("ema", ema)]:
        for name, tensor in weights(run)[kind].items():
            torch.testing.assert_close(tensor, wanted.state_dict()[name], atol=2e-6, rtol=0)


def test_a_dropped_label_is_not_trained(tokens, tmp_path):
    run = train_tiny(tokens, tmp_path / "run", drop_label=1.0, weight_decay=0.0)
    before = initial(run, 0).embedding.weight[CODES + 1 :]
    after = weights(run)["model"]["embedding.weight"][CODES + 1 :]
    assert torch.equal(after[:-1], before[:-1])
    assert not torch.equal(after[-1], before[-1])


def test_loss_falls_on_data_that_can_be_learned(tokens, tmp_path):
    settings = {"steps": 150, "lr": 3e-3, "label_smoothing": 0.0, "checkpoint_every": 150, "dropout": 0.0}
    run = train_tiny(tokens, tmp_path / "run", {"val": tokens}, **settings)
    losses = [line["loss"] for line in metrics(run) if "loss" in line]
    assert np.mean(losses[:5]) > 2.0
    assert np.mean(losses[-10:]) < 0.7
    assert metrics(run)[-1]["val_loss"] < 1.0


# --- the run directory ------------------------------------------------------------------------------


def test_a_run_directory_holds_what_it_should(run, tokens, tokenizer):
    assert {p.name for p in run.iterdir()} == {
        "config.json", "tokenizer", "metrics.jsonl", "previews", "checkpoints"
    }  # fmt: skip
    record = json.loads((run / "config.json").read_text())
    assert record["settings"] == settings_of(preview_every=6)
    assert record["parents"] == [
        {"kind": "tokens", "name": "tokens.h5", "sha256": open_tokens(tokens).sha256},
        {"kind": "images", "name": "photos", "sha256": "0" * 64},
    ]
    assert record["class_names"] == NAMES
    assert contents(run / "tokenizer") == contents(tokenizer)
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == ["step-00000004", "step-00000006"]
    assert steps_of(run) == [1, 2, 3, 4, 5, 6]
    assert metrics(run)[-1].keys() == {"step", "epoch", "lr", "loss", "grad_norm", "ema_distance"} | {
        "accuracy", "accuracy_0_25", "accuracy_25_50", "accuracy_50_75", "accuracy_75_100"
    }  # fmt: skip
    assert metrics(run)[-1]["epoch"] == 2.0
    assert [line["lr"] for line in metrics(run)[:3]] == [5e-4, 1e-3, 1e-3]


def test_previews_are_grids_of_samples(run):
    with Image.open(run / "previews" / "step-00000006.png") as sheet:
        assert sheet.size == (6 * 18 + 2, 6 * 18 + 2)
        assert len(sheet.getcolors(10**6)) > 10


def test_a_run_is_opened_with_its_ema_weights(run):
    state = weights(run)
    assert torch.equal(load_model(run).network.bias, state["ema"]["bias"])
    assert torch.equal(load_model(run, weights="raw").network.bias, state["model"]["bias"])
    # The bias was initialized with zeros.
    assert 0 < state["ema"]["bias"].norm() < state["model"]["bias"].norm()
    assert load_model(run).step == 6


def test_images_without_labels_can_be_trained_on(tokenizer, tmp_path):
    labels = np.full(4, -1, np.int32)
    path = write_tokens(tmp_path / "t.h5", tokenizer, None, labels, class_names=[])
    run = train_tiny(path, tmp_path / "run", {"tokenizer": tokenizer}, steps=2, preview_every=2)
    assert load_model(run).config.classes == 0


def test_classes_may_have_numbers_only(tokenizer, tmp_path):
    path = write_tokens(tmp_path / "t.h5", tokenizer, class_names=[])
    run = train_tiny(path, tmp_path / "run", {"tokenizer": tokenizer}, steps=1)
    assert load_model(run).config.classes == 3


def test_half_precision_keeps_the_weights_in_float32(tokens, tmp_path):
    run = train_tiny(tokens, tmp_path / "run", {"dtype": "bf16"}, steps=2)
    assert {t.dtype for t in weights(run)["model"].values()} == {torch.float32}
    exact = train_tiny(tokens, tmp_path / "exact", steps=2)
    assert metrics(run)[0]["loss"] != metrics(exact)[0]["loss"]
    assert metrics(run)[0]["loss"] == pytest.approx(metrics(exact)[0]["loss"], abs=0.05)


# --- validation -------------------------------------------------------------------------------------


def test_validation_does_not_depend_on_the_batch(tokens, run):
    data, network = open_tokens(tokens), load_model(run).network
    accelerator = make_accelerator(CPU, torch.float32)
    whole, parts, other = (
        objective.validation_loss(network, data, TrainConfig(batch_size=size, seed=seed), accelerator)
        for size, seed in [(24, 0), (5, 0), (24, 1)]
    )
    assert whole == pytest.approx(parts, abs=1e-6)
    assert whole != other
    assert 1.0 < whole < 4.0


def test_validation_is_on_masked_tokens_alone(tokens, run, monkeypatch):
    """A network that repeats its input, and is uniform at masked positions, loses log (K+1) there."""

    def echo(tokens, labels):
        unmasked = F.one_hot(tokens.flatten(1), CODES + 1) * 1e4
        return torch.where((tokens.flatten(1) == CODES)[..., None], 0.0, unmasked)

    loss = objective.validation_loss(
        echo, open_tokens(tokens), TrainConfig(batch_size=8), make_accelerator(CPU, torch.float32)
    )
    assert loss == pytest.approx(math.log(CODES + 1), abs=1e-6)


def test_validation_is_logged_at_every_checkpoint(tokens, tmp_path):
    run = train_tiny(tokens, tmp_path / "run", {"val": tokens}, steps=5)
    assert [line["step"] for line in metrics(run) if "val_loss" in line] == [2, 4, 5]


def test_validation_on_tokens_of_another_tokenizer_is_refused(tokens, tmp_path):
    other = write_tokens(tmp_path / "t.h5", make_tokenizer(tmp_path / "other", seed=1))
    with pytest.raises(ConfigError, match=r"--val .*tokenizer_sha256"):
        train_tiny(tokens, tmp_path / "run", {"val": other})


# --- held-out rows ----------------------------------------------------------------------------------


def test_a_batch_of_some_rows(tokens):
    """Images differ in their label alone, so labels tell the rows."""
    data, rows = open_tokens(tokens), np.array([3, 4, 9, 13, 22])
    config = TrainConfig(batch_size=5, drop_label=0.1)
    for step in (1, 2):
        batch = batches.make_batch(step, data, config, CPU, rows)
        assert sorted(batch.labels.tolist()) == sorted(data.labels[rows].tolist())


def test_held_out_rows_change_nothing_in_the_training(tokenizer, tokens, tmp_path):
    """Two files that differ in the held-out rows alone give the same weights and other validation losses."""
    codes, labels = open_tokens(tokens).codes, open_tokens(tokens).labels
    other = codes.copy()
    chosen = held_out(labels, 0.25, 3)
    assert np.bincount(labels[chosen]).tolist() == [2, 2, 2]
    other[chosen] = (other[chosen] + 1) % CODES
    paths = [write_tokens(tmp_path / f"{i}.h5", tokenizer, c, labels) for i, c in enumerate((codes, other))]
    settings = {"seed": 3, "val_split": 0.25, "steps": 5}
    extra = {"tokenizer": tokenizer}
    runs = [train_tiny(path, tmp_path / f"run-{path.stem}", extra, **settings) for path in paths]
    first, second = (metrics(run) for run in runs)
    trained = [[line for line in lines if "val_loss" not in line] for lines in (first, second)]
    assert trained[0] == trained[1]
    losses = [[line["val_loss"] for line in lines if "val_loss" in line] for lines in (first, second)]
    assert len(losses[0]) == 3
    assert all(a != b for a, b in zip(*losses, strict=True))
    for name, tensors in weights(runs[0]).items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, weights(runs[1])[name][key])
    # An epoch is a pass over the 18 other rows.
    assert trained[0][-1]["epoch"] == round(5 * TRAINING["batch_size"] / 18, 4)


def test_the_loss_of_held_out_rows_is_theirs(tokens, run):
    data, network = open_tokens(tokens), load_model(run).network
    accelerator = make_accelerator(CPU, torch.float32)
    rows, seen = np.array([1, 5, 6, 20]), []

    def spy(tokens, labels):
        seen.extend(labels.tolist())
        return network(tokens, labels)

    def loss(rows, size):
        return objective.validation_loss(spy, data, TrainConfig(batch_size=size), accelerator, rows)

    part = loss(rows, 3)
    assert seen == data.labels[rows].tolist()
    assert part == pytest.approx(loss(rows, 1), abs=1e-6)
    assert part != loss(np.array([0, 5, 6, 20]), 3)
    assert loss(np.arange(24), 5) == pytest.approx(loss(None, 5), abs=1e-6)


def test_a_split_is_a_setting_of_the_run(tokens, tmp_path):
    run = train_tiny(tokens, tmp_path / "run", val_split=0.25, steps=2)
    assert read_json(run / "config.json", "a run")["settings"]["val_split"] == 0.25
    for split, message in ((None, "--val-split 0.25, not none"), (0.5, "--val-split 0.25, not 0.5")):
        with pytest.raises(OutputError, match=message):
            train_tiny(tokens, tmp_path / "run", val_split=split, steps=4)


def test_steps_follow_from_the_rows_that_are_trained_on(tokens, tmp_path):
    settings = {"steps": None, "epochs": 2, "batch_size": 6}
    run = train_tiny(tokens, tmp_path / "run", val_split=0.25, **settings)
    assert steps_of(run)[-1] == 6  # 2 · 18 / 6


def test_a_split_and_a_file_to_validate_on(tokens, tmp_path):
    with pytest.raises(ConfigError, match=r"--val-split 0\.5: not with --val"):
        train_tiny(tokens, tmp_path / "run", {"val": tokens}, val_split=0.5)
    assert not (tmp_path / "run").exists()


# --- interruption -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tokens, tmp_path_factory):
    """A run, and the number of its fsyncs."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    extra = {"val": tokens}
    return out, count_syncs(train_tiny, tokens, out, extra, steps=6, preview_every=3)


def test_killed_at_random_moments_it_ends_in_the_same_bytes(undisturbed, tokens, tmp_path):
    wanted, moments = undisturbed
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    arguments, settings = (tokens, tmp_path / "run", {"val": tokens}), {"steps": 6, "preview_every": 3}
    kills = sum(
        kill_at(chance.randint(1, moments // 2), train_tiny, *arguments, **settings) for _ in range(4)
    )
    assert kills > 0
    train_tiny(*arguments, **settings)
    assert contents(tmp_path / "run") == contents(wanted), f"seed {seed}"


@pytest.mark.parametrize("moment", [1, 2, 3, 5, 9])
def test_killed_at_the_start_it_can_be_started_again(undisturbed, tokens, tmp_path, moment):
    kill_at(moment, train_tiny, tokens, tmp_path / "run", {"val": tokens}, steps=6, preview_every=3)
    train_tiny(tokens, tmp_path / "run", {"val": tokens}, steps=6, preview_every=3)
    assert contents(tmp_path / "run") == contents(undisturbed[0])


def test_stopped_and_resumed_equals_never_stopped(run, tokens, tmp_path):
    train_tiny(tokens, tmp_path / "run", steps=4, keep=1)
    train_tiny(tokens, tmp_path / "run", steps=6, preview_every=6)
    assert contents(tmp_path / "run" / "checkpoints" / "step-00000006") == contents(
        run / "checkpoints" / "step-00000006"
    )
    assert metrics(tmp_path / "run") == metrics(run)


def test_lines_after_the_checkpoint_are_dropped(run, tokens, tmp_path):
    train_tiny(tokens, tmp_path / "run", steps=4)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 1}\n{"step": 6, "loss": 1}\n{"step": 7, "lo')
    train_tiny(tokens, tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(run)


def test_a_damaged_line_of_the_log_is_named(tokens, tmp_path):
    train_tiny(tokens, tmp_path / "run", steps=4)
    log = tmp_path / "run" / "metrics.jsonl"
    before = log.read_text()
    log.write_text(before + "\0\0\0\n")
    with pytest.raises(ArtifactError, match=r"metrics.jsonl: line 5"):
        train_tiny(tokens, tmp_path / "run")
    assert log.read_text() == before + "\0\0\0\n"


def test_interrupted_after_a_checkpoint_nothing_of_the_log_is_lost(
    undisturbed, tokens, tmp_path, monkeypatch
):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "validation_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tokens, tmp_path / "run", {"val": tokens}, steps=6, preview_every=3)
    train_tiny(tokens, tmp_path / "run", {"val": tokens}, steps=6, preview_every=3)
    assert metrics(tmp_path / "run") == metrics(undisturbed[0])


def test_a_line_of_the_log_covers_steps_before_a_resume(tokens, tmp_path, monkeypatch):
    uneven = {"checkpoint_every": 2, "log_every": 3, "steps": 7}
    wanted = train_tiny(tokens, tmp_path / "wanted", **uneven)
    with monkeypatch.context() as patch:
        whole_step = training.train_step

        def stop_at_five(step, *rest):
            if step == 5:
                raise KeyboardInterrupt
            return whole_step(step, *rest)

        patch.setattr(training, "train_step", stop_at_five)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tokens, tmp_path / "run", **uneven)
    resumed = train_tiny(tokens, tmp_path / "run", **uneven)
    assert [line["step"] for line in metrics(resumed)] == [3, 6, 7]
    assert contents(resumed) == contents(wanted)


@pytest.mark.parametrize(("times", "kept"), [(1, 5), (2, 4)])
def test_ctrl_c_waits_for_the_step_and_a_checkpoint_but_not_twice(
    times, kept, tokens, tmp_path, monkeypatch, capsys
):
    uneven = {"checkpoint_every": 2, "log_every": 3, "steps": 8}
    wanted = train_tiny(tokens, tmp_path / "wanted", **uneven)
    with monkeypatch.context() as patch:
        ctrl_c_at(patch, training, 5, times)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tokens, tmp_path / "run", **uneven)
    assert newest_checkpoint(tmp_path / "run").name == f"step-{kept:08d}"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert contents(train_tiny(tokens, tmp_path / "run", **uneven)) == contents(wanted)


def test_a_signal_that_comes_again_does_not_keep_it_from_the_checkpoint(tokens, tmp_path, monkeypatch):
    """A closed terminal sends two, and a launcher passes signals on to processes that had them already."""
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    whole_step = training.train_step

    def signaled_twice(step, *rest):
        if step == 3:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGHUP)
        return whole_step(step, *rest)

    monkeypatch.setattr(training, "train_step", signaled_twice)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tokens, tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run").name == "step-00000003"


@pytest.mark.parametrize("during", ["save_state", "train_step"])
def test_ctrl_c_at_the_end_is_not_lost(during, tokens, tmp_path, monkeypatch):
    whole = getattr(training, during)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(*arguments):
        if 2 in [argument for argument in arguments[:2] if isinstance(argument, int)]:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(*arguments)

    monkeypatch.setattr(training, during, interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tokens, tmp_path / "run", steps=2)
    assert load_model(tmp_path / "run").step == 2


def test_a_run_that_is_moved_is_resumed_with_its_own_tokenizer(tokens, tmp_path, monkeypatch):
    alone = shutil.copyfile(tokens, tmp_path / tokens.name)  # without a tokenizer next to it
    given = {"tokenizer": tokens.parent / "tokenizer"}
    moved = tmp_path / "elsewhere" / "run"
    train_tiny(alone, moved, given, steps=2)
    monkeypatch.chdir(tmp_path)
    train_tiny(alone, moved, steps=4)
    assert metrics(moved)[-1]["step"] == 4


def test_a_finished_run_is_not_changed(run, tokens, tmp_path):
    twin = shutil.copytree(run, tmp_path / "run")
    train_tiny(tokens, twin, preview_every=6)
    assert contents(twin) == contents(run)


# --- processes and micro-batches --------------------------------------------------------------------


def without_key_biases(tensors):
    """All weights of a run (P,), but for the biases of keys.

    A key's bias adds the same to all scores of a query, which softmax takes out again: its gradient is zero
    but for rounding, and Adam makes a whole step of whatever the rounding leaves.
    """
    keys = [name for name in tensors if name.endswith("qkv.bias")]
    assert keys
    return torch.cat([(t.view(3, -1)[::2] if name in keys else t).flatten() for name, t in tensors.items()])


@pytest.mark.parametrize(("loss_on", "dropout"), [("all", 0.0), ("masked", 0.0), ("masked", 0.1)])
def test_a_batch_may_be_split_in_any_way(tokens, tmp_path, loss_on, dropout):
    settings = {"dropout": dropout, "loss_on": loss_on, "clip": 0.05, "steps": 4}
    runs = [tmp_path / name for name in ("whole", "pieces", "processes", "both")]
    train_tiny(tokens, runs[0], **settings)
    train_tiny(tokens, runs[1], **settings, accumulate=4)
    in_processes(2, train_tiny, tokens, runs[2], {"val": tokens}, **settings)
    in_processes(2, train_tiny, tokens, runs[3], **settings, accumulate=2)
    whole = weights(runs[0])
    for run in runs[1:]:
        for key in ("loss", "grad_norm"):
            found, wanted = ([line[key] for line in metrics(r) if key in line] for r in (run, runs[0]))
            assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6)  # the log has six decimals
        for kind in ("model", "ema"):
            wanted, found = (without_key_biases(tensors[kind]) for tensors in (whole, weights(run)))
            assert (found - wanted).norm() <= 1e-6 * wanted.norm()
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    alone = train_tiny(tokens, tmp_path / "alone", {"val": tokens}, **settings)
    assert metrics(runs[2])[-1]["val_loss"] == pytest.approx(metrics(alone)[-1]["val_loss"], abs=1e-5)


def test_dropout_differs_between_rows_and_steps(tokens):
    data, config = open_tokens(tokens), TrainConfig(batch_size=8, drop_label=0.1)
    seeds = torch.cat([batches.make_batch(step, data, config, CPU).seeds for step in (1, 2, 3)])
    assert len(seeds.unique()) == 24


def test_an_error_of_the_first_process_ends_all_of_them(tokens, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("no JSON")
    in_processes(2, _expect, ArtifactError, train_tiny, tokens, tmp_path / "run")


def _expect(error, function, *arguments):
    with pytest.raises(error):
        function(*arguments)


def test_a_batch_that_cannot_be_split_is_refused(tokens, tmp_path):
    with pytest.raises(ConfigError, match="--batch-size 8: must be a multiple of 3"):
        train_tiny(tokens, tmp_path / "run", accumulate=3)
    assert not (tmp_path / "run").exists()


# --- refusals ---------------------------------------------------------------------------------------


def test_another_resolution_names_the_command_that_makes_it(tokens, tmp_path):
    with pytest.raises(InputError, match=r"`maskgit tokenize .*tokens-512\.h5 --res 512 --views none`"):
        train_tiny(tokens, tmp_path / "run", {"res": 512})
    assert not (tmp_path / "run").exists()


def test_other_settings_over_a_run_are_named(run, tokens, tokenizer, tmp_path):
    twin = shutil.copytree(run, tmp_path / "run")
    with pytest.raises(OutputError, match=r"--lr 0\.001, not 0\.002"):
        train_tiny(tokens, twin, lr=2e-3)
    with pytest.raises(OutputError, match="--loss-on all, not masked"):
        train_tiny(tokens, twin, loss_on="masked")
    other = write_tokens(tmp_path / "t.h5", tokenizer, labels=np.zeros(4, np.int32))
    with pytest.raises(OutputError, match=r"tokens [0-9a-f]{12}, not"):
        train_tiny(other, twin, {"tokenizer": tokenizer})
    assert contents(twin) == contents(run)
    # The number of steps and the intervals may change.
    train_tiny(tokens, twin, steps=7, keep=1, log_every=7, checkpoint_every=5)
    assert steps_of(twin) == [1, 2, 3, 4, 5, 6, 7]


def test_the_learning_rate_may_decay(tokens, tmp_path):
    """A cosine from the peak to the floor, whose length is that of the run when it was started."""
    run = train_tiny(tokens, tmp_path / "run", lr_floor=0.2)
    decay = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(1, 7)]
    warm = [0.5, 1, 1, 1, 1, 1]
    wanted = [1e-3 * a * b for a, b in zip(warm, decay, strict=True)]
    assert [line["lr"] for line in metrics(run) if "lr" in line] == pytest.approx(wanted)
    constant = train_tiny(tokens, tmp_path / "constant")
    assert [line["lr"] for line in metrics(constant) if "lr" in line] == pytest.approx([5e-4] + 5 * [1e-3])
    assert metrics(run)[-1]["loss"] != metrics(constant)[-1]["loss"]
    train_tiny(tokens, run, lr_floor=0.2, steps=8)
    extended = [*wanted, *[1e-3 * 0.2] * 2]
    assert [line["lr"] for line in metrics(run) if "lr" in line] == pytest.approx(extended)


@pytest.mark.parametrize("extra", [{}, {"overwrite": True}])
def test_two_trainings_never_share_a_directory(run, tokens, tmp_path, extra):
    twin = shutil.copytree(run, tmp_path / "run")
    with lock(twin), pytest.raises(OutputError, match=f"run is in use by process {os.getpid()}"):
        train_tiny(tokens, twin, extra, steps=8)
    assert contents(twin) == contents(run)
    train_tiny(tokens, twin, extra, steps=8)
    assert load_checkpoint(twin).step == 8


def test_overwrite_replaces_runs_and_nothing_else(run, tokens, tmp_path):
    twin = shutil.copytree(run, tmp_path / "run")
    train_tiny(tokens, twin, {"overwrite": True}, steps=2, lr=2e-3)
    assert steps_of(twin) == [1, 2]
    assert load_checkpoint(twin).step == 2
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(OutputError, match="photos exists"):
        train_tiny(tokens, tmp_path / "photos", {"overwrite": True})
    with pytest.raises(OutputError, match="photos exists"):
        train_tiny(tokens, tmp_path / "photos")
    assert (tmp_path / "photos" / "a.png").exists()


@pytest.mark.parametrize("named", [False, True])
def test_overwriting_never_loses_the_only_tokenizer(tokens, tmp_path, monkeypatch, named):
    alone = shutil.copyfile(tokens, tmp_path / tokens.name)
    monkeypatch.chdir(tmp_path)
    run = train_tiny(alone, tmp_path / "runs" / "a", {"tokenizer": tokens.parent / "tokenizer"}, steps=2)
    before = contents(run)
    extra = {"overwrite": True} | ({"tokenizer": run} if named else {})
    with pytest.raises(ArtifactError, match="tokenizer"):
        train_tiny(alone, run, extra, steps=2)
    assert contents(run) == before
    shutil.copytree(run / "tokenizer", tmp_path / "tokenizers" / "mine")
    train_tiny(alone, run, {"overwrite": True}, steps=2)
    assert contents(run) == before


def test_an_interrupted_overwrite_leaves_nothing_half_removed(run, tokens, tmp_path, monkeypatch):
    twin = shutil.copytree(run, tmp_path / "run")

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tokens, twin, {"overwrite": True}, steps=1)
    train_tiny(tokens, twin, {"overwrite": True}, steps=1)
    assert steps_of(twin) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_tokens_without_their_tokenizer_cannot_be_trained_on(tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = tmp_path / "t.h5"
    shutil.copy(tokens, alone)
    with pytest.raises(ArtifactError, match="--tokenizer"):
        train_tiny(alone, tmp_path / "run")
    with pytest.raises(ArtifactError, match="other"):
        train_tiny(alone, tmp_path / "run", {"tokenizer": make_tokenizer(tmp_path / "other", seed=1)})


# --- divergence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [lambda loss: loss * math.nan, lambda loss: loss + (loss * 0).sqrt()])
def test_a_diverged_run_stops_before_its_checkpoint(undisturbed, tokens, tmp_path, monkeypatch, spoil):
    """A loss that is NaN, and one that is not but has a gradient that is."""
    whole_loss, calls = objective.masked_loss, []

    def spoiled(*arguments):
        calls.append(1)
        loss = whole_loss(*arguments)
        return spoil(loss) if len(calls) == 4 else loss

    with monkeypatch.context() as patch:
        patch.setattr(objective, "masked_loss", spoiled)
        with pytest.raises(MaskGITError, match=r"step 4.*nan.*--lr"):
            train_tiny(tokens, tmp_path / "run", {"val": tokens}, preview_every=3)
    assert load_checkpoint(tmp_path / "run").step == 2
    assert steps_of(tmp_path / "run") == [1, 2, 3]
    train_tiny(tokens, tmp_path / "run", {"val": tokens}, preview_every=3)
    assert contents(tmp_path / "run") == contents(undisturbed[0])


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", Size(32, 1, 4, 64))


ARGUMENTS = ("--size", "tiny", "--steps", 1, "--batch-size", 8, "--preview-every", 0, "--device", "cpu")


@pytest.mark.usefixtures("small")
def test_the_command_names_its_run_and_prints_it(maskgit, tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = maskgit("train", tokens, *ARGUMENTS)
    assert done.status == 0, done.stderr
    assert done.stdout == "runs/tokens-tiny-16\n"
    again = maskgit("train", tokens, *ARGUMENTS, "--json", "--quiet")
    assert json.loads(again.stdout) == {"path": "runs/tokens-tiny-16"}
    assert again.stderr == ""
    assert load_model(tmp_path / "runs" / "tokens-tiny-16").step == 1


def test_the_papers_recipe_is_the_default(tokens):
    wanted = {
        "lr": 1e-4, "beta1": 0.9, "beta2": 0.96, "weight_decay": 1e-5, "warmup": 2500, "clip": 1.0,
        "dropout": 0.1, "label_smoothing": 0.1, "mask_schedule": "arccos",
        "loss_on": "all", "ema": 0.9999, "epochs": 300,
    }  # fmt: skip
    assert wanted.items() <= dataclasses.asdict(TrainConfig()).items()
    assert (TrainConfig.default_batch_size(256), TrainConfig.default_batch_size(512)) == (512, 128)
    data = open_tokens(tokens)
    split = training._split(data, None, None)
    _, config, derived = training._resolve(data, split, None, "paper", None, SILENT)
    assert (config.recipe, config.network, config.size, config.drop_label) == (
        "paper",
        "maskgit",
        "base",
        0.1,
    )
    assert config.steps == math.ceil(300 * 24 / 512)
    assert (config.decay_steps, derived) == (None, [])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--batch-size", "0"], r"--batch-size 0: must be \w"),
        (["--steps", "-1"], r"--steps -1: must be \w"),
        (["--lr", "nan"], "--lr nan: must be a finite number"),
        (
            ["--res", "32"],
            r"tokens\.h5 has images of 16 px, .*`maskgit tokenize IMAGES",
        ),
        (["--device", "abacus"], "--device abacus"),
        (["--tokenizer", "nowhere"], "nowhere"),
        (["--val", "nowhere.h5"], r"nowhere\.h5"),
    ],
)
def test_bad_input_is_one_line(maskgit, tokens, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    done = maskgit("train", tokens, *arguments)
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert re.search(line, done.stderr), done.stderr
    assert not (tmp_path / "runs").exists()
