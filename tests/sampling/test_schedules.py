"""Mask schedules and guidance ramps, against the published formulas and as properties."""

import math

import pytest
import torch

from maskgit_cli.config.samplers import GUIDANCE_RAMPS, SCHEDULES
from maskgit_cli.errors import ConfigError
from maskgit_cli.sampling.schedules import guidance_weight, mask_ratio


def test_unknown_names():
    with pytest.raises(ConfigError, match="--schedule cubic"):
        mask_ratio(torch.zeros(1), "cubic")
    with pytest.raises(ConfigError, match="--ramp up"):
        guidance_weight(1.0, 0, 8, "up")


@pytest.mark.parametrize("name", SCHEDULES)
def test_mask_ratio_falls_from_1_to_0(name):
    ratios = mask_ratio(torch.linspace(0, 1, 101), name)
    assert ratios[0] == 1
    assert ratios[-1] == pytest.approx(0, abs=1e-6)
    assert (ratios.diff() <= 0).all()
    assert ((ratios >= 0) & (ratios <= 1)).all()


def test_mask_ratios_of_the_paper():
    r = torch.tensor([0.5], dtype=torch.float64)
    expected = {
        "root": 1 - math.sqrt(0.5),
        "linear": 0.5,
        "square": 0.75,
        "cosine": math.sqrt(0.5),
        "arccos": 2 / 3,
    }
    assert {name: mask_ratio(r, name).item() for name in SCHEDULES} == pytest.approx(expected)


def test_guidance_ramps():
    assert [guidance_weight(3.0, i, 4, "linear") for i in range(4)] == pytest.approx([0, 1, 2, 3])
    assert [guidance_weight(3.0, i, 4, "constant") for i in range(4)] == [3.0] * 4
    assert [guidance_weight(3.0, i, 4, "none") for i in range(4)] == [0.0] * 4
    assert [guidance_weight(4.0, i, 3, "cosine") for i in range(3)] == pytest.approx([0, 2, 4])


def test_a_single_step_carries_the_full_weight():
    assert {ramp: guidance_weight(2.5, 0, 1, ramp) for ramp in GUIDANCE_RAMPS} == {
        "none": 0.0, "linear": 2.5, "constant": 2.5, "cosine": 2.5,
    }  # fmt: skip


def test_powers():
    r = torch.linspace(0, 1, 11)
    assert torch.equal(mask_ratio(r, "pow2"), mask_ratio(r, "square"))
    assert torch.equal(mask_ratio(r, "pow1"), mask_ratio(r, "linear"))
    assert torch.allclose(mask_ratio(r, "pow2.5"), 1 - r**2.5)


def test_guidance_only_within_its_interval():
    weights = [guidance_weight(3.0, i, 5, "constant", (0.25, 0.75)) for i in range(5)]
    assert weights == [0, 3, 3, 3, 0]
    assert [guidance_weight(4.0, i, 5, "linear", (0.5, 1.0)) for i in range(5)] == [0, 0, 2, 3, 4]
