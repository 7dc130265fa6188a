"""ST-LPIPS against distances that its authors' own code (stlpips-pytorch 0.0.2) computed once."""

import math

import pytest
import torch

from maskgit_cli.networks.st_lpips import SMALLEST_SIDE, STLPIPS

# A trunk of the same layers with few features.
FEW = ((4, 4), (6, 6), (8, 8, 8), (10, 10, 10), (10, 10, 10))
# Distances of two pairs of images of the formulas below, by height and width.
EXPECTED = {
    (18, 18): (0.43576061725616455, 0.5265397429466248),
    (23, 40): (1.0707768201828003, 0.9715895056724548),
    (64, 64): (0.694308876991272, 0.679533064365387),
    (65, 31): (0.9481810927391052, 0.8192700743675232),
}


def numbers(shape, phase):
    """Numbers in -1..1 without a pattern."""
    values = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 1.37 + phase)
    return values.reshape(shape).float()


def small_network():
    """The small trunk with weights that follow from their names and shapes."""
    network = STLPIPS(FEW)
    state = network.state_dict()
    for i, name in enumerate(sorted(key for key in state if key.endswith(("weight", "bias")))):
        values = numbers(state[name].shape, i)
        if name.startswith("lin"):
            state[name] = values.abs()
        elif name.endswith("weight"):
            state[name] = values * 2 / math.sqrt(values[0].numel())
        else:
            state[name] = values * 0.1
    network.load_state_dict(state)
    return network.requires_grad_(False)


def pair(height, width):
    images, others = (numbers((2, 3, height, width), phase) for phase in (0.5, 2.0))
    return images, (images + 0.5 * others).clamp(-1, 1)


@pytest.mark.parametrize("size", EXPECTED)
def test_distances_are_those_of_its_authors_code(size):
    assert small_network()(*pair(*size)).tolist() == pytest.approx(EXPECTED[size], rel=1e-5)


def test_names_and_shapes_are_those_of_the_published_weights():
    with torch.device("meta"):
        state = STLPIPS().state_dict()
    assert len(state) == 37
    assert sum(tensor.numel() for tensor in state.values()) == 14_724_806
    assert state["net.slice5.32.weight"].shape == (512, 512, 3, 3)
    assert state["net.slice3.11.filt"].shape == (128, 1, 3, 3)
    assert state["lin4.model.1.weight"].shape == (1, 512, 1, 1)


def test_equal_and_black_images_have_a_gradient():
    network = small_network()
    images, _ = pair(24, 24)
    others = images.clone().requires_grad_()
    distance = network(images, others)
    distance.sum().backward()
    assert torch.equal(distance.detach(), torch.zeros(2))
    assert torch.equal(others.grad, torch.zeros_like(others))
    black = (images * 0 - 1).requires_grad_()
    network(images, black).sum().backward()
    assert black.grad.isfinite().all()
    assert black.grad.abs().max() > 0


def test_the_smallest_side():
    network = small_network()
    assert network(*pair(SMALLEST_SIDE, SMALLEST_SIDE)).isfinite().all()
    with pytest.raises(RuntimeError):
        network(*pair(SMALLEST_SIDE - 1, SMALLEST_SIDE))
