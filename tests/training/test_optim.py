"""EMA weights, learning-rate schedules, and optimizer state in checkpoints."""

import copy
import math

import pytest
import torch
from torch import nn

from maskgit_cli.config.networks import TRANSFORMERS
from maskgit_cli.networks.registry import build
from maskgit_cli.training.optim import (
    EMA,
    cosine_factor,
    decay_factor,
    load_optimizer,
    optimizer_tensors,
    parameter_groups,
    set_lr,
    warmup_factor,
)


def network(value=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    if value is not None:
        for parameter in net.parameters():
            nn.init.constant_(parameter, value)
    return net


def test_the_ema_starts_at_the_weights_and_warms_up():
    net = network(1.0)
    ema = EMA(net, 0.9)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 2.0)
    expected = 1.0
    for step, decay in [(1, 2 / 11), (2, 3 / 12), (3, 4 / 13), (1000, 0.9)]:
        ema.update(net, step)
        expected = decay * expected + (1 - decay) * 2.0
        for average in ema.tensors.values():
            torch.testing.assert_close(average, torch.full_like(average, expected))


def test_the_ema_is_a_copy_in_float32():
    net = network(1.0).half()
    ema = EMA(net, 0.0)
    assert {t.dtype for t in ema.tensors.values()} == {torch.float32}
    nn.init.constant_(net[0].weight, 5.0)
    assert ema.tensors["0.weight"].eq(1).all()
    ema.update(net, 1)
    assert ema.tensors["0.weight"].eq(5).all()


def test_the_ema_is_loaded_from_a_checkpoint():
    ema = EMA(network(1.0), 0.9)
    ema.load({name: torch.full_like(t, 3.0) for name, t in ema.tensors.items()})
    assert all(t.eq(3).all() for t in ema.tensors.values())
    with pytest.raises(KeyError):
        ema.load({})


def test_warmup_is_linear_then_constant():
    assert [warmup_factor(step, 4) for step in (1, 2, 4, 5, 100)] == [0.25, 0.5, 1, 1, 1]
    assert warmup_factor(1, 0) == 1


def test_cosine_decays_to_its_floor():
    assert cosine_factor(0, 10, 0.1) == 1
    assert cosine_factor(5, 10, 0.1) == pytest.approx(0.55)
    assert cosine_factor(10, 10, 0.1) == pytest.approx(0.1)
    assert cosine_factor(99, 10, 0.1) == pytest.approx(0.1)
    assert cosine_factor(3, 10, 1.0) == 1


@pytest.mark.parametrize("fused", [False, True])
def test_a_restored_optimizer_continues_the_same(fused):
    def step(net, optimizer, seed):
        torch.manual_seed(seed)
        net(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=fused)
    assert optimizer_tensors(optimizer, net) == {}
    for seed in range(3):
        step(net, optimizer, seed)
    stored = {name: t.clone() for name, t in optimizer_tensors(optimizer, net).items()}
    assert set(stored) == {
        f"{name}/{key}" for name in net.state_dict() for key in ("exp_avg", "exp_avg_sq", "step")
    }
    other = copy.deepcopy(net)
    restored = torch.optim.AdamW(other.parameters(), lr=0.1, fused=fused)
    load_optimizer(restored, other, stored)
    for n, o in [(net, optimizer), (other, restored)]:
        step(n, o, 9)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_the_learning_rate_is_set_in_every_group():
    net = network()
    optimizer = torch.optim.SGD([{"params": net[0].parameters()}, {"params": net[1].parameters()}], lr=1.0)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


# --- decays and groups ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_a_decay_may_begin_late(shape):
    """Constant over 90 of 100 steps, half of the way down after 95, at the floor from 100 on."""
    found = [decay_factor(shape, step, 100, 0.01, 0.9) for step in (1, 90, 95, 100, 500)]
    assert found == pytest.approx([1, 1, 0.505, 0.01, 0.01])
    assert decay_factor("linear", 92, 100, 0.0, 0.9) == pytest.approx(0.8)
    assert decay_factor("cosine", 92, 100, 0.0, 0.9) == pytest.approx(0.5 + 0.5 * math.cos(0.2 * math.pi))


def test_haltons_decay_is_the_published_one():
    """There max(lr·(1 + cos π·x)/2, lr/100) over the last tenth; ours interpolates: a hundredth apart."""
    for step in range(1, 1001):
        x = max(0.0, (step - 900) / 100)
        published = max(0.5 * (1 + math.cos(math.pi * x)), 0.01)
        assert decay_factor("cosine", step, 1000, 0.01, 0.9) == pytest.approx(published, abs=0.0101)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_matrices_alone_decay(name):
    """A step with no gradient to speak of moves what decays, and nothing else."""
    sizes = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16}
    sizes |= {"head_width": 8} if name == "halton" else {}
    entry = TRANSFORMERS[name]
    net = build(entry, entry.config(**sizes, codebook_size=6, classes=2, grid=2))
    for parameter in net.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(parameter_groups(net, 0.5, "matrices"), lr=0.1).step()
    moved = {key for key, value in net.named_parameters() if not torch.equal(value, torch.ones_like(value))}
    # All matrices but the tables, which are indexed.
    tables = ("embedding", "positions", "classes", "registers")
    wanted = {
        key for key, value in net.named_parameters()
        if value.ndim == 2 and key != "bias" and not key.startswith(tables)
    }  # fmt: skip
    assert moved == wanted
    groups = parameter_groups(net, 0.5, "all")
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in net.parameters()]


def test_an_optimizer_of_two_groups_is_restored():
    """Moments belong to parameters by name; a checkpoint does not know in which group one was."""
    net = network()
    optimizer = torch.optim.AdamW(parameter_groups(net, 0.1, "matrices"), lr=0.1)
    net(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    stored = {name: t.clone() for name, t in optimizer_tensors(optimizer, net).items()}
    for on in ("matrices", "all"):
        restored = torch.optim.AdamW(parameter_groups(net, 0.1, on), lr=0.1)
        load_optimizer(restored, net, stored)
        for name, value in optimizer_tensors(restored, net).items():
            assert torch.equal(value, stored[name]), name
        assert {group["weight_decay"] for group in restored.param_groups} <= {0.1, 0.0}
