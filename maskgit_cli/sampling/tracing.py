"""The steps of a sampler, recorded as arrays and shown as images (arXiv 2310.14400, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from maskgit_cli.figures.animations import trace_files
from maskgit_cli.formats.tokens import Trace
from maskgit_cli.sampling.model import Pipeline
from maskgit_cli.sampling.samplers.core import Step


class Tracer:
    """An ``on_step`` that records the steps of one batch.

    Args:
        mask_token: K, the token of a masked position.
    """

    def __init__(self, mask_token: int) -> None:
        self.mask_token = mask_token
        self._steps: list[Trace] = []

    def __call__(self, step: Step) -> None:
        """Record a step."""
        masked = step.tokens == self.mask_token  # (B, h, w)
        tokens = torch.where(masked, step.sampled, step.tokens)
        self._steps.append(
            Trace(
                tokens.cpu().numpy().astype(np.uint16),
                step.confidence.cpu().numpy().astype(np.float32),
                masked.cpu().numpy(),
            )
        )

    def trace(self) -> Trace:
        """All steps of these images: arrays (B, S, h, w)."""
        return Trace(*(np.stack(arrays, axis=1) for arrays in zip(*self._steps, strict=True)))


def decoded_steps(
    pipeline: Pipeline, trace: Trace, titles: Sequence[str], animation: str
) -> list[dict[str, bytes]]:
    """The files of :func:`~maskgit_cli.figures.animations.trace_files` for each image of a trace.

    Args:
        pipeline: decodes the tokens.
        trace: of B images.
        titles: of the strips (B).
        animation: format of the animations, ``webp`` or ``gif``.
    """
    return [
        trace_files(pipeline.decode(torch.from_numpy(steps.astype(np.int64))), masks, title, animation)
        for steps, masks, title in zip(trace.codes, trace.masks, titles, strict=True)
    ]
