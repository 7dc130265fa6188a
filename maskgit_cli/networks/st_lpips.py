"""ST-LPIPS, a perceptual distance that tolerates small shifts (arXiv 2207.13686), with a VGG16 trunk.

As LPIPS (arXiv 1801.03924), but each max pooling has stride 1 and is followed by a blur with stride 2
(anti-aliased pooling, arXiv 1904.11486). Names of tensors are those of the published weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Features of the convolutions of each of VGG16's five slices (arXiv 1409.1556, table 1, column D).
SLICES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Side in pixels of the smallest images: the reflecting pad of the last blur needs 3 pixels.
SMALLEST_SIDE = 18


class BlurPool(nn.Module):
    """The binomial filter (1, 2, 1) in both directions with stride 2, of reflected borders of two pixels.

    Two pixels instead of one are the paper's larger padding (section 3.2): (H, W) becomes (H+3)//2 by
    (W+3)//2.

    Args:
        channels: features of the input.
    """

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filt", torch.outer(row, row).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Blur and halve features (B, C, H, W)."""
        return F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), self.filt, stride=2, groups=x.shape[1])


class Trunk(nn.Module):
    """VGG16's convolutions in five slices; layers are numbered through, as in the published weights.

    Args:
        slices: features of the convolutions of each slice.
    """

    def __init__(self, slices: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        number, inputs = 0, 3
        for i, widths in enumerate(slices, 1):
            layers: list[nn.Module] = [nn.MaxPool2d(2, stride=1), BlurPool(inputs)] if i > 1 else []
            for width in widths:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            slice_ = nn.Sequential()
            for number, layer in enumerate(layers, number):  # noqa: B020 (numbered on from the last slice)
                slice_.add_module(str(number), layer)
            number += 1
            self.add_module(f"slice{i}", slice_)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Outputs of the slices, (B, C_i, H_i, W_i), of normalized images (B, 3, H, W)."""
        outputs = []
        for slice_ in self.children():
            x = slice_(x)
            outputs.append(x)
        return outputs


class Head(nn.Module):
    """Weights of the squared differences of a slice's features.

    Args:
        channels: features of the slice.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The published weights were trained with dropout in front, which has no effect here but a number.
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Weighted sums (B, 1, H, W) of (B, C, H, W)."""
        return self.model(x)


class Scaling(nn.Module):
    """Images in -1..1 to ImageNet's mean and deviation, as LPIPS has them."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images."""
        return (images - self.shift) / self.scale


class STLPIPS(nn.Module):
    """The perceptual distance of two batches of images.

    Args:
        slices: features of the convolutions of the trunk's slices.
    """

    def __init__(self, slices: tuple[tuple[int, ...], ...] = SLICES) -> None:
        super().__init__()
        self.scaling_layer = Scaling()
        self.net = Trunk(slices)
        for i, widths in enumerate(slices):
            self.add_module(f"lin{i}", Head(widths[-1]))
        self.count = len(slices)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) in -1..1, at least :data:`SMALLEST_SIDE` pixels a side."""
        total = images.new_zeros(len(images))
        pairs = zip(self._features(images), self._features(others), strict=True)
        for i, (a, b) in enumerate(pairs):
            head = self.get_submodule(f"lin{i}")
            total = total + head((a - b).square()).mean((1, 2, 3))  # arXiv 1801.03924, equation 1
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        """The trunk's features (B, C_i, H_i, W_i), of unit length at every place."""
        return [
            # vector_norm has the gradient 0 where all features are 0, of which sqrt makes NaN.
            x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
            for x in self.net(self.scaling_layer(images))
        ]
