"""Inception with fixed random weights, for tests without the published file."""

import io
from pathlib import Path

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Untrained(FeatureExtractorInceptionV3):
    def load_state_dict(self, *args, **kwargs):
        """Keep the random weights."""


def make_inception(path: Path, seed: int = 0) -> Path:
    """Write weights whose features are of the order of 1 and whose logits differ from image to image."""
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(seed)
    network = _Untrained("random", ["2048"], empty)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.nn.init.normal_(network.fc.weight, std=1.0)
    torch.save(network.state_dict(), path)
    return path
