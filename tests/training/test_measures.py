"""Measures of a training in its log."""

import json
import math

import pytest
import torch
from tiny_models import CODES, GRID, tiny_transformer
from tiny_training import in_processes, metrics, train_tiny

from maskgit_cli.config.training import TrainConfig
from maskgit_cli.formats.runs import load_checkpoint
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.training.batches import make_batch
from maskgit_cli.training.common import Meter
from maskgit_cli.training.measures import BINS, Utilization, accuracies, accuracy_counts, ema_distance

CPU = torch.device("cpu")


def test_accuracy_counts_are_those_of_a_loop():
    torch.manual_seed(0)
    tokens = torch.randint(CODES, (40, GRID, GRID))
    masked = torch.rand(40, GRID, GRID) < torch.rand(40, 1, 1)
    masked[0], masked[1] = True, False
    logits = torch.randn(40, GRID**2, CODES + 1)
    logits[..., CODES] = 100  # the mask is no prediction
    logits[::2].scatter_(2, tokens.flatten(1)[::2, :, None], 50.0)  # every other image is right
    right, total = [0] * BINS, [0] * BINS
    for i in range(40):
        share = masked[i].double().mean().item()
        place = min(int(share * BINS), BINS - 1)
        for t, m, row in zip(tokens[i].flatten(), masked[i].flatten(), logits[i], strict=True):
            total[place] += int(m)
            right[place] += int(m and row[:CODES].argmax() == t)
    counts = accuracy_counts(logits, tokens, masked, CODES)
    assert counts.tolist() == [right, total]


def test_accuracies():
    counts = torch.tensor([[1, 0, 0, 9], [2, 0, 8, 10]]).flatten()
    assert accuracies(counts) == {
        "accuracy": 0.5, "accuracy_0_25": 0.5, "accuracy_25_50": None, "accuracy_50_75": 0.0,
        "accuracy_75_100": 0.9,
    }  # fmt: skip


def test_distance_of_the_ema():
    network = tiny_transformer()
    ema = {name: value + 0.1 * value for name, value in network.state_dict().items()}
    assert ema_distance(ema, network) == pytest.approx(0.1, rel=1e-4)
    assert ema_distance(network.state_dict(), network) == 0.0


def test_utilization(monkeypatch):
    values = Utilization(CPU, True, 4_000_000_000).values(5.0)
    assert values["tflops"] == 0.02
    assert 0.05 < values["memory_gb"] < 64
    assert "mfu" not in values
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_000_000_000)
    values = Utilization(torch.device("cuda"), True, 989_000_000_000).values(500.0)
    assert values == {"tflops": 494.0, "mfu": 0.5, "memory_gb": 3.0}


def test_a_line_has_the_means_of_its_steps(tokens, tmp_path):
    run = train_tiny(tokens, tmp_path / "run", steps=1)
    (line,) = (json.loads(line) for line in (run / "metrics.jsonl").open())
    config = TrainConfig(batch_size=8, drop_label=0.1, dropout=0.1)
    batch = make_batch(1, open_tokens(tokens), config, CPU)
    ratios = batch.masked.flatten(1).double().mean(1)
    for i in range(BINS):
        some = ((ratios * BINS).long().clamp(max=BINS - 1) == i).any()
        assert (line[f"accuracy_{25 * i}_{25 * (i + 1)}"] is not None) == bool(some)
    assert 0 <= line["accuracy"] <= 1
    state = load_checkpoint(run).tensors
    raw, ema = (torch.cat([t.flatten() for t in state[kind].values()]) for kind in ("model", "ema"))
    assert line["ema_distance"] == pytest.approx(float((ema - raw).norm() / raw.norm()), rel=1e-3)
    assert line["tflops"] > 0


def test_all_processes_count(tokens, tmp_path):
    settings = {"dropout": 0.0, "steps": 3, "log_every": 3}
    alone = train_tiny(tokens, tmp_path / "alone", **settings)
    in_processes(2, train_tiny, tokens, tmp_path / "both", **settings, accumulate=2)
    (first,), (second,) = metrics(alone), metrics(tmp_path / "both")
    accuracy = {name: value for name, value in first.items() if name.startswith("accuracy")}
    assert accuracy == {name: second[name] for name in accuracy}
    assert second["ema_distance"] == pytest.approx(first["ema_distance"], rel=1e-2)


def test_a_meter_leaves_out_what_is_not_finite():
    meter = Meter(CPU, {"loss": "losses"})
    for value in (1.0, math.nan, 3.0):
        meter.add({"loss": torch.tensor(value)}, 8)
    other = Meter(CPU, {"loss": "losses"})
    other.load(meter.tensors())
    assert meter.flush()["loss"] == other.flush()["loss"] == 2.0
