"""Measures of a training for its log: accuracy by mask ratio, distance of the EMA, utilization, memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from maskgit_cli.config.peaks import peak_tflops
from maskgit_cli.runtime.distributed import gather_objects, world
from maskgit_cli.training.sharding import whole

# Equal intervals of the mask ratio.
BINS = 4


@torch.no_grad()
def accuracy_counts(logits: Tensor, tokens: Tensor, masked: Tensor, codebook_size: int) -> Tensor:
    """Counts (2, BINS) of masked tokens that are predicted right, and of all masked tokens.

    Args:
        logits: (B, N, K) or (B, N, K+1); the mask itself is no prediction.
        tokens: the targets, integers (B, h, w).
        masked: bool (B, h, w); the fraction of an image's tokens that is masked selects its bin.
        codebook_size: K.

    Returns:
        float32, exact up to 2^24 tokens.
    """
    masked, tokens = masked.flatten(1), tokens.flatten(1)  # (B, N)
    right = (logits[..., :codebook_size].argmax(-1) == tokens) & masked  # (B, N)
    counts = torch.stack([right.sum(1), masked.sum(1)])  # (2, B)
    chosen = (counts[1] * BINS // masked.shape[1]).clamp(max=BINS - 1)  # (B,)
    one_hot = chosen.unsqueeze(1) == torch.arange(BINS, device=chosen.device)  # (B, BINS)
    # A sum of products, not a matrix product, which GPUs round to TF32.
    return (counts.unsqueeze(2) * one_hot).sum(1).float()  # (2, BINS)


def accuracies(counts: Tensor) -> dict[str, float | None]:
    """Accuracy on masked tokens, over all and by mask ratio; None where there were none.

    ``accuracy_0_25`` is that of images with less than a quarter of their tokens masked, ``accuracy_25_50``
    of those from a quarter up to a half, and so on.

    Args:
        counts: integers (2·BINS,): right predictions, then masked tokens.
    """
    right, masked = counts.view(2, BINS).tolist()
    values = {"accuracy": (sum(right), sum(masked))}
    for i in range(BINS):
        values[f"accuracy_{100 * i // BINS}_{100 * (i + 1) // BINS}"] = (right[i], masked[i])
    return {name: round(part / total, 6) if total else None for name, (part, total) in values.items()}


@torch.no_grad()
def ema_distance(ema: Mapping[str, Tensor], network: nn.Module) -> float:
    """L2 distance of the EMA weights from the raw weights, relative to the norm of the raw weights."""
    differences, norms = [], []
    for name, parameter in network.named_parameters():
        value = whole(parameter.detach()).float()  # one at a time: a copy of them all may not fit on a GPU
        differences.append((whole(ema[name]) - value).norm())
        norms.append(value.norm())
    return round(float(torch.stack(differences).norm() / torch.stack(norms).norm()), 6)


class Utilization:
    """How much of the machine a training uses.

    Args:
        device: of this rank.
        half: whether matrix products are in bf16 or fp16.
        flops: floating-point operations per image.
    """

    def __init__(self, device: torch.device, half: bool, flops: int) -> None:
        self.device, self.flops = device, flops
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.peak = peak_tflops(name, half)

    def values(self, images_per_second: float) -> dict[str, float]:
        """Values of a line of the log; all ranks call it.

        ``tflops`` per process, ``mfu`` as a fraction of the peak where that is known, and ``memory_gb``, the
        largest peak of all processes.

        Args:
            images_per_second: of all processes.
        """
        tflops = self.flops * images_per_second / world().size / 1e12
        # Three significant digits: small trainings on CPUs have a few GFLOP/s.
        values = {"tflops": float(f"{tflops:.3g}")}
        if self.peak is not None:
            values["mfu"] = round(tflops / self.peak, 4)
        values["memory_gb"] = max(gather_objects(round(peak_memory(self.device) / 1e9, 3)))
        return values


def peak_memory(device: torch.device) -> int:
    """Most bytes that were in use at once: of a GPU's tensors, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
