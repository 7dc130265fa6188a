"""Memory and time before a training: dry runs, micro-batches that fit, gradient checkpointing."""

import json
import os
from unittest import mock

import pytest
import torch
from tiny_models import CODES, GRID, SMALL_NETWORKS, make_network
from tiny_training import TRAINING, metrics, train_tiny

from maskgit_cli.config.networks import SIZES, Size
from maskgit_cli.config.training import TrainConfig, VQGANTrainConfig
from maskgit_cli.errors import ConfigError, MaskGITError
from maskgit_cli.formats.atomic import read_json
from maskgit_cli.formats.runs import load_checkpoint
from maskgit_cli.runtime.distributed import make_accelerator
from maskgit_cli.training import planning
from maskgit_cli.training.planning import (
    Activations,
    available_memory,
    count_saved,
    fitting_accumulate,
    measure_activations,
    memory_errors,
    time_steps,
)

CPU = torch.device("cpu")


# --- gradient checkpointing -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_gradients_are_the_same_with_checkpointing(name, dtype):
    network = make_network(name)
    tokens, labels = torch.randint(0, CODES, (3, GRID, GRID)), torch.arange(3)
    found = {}
    for recomputed in (False, True):
        network.grad_checkpointing = recomputed
        network.zero_grad()
        torch.manual_seed(7)  # of dropout
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = network(tokens, labels)
        torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), tokens.flatten(1)).backward()
        found[recomputed] = [parameter.grad.clone() for parameter in network.parameters()]
    for kept, again in zip(found[False], found[True], strict=True):
        torch.testing.assert_close(again, kept, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_training_is_the_same_with_checkpointing(tokens, tmp_path, dtype):
    for name, recomputed in (("kept", False), ("again", True)):
        extra = {"dtype": dtype}
        train_tiny(tokens, tmp_path / name, extra, steps=2, grad_checkpointing=recomputed)
    one, other = (load_checkpoint(tmp_path / name).tensors for name in ("kept", "again"))
    assert all(torch.equal(one[file][name], other[file][name]) for file in one for name in one[file])


def test_checkpointing_may_change_when_resuming(tokens, tmp_path):
    train_tiny(tokens, tmp_path / "run", steps=2)
    train_tiny(tokens, tmp_path / "run", steps=4, grad_checkpointing=True)
    assert metrics(tmp_path / "run")[-1]["step"] == 4


# --- memory -----------------------------------------------------------------------------------------


@pytest.fixture
def accelerator():
    return make_accelerator(CPU, torch.float32)


def test_saved_tensors_are_counted_once_and_without_weights():
    weight, x = torch.ones(8, 8, requires_grad=True), torch.ones(4, 8)
    with count_saved([weight]) as sizes:
        y = x @ weight  # saves x, and the weight if x needed a gradient
        (y * y).sum()  # saves y twice
    assert sum(sizes.values()) == x.nbytes + y.nbytes


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_activations_grow_with_images_and_shrink_with_checkpointing(name, accelerator):
    network, config = make_network(name), TrainConfig(**TRAINING)
    kept = measure_activations(network, config, accelerator)
    assert kept.of(8) - kept.of(4) == 4 * kept.row
    network.grad_checkpointing = True
    again = measure_activations(network, config, accelerator)
    # Three blocks of about the same size: their inputs and one block remain.
    assert 0.25 * kept.row < again.row < 0.8 * kept.row
    assert network.grad_checkpointing


def test_a_container_has_its_own_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_CGROUP", tmp_path)
    free = available_memory(CPU)
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(CPU) == pytest.approx(free, rel=0.5)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_memory(CPU) == 2_000_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert available_memory(CPU) == 1_000_000


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_what_needs_less(error):
    with pytest.raises(MaskGITError) as caught, memory_errors(TrainConfig(batch_size=48, accumulate=4)):
        raise error
    text = str(caught.value)
    assert "12 images" in text
    assert {"--accumulate", "--grad-checkpointing", "--batch-size"} <= set(text.replace(",", "").split())
    assert "\n" not in text


def test_a_tokenizers_training_names_what_needs_less():
    config = VQGANTrainConfig(batch_size=8, accumulate=2)
    with pytest.raises(MaskGITError, match=r"4 images.*--accumulate") as caught, memory_errors(config):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert "--grad-checkpointing" not in str(caught.value)  # which only `train` has


def test_other_errors_stay():
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(TrainConfig(batch_size=4)):
        raise RuntimeError("shapes differ")


# --- the micro-batch that fits ----------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "accumulate"), [(1000, 1), (24, 1), (23, 2), (7, 4), (5, 6), (1, 24)])
def test_the_largest_micro_batch_that_fits(rows, accumulate, accelerator, monkeypatch):
    """Of the divisors of the batch, 24."""
    network = make_network("maskgit")
    state = sum(p.numel() for p in network.parameters()) * (planning.STATE_BYTES + planning.PREVIEW_BYTES)
    monkeypatch.setattr(planning, "measure_activations", lambda *_: Activations(1000, 10_000))
    free = (state + 1000 + rows * 10_000 + 5000) / planning.USABLE
    monkeypatch.setattr(planning, "available_memory", lambda _: int(free))
    found = fitting_accumulate(lambda: network, TrainConfig(batch_size=24), accelerator)
    assert found == accumulate


def test_not_even_one_image_fits(accelerator, monkeypatch):
    monkeypatch.setattr(planning, "available_memory", lambda _: 1000)
    with pytest.raises(ConfigError, match="--batch-size auto"):
        fitting_accumulate(lambda: make_network("maskgit"), TrainConfig(batch_size=24), accelerator)


def test_the_choice_is_recorded_and_kept(maskgit, tokens, tmp_path, monkeypatch):
    words = ["train", tokens, "--out", tmp_path / "run", "--recipe", "small", "--steps", 2, "--device", "cpu"]
    words += ["--size", "tiny", "--preview-every", 0, "--batch-size", "auto"]
    with mock.patch.dict(SIZES, tiny=Size(32, 1, 4, 64)):
        monkeypatch.setattr("maskgit_cli.training.transformer.fitting_accumulate", lambda *_: 2)
        assert maskgit(*words).status == 0
        record = read_json(tmp_path / "run" / "config.json", "a run")
        assert (record["settings"]["batch_size"], record["settings"]["accumulate"]) == (16, 2)
        assert "accumulate" in record["derived"]
        # Less memory is free now: the training keeps its micro-batches, and with them its dropout.
        monkeypatch.setattr("maskgit_cli.training.transformer.fitting_accumulate", lambda *_: 4)
        done = maskgit(*words[:7], 4, *words[8:])
    assert done.status == 0, done.stderr
    assert read_json(tmp_path / "run" / "config.json", "a run")["settings"]["accumulate"] == 2


def test_auto_chooses_accumulate_itself(maskgit, tokens):
    done = maskgit("train", tokens, "--batch-size", "auto", "--accumulate", 2, "--device", "cpu")
    assert done.status == 1
    assert "--accumulate 2" in done.stderr
    assert maskgit("train", tokens, "--batch-size", "automatic").status == 2


# --- time -------------------------------------------------------------------------------------------


def test_a_step_is_timed_ten_times(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(planning.time, "perf_counter", lambda: clock[0])
    calls = []

    def step(number, config):
        calls.append((number, config.batch_size, config.accumulate))
        clock[0] += 0.5 + 0.25 * config.batch_size

    config = TrainConfig(batch_size=16, accumulate=2)
    assert time_steps(step, config) == (pytest.approx(4.5), 8)
    assert [number for number, *_ in calls] == list(range(1, len(calls) + 1))
    assert calls[-10:] == [(calls[-10][0] + i, 8, 1) for i in range(10)]
    calls.clear()
    assert time_steps(step, TrainConfig(batch_size=4, accumulate=2)) == (pytest.approx(1.5), 4)
    assert [call[1:] for call in calls[-10:]] == [(4, 2)] * 10


def test_a_dry_run_writes_nothing(maskgit, tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", tokens, "--size", "tiny", "--steps", 3600, "--batch-size", 8, "--accumulate", 2]
    words += ["--device", "cpu", "--keep", 3, "--dry-run"]
    with mock.patch.dict(SIZES, tiny=Size(32, 1, 4, 64)):
        shown, done = maskgit(*words), maskgit(*words, "--json")
    assert (shown.status, done.status) == (0, 0), shown.stderr + done.stderr
    plan = json.loads(done.stdout)
    assert os.listdir(tmp_path) == []
    assert (plan["batch_size"], plan["accumulate"], plan["processes"], plan["rows"]) == (8, 2, 1, 4)
    assert plan["hours"] == pytest.approx(plan["seconds"], abs=1e-3)  # 3,600 steps
    assert plan["state"] == 20 * plan["parameters"]
    assert plan["checkpoint"] == 16 * plan["parameters"]
    assert plan["kept"] == 4
    assert plan["activations"] > 0
    for fact in ("parameters", "3,600", "checkpoint", "hours"):
        assert fact in shown.stdout


def test_the_checkpoint_is_as_large_as_planned(tokens, tmp_path):
    train_tiny(tokens, tmp_path / "run", steps=1)
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    tensors = load_checkpoint(tmp_path / "run").tensors
    parameters = sum(tensor.numel() for tensor in tensors["model"].values())
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size == pytest.approx(planning.CHECKPOINT_BYTES * parameters, rel=0.3)  # headers of a tiny network
