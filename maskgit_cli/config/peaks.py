"""Peak throughput of GPUs in matrix products, from their makers' data sheets."""

from __future__ import annotations

import re
from typing import NamedTuple


class Peak(NamedTuple):
    """TFLOP/s of dense matrix products, accumulated in float32.

    Attributes:
        pattern: regular expression in the name that the driver reports.
        half: in bf16 and fp16.
        single: in float32 without TF32, which PyTorch leaves off by default.
    """

    pattern: str
    half: float
    single: float


# The first pattern that is found applies. Numbers with sparsity, which data sheets often print, are doubled.
PEAKS = (
    Peak(r"\bB200\b", 2250, 75),
    Peak(r"\bH200 NVL\b", 835, 60),
    Peak(r"\bG?H200\b", 989, 67),
    Peak(r"\bH100 NVL\b", 835, 60),
    Peak(r"\bH100 PCIe\b", 756, 51),
    Peak(r"\bH100\b", 989, 67),
    Peak(r"\bA100\b", 312, 19.5),
    Peak(r"\bL40S\b", 362, 91.6),
    Peak(r"\bL40\b", 181, 90.5),
    Peak(r"\bL4\b", 121, 30.3),
    Peak(r"\bA10\b", 125, 31.2),
    Peak(r"\bV100\b", 125, 15.7),
    Peak(r"\bT4\b", 65, 8.1),
    Peak(r"\bRTX 5090(?! D| Laptop)", 209.5, 104.8),
    Peak(r"\bRTX 4090(?! D| Laptop)", 165.2, 82.6),
    Peak(r"\bRTX 3090(?! Ti)", 71, 35.6),
)


def peak_tflops(device: str, half: bool) -> float | None:
    """Peak TFLOP/s of a device, or None where it is not in :data:`PEAKS`.

    Args:
        device: its name, ``NVIDIA H100 80GB HBM3`` say.
        half: in bf16 or fp16, else in float32.
    """
    found = next((peak for peak in PEAKS if re.search(peak.pattern, device)), None)
    return found and (found.half if half else found.single)
