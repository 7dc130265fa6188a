"""Steps with an unusable loss or gradient: found on the device, left out by the optimizer, logged."""

import json
import math

import pytest
import torch
from tiny_training import Warnings, contents, metrics, train_tiny

from maskgit_cli.errors import ConfigError, MaskGITError
from maskgit_cli.formats.runs import load_checkpoint
from maskgit_cli.runtime.distributed import make_accelerator
from maskgit_cli.training import objective, spikes, transformer
from maskgit_cli.training.spikes import SpikeDetector, step_unless

CPU = torch.device("cpu")


def judged(detector, losses, first=1, norm=1.0):
    flags = [
        float(detector.judge(step, torch.tensor(loss), torch.tensor(norm)))
        for step, loss in enumerate(losses, first)
    ]
    return [step for step, flag in enumerate(flags, first) if flag]


def noise(n, seed=0, mean=5.0, sigma=0.1):
    return (mean + sigma * torch.randn(n, generator=torch.Generator().manual_seed(seed))).tolist()


# --- the detector -----------------------------------------------------------------------------------


def test_a_loss_of_ten_sigmas_is_found_and_does_not_enter_the_mean():
    detector = SpikeDetector(CPU, 10.0)
    losses = noise(300)
    losses[200], losses[201] = 8.0, 8.0
    assert judged(detector, losses) == [201, 202]
    found = detector.read(wait=True)
    assert [(s.step, s.loss, s.in_row) for s in found] == [(201, 8.0, 1), (202, 8.0, 2)]
    assert found[1].usual == pytest.approx(5.0, abs=0.05)
    assert detector.read(wait=True) == []


def test_mean_and_variance_are_those_of_the_losses():
    detector, losses = SpikeDetector(CPU, 10.0), noise(100)
    judged(detector, losses)
    count, mean, variance = detector.state.tolist()
    wanted = torch.tensor(losses, dtype=torch.float64)
    assert count == 100
    assert mean == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert variance == pytest.approx(float(wanted.var(unbiased=False)), rel=1e-3)


@pytest.mark.parametrize(
    "losses",
    [
        noise(1000),
        [7.0 * 0.99**i for i in range(500)],  # falling
        [*noise(99), 50.0],  # too early to say what is usual
        [1e-3] * 200 + [0.09],  # memorized
        [*noise(300), -3.0],  # better is no spike
    ],
)
def test_ordinary_losses_are_not_found(losses):
    assert judged(SpikeDetector(CPU, 10.0), losses) == []


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (5.0, math.nan), (5.0, math.inf)]
)
def test_what_is_not_finite_is_found_at_once_and_forgotten(loss, norm):
    detector = SpikeDetector(CPU, 0.0)
    assert judged(detector, [5.0]) == []
    before = detector.state.clone()
    assert judged(detector, [loss], 2, norm) == [2]
    assert torch.equal(detector.state, before)
    (found,) = detector.read(wait=True)
    assert ("loss" if not math.isfinite(loss) else "grad_norm") in found.what


def test_without_sigma_only_these_are_found():
    assert judged(SpikeDetector(CPU, 0.0), [*noise(200), 1e6]) == []


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_left_out_changes_nothing(fused):
    accelerator = make_accelerator(CPU, torch.float32)
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(5))
    plain = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    optimizer = accelerator.prepare(plain)

    def step(gradient, skip):
        weight.grad = torch.full((5,), gradient)
        step_unless(optimizer, torch.tensor(skip))

    step(1.0, 0.0)
    before = weight.detach().clone(), {k: v.clone() for k, v in plain.state[weight].items()}
    step(math.nan, 1.0)
    assert torch.equal(weight, before[0])
    assert all(torch.equal(plain.state[weight][key], value) for key, value in before[1].items())
    step(1.0, 0.0)
    assert not torch.equal(weight, before[0])
    assert weight.isfinite().all()


# --- the training -----------------------------------------------------------------------------------


def spoil(monkeypatch, calls, by):
    """Spoil the loss of some steps, numbered from 1 over all trainings."""
    whole_loss, count = objective.masked_loss, []

    def spoiled(*arguments):
        count.append(1)
        loss = whole_loss(*arguments)
        return by(loss) if len(count) in calls else loss

    monkeypatch.setattr(objective, "masked_loss", spoiled)


def not_a_number(loss):
    return loss * math.nan


def lines_of(run):
    return [json.loads(line, parse_constant=pytest.fail) for line in (run / "metrics.jsonl").open()]


