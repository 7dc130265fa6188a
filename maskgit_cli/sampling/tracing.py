"""What a sampler did step by step, kept as numbers and shown as pictures (arXiv 2310.14400, Figure 4)."""

from __future__ import annotations

import numpy as np
import torch

from maskgit_cli.formats.tokens import Trace
from maskgit_cli.sampling.samplers import Step


class Tracer:
    """Watches a sampler as its ``on_step`` and keeps what it did.

    Args:
        mask_code: K, the code that stands for "unknown".
    """

    def __init__(self, mask_code: int) -> None:
        self.mask_code = mask_code
        self._steps: list[Trace] = []

    def __call__(self, step: Step) -> None:
        """Keep a step of some images."""
        masked = step.codes == self.mask_code  # (B, h, w)
        codes = torch.where(masked, step.drawn, step.codes)
        self._steps.append(
            Trace(
                codes.cpu().numpy().astype(np.uint16),
                step.confidence.cpu().numpy().astype(np.float32),
                masked.cpu().numpy(),
            )
        )

    def trace(self) -> Trace:
        """All steps of these images: arrays (B, S, h, w)."""
        return Trace(*(np.stack(arrays, axis=1) for arrays in zip(*self._steps, strict=True)))
