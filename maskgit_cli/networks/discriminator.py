"""PatchGAN: classifies image patches as real or generated (arXiv 1611.07004, section 3.2.2)."""

from __future__ import annotations

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Strided convolutions with one logit per patch, positive for real.

    Group normalization replaces the paper's batch normalization: the logits of an image then do not depend
    on the rest of the batch, nor on the number of processes.

    Args:
        channels: features of the first layer; each further layer doubles them, up to eightfold.
        layers: strided layers; the receptive field of a logit grows with them.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        modules: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for i in range(1, layers + 1):
            inputs, width = width, channels * min(2**i, 8)
            stride = 2 if i < layers else 1
            modules += [
                nn.Conv2d(inputs, width, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(min(8, width), width),
                nn.LeakyReLU(0.2),
            ]
        modules.append(nn.Conv2d(width, 1, 4, padding=1))
        self.layers = nn.Sequential(*modules)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1, h, w), one per patch, of images (B, 3, H, W) in -1..1."""
        return self.layers(images)