def test_a_stop_names_step_rows_and_checkpoint(tokens, tmp_path, monkeypatch):
    spoil(monkeypatch, {5}, not_a_number)
    with pytest.raises(MaskGITError) as error:
        train_tiny(tokens, tmp_path / "run", log_every=6, checkpoint_every=2)
    (line,) = (line for line in lines_of(tmp_path / "run") if "spike_rows" in line)
    assert (line["step"], line["spike_loss"]) == (5, None)
    rows = line["spike_rows"]
    assert len(set(rows)) == 8
    for part in ("step 5", "loss is nan", ", ".join(map(str, rows)), "step-00000004", "--on-spike skip"):
        assert part in str(error.value)
    assert load_checkpoint(tmp_path / "run").step == 4


def test_the_rows_are_those_of_the_batch(tokens, tmp_path, monkeypatch):
    """Images differ in their label alone."""
    seen, whole = [], transformer.train_step

    def spy(step, batch, *others):
        seen.append(sorted(batch.labels.tolist()))
        return whole(step, batch, *others)

    monkeypatch.setattr(transformer, "train_step", spy)
    spoil(monkeypatch, {2}, not_a_number)
    with pytest.raises(MaskGITError):
        train_tiny(tokens, tmp_path / "run", val_split=0.25)
    (line,) = (line for line in lines_of(tmp_path / "run") if "spike_rows" in line)
    assert seen[1] == sorted(row % 3 for row in line["spike_rows"])


def test_a_skipped_step_leaves_the_weights_and_goes_on(tokens, tmp_path, monkeypatch):
    settings = {"on_spike": "skip", "checkpoint_every": 1, "keep": 9, "steps": 4}
    spoil(monkeypatch, {3}, not_a_number)
    reporter = Warnings()
    run = train_tiny(tokens, tmp_path / "run", {"reporter": reporter}, **settings)
    assert len(reporter.warnings) == 1
    assert "step 3" in reporter.warnings[0]
    of_step = {step: contents(run / "checkpoints" / f"step-{step:08d}") for step in (2, 3, 4)}
    for file in ("model.safetensors", "optimizer.safetensors", "spikes.safetensors"):
        assert of_step[2][file] == of_step[3][file]
        assert of_step[3][file] != of_step[4][file]
    assert of_step[2]["ema.safetensors"] != of_step[3]["ema.safetensors"]
    lines = {line["step"]: line for line in lines_of(run) if "lr" in line}
    assert lines[3]["loss"] is None
    assert math.isfinite(lines[4]["loss"])


def test_a_skipped_step_is_skipped_again_when_resumed(tokens, tmp_path, monkeypatch):
    """A mean over steps leaves the skipped one out, also across a resumption; the option may change."""
    settings = {"log_every": 4, "steps": 4, "checkpoint_every": 3}
    with monkeypatch.context() as patch:
        spoil(patch, {2}, not_a_number)
        whole = train_tiny(tokens, tmp_path / "whole", on_spike="skip", **settings)
    with monkeypatch.context() as patch:
        spoil(patch, {2}, not_a_number)
        run = train_tiny(tokens, tmp_path / "run", on_spike="skip", **settings | {"steps": 3})
    train_tiny(tokens, run, on_spike="stop", **settings)
    last = contents(whole / "checkpoints" / "step-00000004")
    assert contents(run / "checkpoints" / "step-00000004") == last
    assert math.isfinite(metrics(whole)[-1]["loss"])


def test_too_many_in_a_row_stop(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(spikes, "MOST_SKIPPED", 3)
    monkeypatch.setattr("maskgit_cli.training.common.MOST_SKIPPED", 3)
    spoil(monkeypatch, {1, 3, 4, 5}, not_a_number)
    with pytest.raises(MaskGITError, match="step 5"):
        train_tiny(tokens, tmp_path / "run", on_spike="skip")


def test_a_high_loss_is_a_spike(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(spikes, "WINDOW", 3)
    spoil(monkeypatch, {6}, lambda loss: loss * 20)
    with pytest.raises(MaskGITError, match=r"step 6.*is usual"):
        train_tiny(tokens, tmp_path / "run")
    spoil(monkeypatch, {6}, lambda loss: loss * 20)
    assert load_checkpoint(train_tiny(tokens, tmp_path / "blind", spike_sigma=0.0)).step == 6


@pytest.mark.parametrize(
    "changes", [{"on_spike": "ignore"}, {"spike_sigma": -1.0}, {"spike_sigma": math.nan}]
)
def test_bad_settings(changes, tokens, tmp_path):
    with pytest.raises(ConfigError, match=next(iter(changes)).replace("_", "-")):
        train_tiny(tokens, tmp_path / "run", **changes)
