"""Operations of a training step, against PyTorch's own count, and peaks of GPUs by name."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maskgit_cli.config.networks import TRANSFORMERS, GoogleConfig, HaltonConfig, TransformerConfig
from maskgit_cli.config.peaks import peak_tflops
from maskgit_cli.networks.registry import build

CONFIGS = {
    "maskgit": TransformerConfig(24, 3, 4, 56, 11, 5, 3, 0.0),
    "google": GoogleConfig(24, 3, 4, 56, 11, 5, 3, 0.0),
    "halton": HaltonConfig(24, 3, 2, 10, 40, 11, 5, 3, registers=2, dropout=0.0),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_operations_are_those_that_pytorch_counts(name):
    config = CONFIGS[name]
    network = build(TRANSFORMERS[name], config).train()
    tokens, labels = torch.zeros(2, 3, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(tokens, labels).sum().backward()
    assert 2 * config.training_flops() == counter.get_total_flops()


def test_every_transformer_counts_its_operations():
    assert CONFIGS.keys() == TRANSFORMERS.keys()


@pytest.mark.parametrize(
    ("device", "half", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA H200", 989, 67),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA A1000", None, None),
        ("cpu", None, None),
    ],
)
def test_peaks(device, half, single):
    assert (peak_tflops(device, half=True), peak_tflops(device, half=False)) == (half, single)
