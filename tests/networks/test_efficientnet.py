"""EfficientNet-Lite0 against the PyTorch package whose weights it takes (efficientnet-lite-pytorch 0.1.0)."""

import zlib

import numpy as np
import pytest
import torch

from maskgit_cli.networks.efficientnet import CLASSES, EfficientNetLite0, SameConv2d, native_name, normalized

# Of the network below and the image below, by the package's own class: features, then logits.
FEATURES = [4.807136, 3.264976, 2.048825, 0.053192, 3.736258, 0.168541, 0.856181, 1.637358]
LOGITS = [2.52185, -5.12568, 4.15910, 1.12340, -4.03266, -3.27784, 4.82158, -0.41715]


def published_name(name: str) -> str:
    """The package's name of a tensor: layers, but neither their tensors nor numbers, begin with _."""
    *layers, tensor = name.split(".")
    return ".".join([part if part.isdigit() else f"_{part}" for part in layers] + [tensor])


def random_weights(network) -> dict[str, torch.Tensor]:
    """Weights that depend on name and shape only, and keep activations of the order of 1."""
    weights = {}
    for name, tensor in network.state_dict().items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(1)
            continue
        values = rng.standard_normal(tuple(tensor.shape), dtype=np.float32)
        if tensor.ndim > 1:
            values *= (2 / max(1, tensor[0].numel())) ** 0.5
        elif name.endswith(("running_var", "weight")):
            values = 1 + 0.2 * np.abs(values)
        else:
            values *= 0.1
        weights[name] = torch.from_numpy(values)
    return weights


def random_image() -> torch.Tensor:
    values = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224), dtype=np.uint8)
    return torch.from_numpy(values)


@pytest.fixture(scope="module")
def network():
    network = EfficientNetLite0().eval()
    network.load_state_dict(random_weights(network))
    return network


@torch.no_grad()
def test_golden_values(network):
    features, logits = network(normalized(random_image()))
    assert features.shape == (1, 1280)
    assert logits.shape == (1, CLASSES)
    np.testing.assert_allclose(features[0, ::160], FEATURES, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits[0, ::125], LOGITS, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_packages_own_network(network):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    weights = {published_name(name): tensor for name, tensor in network.state_dict().items()}
    assert {native_name(name) for name in weights} == network.state_dict().keys()
    theirs.load_state_dict(weights)
    images = normalized(torch.cat([random_image(), random_image().flip(3)]))
    features, logits = network(images)
    torch.testing.assert_close(features, theirs.extract_features(images).mean((2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, theirs(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("side", "kernel", "stride"), [(224, 3, 2), (112, 5, 2), (7, 5, 1), (9, 3, 2)])
def test_same_padding_is_tensorflows(side, kernel, stride):
    """Of the odd rows and columns of padding, the last one is at the bottom and the right."""
    layer = SameConv2d(1, 1, kernel, stride, bias=False)
    torch.nn.init.ones_(layer.weight)
    out = -(-side // stride)
    covered = [range(i * stride, i * stride + kernel) for i in range(out)]
    before = max((out - 1) * stride + kernel - side, 0) // 2
    counts = [sum(0 <= p - before < side for p in positions) for positions in covered]
    expected = torch.outer(torch.tensor(counts), torch.tensor(counts)).float()
    assert torch.equal(layer(torch.ones(1, 1, side, side))[0, 0], expected)


def test_pixels_are_normalized_as_in_training():
    pixels = torch.tensor([0, 127, 255], dtype=torch.uint8)
    assert normalized(pixels).tolist() == [-127 / 128, 0.0, 1.0]
