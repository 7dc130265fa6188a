"""Dropout that depends on the image alone, not on the batch or the process it is in.

Each image of a batch has a seed of 64 bits, and each place of a network where activations are dropped has a
number, its site. What is dropped is a function of (seed, site, position), so it is the same however a batch
is split among processes and micro-batches, and when activations are computed again for their gradient.

The function is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014), a counter times a constant followed by a mixer of 64 bits. Integer products and shifts wrap alike on
every device.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned word: torch has no arithmetic on uint64."""
    return word - (1 << 64) if word >> 63 else word


# The constants of SplitMix64: the golden ratio's fraction, and the multipliers of its mixer.
_STEP = _signed(0x9E3779B97F4A7C15)
_MIX = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))

# Probabilities are multiples of 1/65536: a word of 64 bits serves four positions.
LANES, LEVELS = 4, 1 << 16


def _mixed(words: Tensor) -> Tensor:
    """SplitMix64's mixer, a bijection of int64 words, in place."""
    for shift, factor in _MIX:
        words ^= (words >> shift) & ((1 << (64 - shift)) - 1)  # the mask makes the shift a logical one
        words *= factor
    words ^= (words >> 31) & ((1 << 33) - 1)
    return words


def kept(seeds: Tensor, site: int, n: int, p: float) -> Tensor:
    """Which of n activations of each image are kept.

    Args:
        seeds: int64 (B,), one per image.
        site: number of the place in the network.
        n: activations per image.
        p: probability of dropping one, rounded to a multiple of 1/65536.

    Returns:
        bool (B, n).
    """
    start = _mixed(seeds + _signed((site + 1) * _STEP % (1 << 64))).unsqueeze(1)  # (B, 1)
    counter = torch.arange(1, -(-n // LANES) + 1, device=seeds.device)
    words = _mixed(start + counter * _STEP)  # (B, n/4)
    lanes = words.view(torch.int16)[:, :n]  # (B, n), uniform from -32768 to 32767
    return lanes >= _dropped_levels(p) - LEVELS // 2


def _dropped_levels(p: float) -> int:
    """The number of the 65,536 levels of a lane at which an activation is dropped."""
    return min(round(p * LEVELS), LEVELS - 1)


class _Masked(torch.autograd.Function):
    """x times a bool mask and a factor. One byte per activation is saved for the gradient.

    In place, these products take a third of the time of ``torch.where`` on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, factor: float) -> Tensor:
        """The product, of the shape of x."""
        ctx.save_for_backward(keep)
        ctx.factor = factor
        return keep.to(x.dtype).mul_(factor).mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient for x."""
        (keep,), (gradient,) = ctx.saved_tensors, gradients
        return keep.to(gradient.dtype).mul_(ctx.factor).mul_(gradient), None, None


class RowDropout(nn.Module):
    """Dropout of each image by its seed (arXiv 1207.0580); kept activations grow by 1/(1 - p).

    Args:
        p: probability of dropping an activation, rounded to a multiple of 1/65536.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.site = 0  # set by number_sites

    @property
    def active(self) -> bool:
        """Whether anything is dropped: in training, with a probability above 0."""
        return self.training and self.p > 0

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        """Drop activations (B, ...) by the seeds int64 (B,) of their images."""
        if not self.active:
            return x
        assert seeds is not None, "dropout needs a seed for every image"
        keep = kept(seeds, self.site, x[0].numel(), self.p).reshape(x.shape)
        dropped: Tensor = _Masked.apply(x, keep, 1 / (1 - _dropped_levels(self.p) / LEVELS))
        return dropped


class SeededSequential(nn.Sequential):
    """Layers one after the other; dropout among them gets the seeds of the images."""

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Map (B, ...) through all layers; ``seeds`` are int64 (B,)."""
        for layer in self:
            x = layer(x, seeds) if isinstance(layer, RowDropout) else layer(x)
        return x


def number_sites(network: nn.Module) -> None:
    """Number the places of a network where activations are dropped, so that no two drop alike."""
    places = [module for module in network.modules() if isinstance(module, RowDropout)]
    for site, place in enumerate(places):
        place.site = site


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: RowDropout, seeds: Tensor | None) -> Tensor:
    """Attention with dropout of its probabilities (arXiv 1706.03762, equation 1).

    torch's fused kernels draw what they drop from its generator. So while something is dropped, attention is
    computed step by step, and again for its gradient: the probabilities of one block alone are in memory.

    Args:
        q: queries (B, heads, T, d).
        k: keys (B, heads, T, d).
        v: values (B, heads, T, d).
        dropout: of the probabilities.
        seeds: int64 (B,), one per image; None where nothing is dropped.

    Returns:
        (B, heads, T, d).
    """
    if not dropout.active:
        return F.scaled_dot_product_attention(q, k, v)
    mixed: Tensor = checkpoint(
        _dropped_attention, q, k, v, dropout, seeds, use_reentrant=False, preserve_rng_state=False
    )
    return mixed


def _dropped_attention(q: Tensor, k: Tensor, v: Tensor, dropout: RowDropout, seeds: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, T, T)
    # autocast takes the softmax in float32, and the products not.
    mixed: Tensor = dropout(scores.softmax(-1), seeds).to(v.dtype) @ v  # (B, heads, T, d)
    return mixed
