"""EfficientNet-Lite0, an ImageNet classifier whose pooled features serve ``fid`` (arXiv 1905.11946).

The Lite variant has no squeeze-and-excitation, and ReLU6 in place of SiLU. Blocks and padding are those of
the published TensorFlow network, and tensor names those of its conversion to PyTorch without underscores.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 1280
CLASSES = 1000
SIDE = 224  # pixels
EPSILON = 1e-3  # of the batch normalizations


class Stage(NamedTuple):
    """Blocks of equal shape, of which the first may halve the resolution.

    Attributes:
        blocks: their number.
        kernel: side of the depthwise convolution.
        stride: of the first block.
        expansion: channels inside a block, as a multiple of those that enter it.
        channels: that leave it.
    """

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# arXiv 1905.11946, Table 1.
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM = 32  # channels


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's ``SAME`` padding: where it is odd, the bottom and the right get more."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, ceil(H/stride), ceil(W/stride))."""
        sides = zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        vertical, horizontal = (max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in sides)
        x = F.pad(x, (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2))
        return super().forward(x)


class MBConv(nn.Module):
    """Inverted residual block: expand, depthwise convolution, project (arXiv 1801.04381, Figure 3)."""

    def __init__(self, entering: int, leaving: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = entering * expansion
        if expansion > 1:
            self.expand_conv: nn.Module = SameConv2d(entering, inside, 1, bias=False)
            self.bn0: nn.Module = nn.BatchNorm2d(inside, EPSILON)
        self.expands = expansion > 1
        self.depthwise_conv = SameConv2d(inside, inside, kernel, stride, groups=inside, bias=False)
        self.bn1 = nn.BatchNorm2d(inside, EPSILON)
        self.project_conv = SameConv2d(inside, leaving, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving, EPSILON)
        self.residual = stride == 1 and entering == leaving

    def forward(self, x: Tensor) -> Tensor:
        """(B, entering, H, W) to (B, leaving, H/stride, W/stride)."""
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x  # (B, inside, H, W)
        y = F.relu6(self.bn1(self.depthwise_conv(y)))  # (B, inside, H/stride, W/stride)
        y = self.bn2(self.project_conv(y))  # (B, leaving, H/stride, W/stride)
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Pooled features and logits of images; 4.65 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, STEM, 3, 2, bias=False)
        self.bn0 = nn.BatchNorm2d(STEM, EPSILON)
        blocks, channels = [], STEM
        for stage in STAGES:
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                blocks.append(MBConv(channels, stage.channels, stage.kernel, stride, stage.expansion))
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = SameConv2d(channels, FEATURES, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(FEATURES, EPSILON)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 1280) and logits (B, 1000) of :func:`normalized` images (B, 3, 224, 224)."""
        x = F.relu6(self.bn0(self.conv_stem(x)))  # (B, 32, 112, 112)
        x = self.blocks(x)  # (B, 320, 7, 7)
        x = F.relu6(self.bn1(self.conv_head(x)))  # (B, 1280, 7, 7)
        features = x.mean(dim=(2, 3))  # (B, 1280)
        return features, self.fc(features)


def normalized(images: Tensor) -> Tensor:
    """Pixels uint8 in 0..255 as the network takes them: (x - 127)/128, float32."""
    return (images.to(torch.float32) - 127) / 128


def native_name(name: str) -> str:
    """The name here of a tensor of the published file: ``blocks.0.bn1.bias`` of ``_blocks.0._bn1.bias``."""
    return ".".join(part.removeprefix("_") for part in name.split("."))
