"""``--fsdp``: sharded trainings equal unsharded ones, and either resumes the other."""

import pytest
import torch
from tiny_models import CODES, GRID, NAMES, SMALL_NETWORKS, make_network
from tiny_training import in_processes, metrics, train_tiny

from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.runs import load_checkpoint
from maskgit_cli.runtime.distributed import make_accelerator, world
from maskgit_cli.training.sharding import gathered_on_main, is_sharded, local, shard, sharded_like, whole


def assert_same_state(one, other):
    """All tensors of the last checkpoints, but for the order of sums."""
    found, wanted = load_checkpoint(one), load_checkpoint(other)
    assert found.step == wanted.step
    assert {(file, name) for file in found.tensors for name in found.tensors[file]} == {
        (file, name) for file in wanted.tensors for name in wanted.tensors[file]
    }
    for file in ("model", "ema", "optimizer"):
        pairs = [(found.tensors[file][name].double(), t.double()) for name, t in wanted.tensors[file].items()]
        error = sum(float((one - other).square().sum()) for one, other in pairs)
        # Of all numbers together: Adam turns the rounding of a single tiny gradient into a larger step.
        assert error <= 1e-6**2 * sum(float(other.square().sum()) for _, other in pairs), file


@pytest.fixture(scope="module")
def alone(tokens, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    return train_tiny(tokens, out, dropout=0.0, preview_every=6, val_split=0.25)


def test_two_sharded_processes_train_like_one(alone, tokens, tmp_path):
    in_processes(
        2, train_tiny, tokens, tmp_path / "run", dropout=0.0, preview_every=6, val_split=0.25, fsdp=True,
        grad_checkpointing=True, accumulate=2,
    )  # fmt: skip
    assert_same_state(tmp_path / "run", alone)
    for line, wanted in zip(metrics(tmp_path / "run"), metrics(alone), strict=True):
        assert line.keys() == wanted.keys()
        for name, value in wanted.items():
            same = (
                value if value is None else pytest.approx(value, rel=1e-2 if name == "ema_distance" else 1e-4)
            )
            assert line[name] == same, name
    assert (tmp_path / "run" / "previews" / "step-00000006.png").exists()


def test_a_run_is_resumed_with_and_without_shards(alone, tokens, tmp_path):
    settings = {"dropout": 0.0, "preview_every": 6, "val_split": 0.25}
    in_processes(2, train_tiny, tokens, tmp_path / "run", **settings, steps=2, fsdp=True)
    train_tiny(tokens, tmp_path / "run", **settings, steps=4)
    in_processes(2, train_tiny, tokens, tmp_path / "run", **settings, fsdp=True, accumulate=1)
    assert_same_state(tmp_path / "run", alone)


def _same_gradients():
    """On each of two ranks: the gradients of a sharded network, on half of the images each."""
    accelerator = make_accelerator(torch.device("cpu"), torch.float32)
    torch.manual_seed(1)
    tokens, labels = torch.randint(0, CODES, (4, GRID, GRID)), torch.arange(4) % len(NAMES)
    mine = slice(2 * world().rank, 2 * world().rank + 2)
    for name in SMALL_NETWORKS:
        alone, sharded = make_network(name, 0.0), make_network(name, 0.0)
        alone(tokens, labels).pow(2).sum().backward()
        shard(sharded, accelerator)
        assert is_sharded(sharded)
        sharded.grad_checkpointing = True
        (world().size * sharded(tokens[mine], labels[mine]).pow(2).sum()).backward()
        # Of the largest gradient: some are zero but for rounding, such as those of the keys' biases.
        bound = 1e-6 * max(float(parameter.grad.abs().max()) for parameter in alone.parameters())
        for (key, wanted), parameter in zip(alone.named_parameters(), sharded.parameters(), strict=True):
            assert local(parameter).numel() <= wanted.numel() // 2 + wanted[0].numel(), "half of the rows"
            torch.testing.assert_close(whole(parameter.grad), wanted.grad, rtol=1e-5, atol=bound, msg=key)


def test_every_network_is_sharded():
    in_processes(2, _same_gradients)


def test_a_single_process_has_nothing_to_shard(tokens, tmp_path):
    accelerator = make_accelerator(torch.device("cpu"), torch.float32)
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    shard(network, accelerator)
    assert not is_sharded(network)
    tensor = torch.ones(3)
    assert local(tensor) is whole(tensor) is tensor
    assert sharded_like(tensor, torch.zeros(3)) is tensor
    assert gathered_on_main({"a": tensor})["a"] is tensor


def test_each_rank_would_scale_fp16_for_itself():
    class Half:
        mixed_precision = "fp16"

    with pytest.raises(ConfigError, match=r"--fsdp.*fp16"):
        shard(torch.nn.Sequential(), Half())
