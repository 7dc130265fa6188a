"""The steps of a sampler as strips and animations (arXiv 2310.14400, Figure 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.figures.grids import png_bytes
from maskgit_cli.figures.sheets import animation_bytes, captioned_sheet

# Maximum number of steps in a strip; the first and the last are always shown.
STRIP_STEPS = 10
# Approximate duration of an animation, how long its last frame stays, and limits of a frame's duration.
ANIMATION_MS, HOLD_MS = 2500, 1500
SHORTEST_MS, LONGEST_MS = 40, 400
# Gray of the frame around a mask, which may be as white as the sheet.
FRAME = 128


def shown_steps(steps: int) -> list[int]:
    """The steps of S that a strip shows: all, or :data:`STRIP_STEPS` at even distances, first to last."""
    return sorted({round(i) for i in np.linspace(0, steps - 1, min(steps, STRIP_STEPS))})


def mask_images(masks: np.ndarray, side: int) -> Tensor:
    """Masks bool (S, h, w) as images uint8 (S, 3, side, side): white is masked, with a gray frame."""
    factor = side // masks.shape[-1]
    images = torch.from_numpy(masks).to(torch.uint8).mul(255)
    images = images.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    for edge in (0, -1):
        images[:, edge] = images[:, :, edge] = FRAME
    return images.unsqueeze(1).expand(-1, 3, -1, -1)


def trace_files(pixels: Tensor, masks: np.ndarray, title: str, format: str) -> dict[str, bytes]:
    """A strip of an image's steps and an animation of them: content of the files by suffix.

    The upper row shows what is still masked after a step, the lower one the decoded tokens: those that are
    kept, and where a position is masked the one that the step sampled.

    Args:
        pixels: decoded tokens of every step, uint8 (S, 3, H, H).
        masks: True where a token is masked after a step, bool (S, h, w).
        title: of the strip.
        format: of the animation, ``webp`` or ``gif``.
    """
    steps = len(pixels)
    names = [f"step {number}" for number in range(1, steps + 1)]
    masked = mask_images(masks, pixels.shape[-1])
    chosen = shown_steps(steps)
    strip = captioned_sheet(
        torch.cat([masked[chosen], pixels[chosen]]),
        len(chosen),
        headers=[names[i] for i in chosen],
        title=title,
    )
    frames = [
        captioned_sheet(torch.stack([masked[i], pixels[i]]), 2, captions=["masked", f"{names[i]} of {steps}"])
        for i in range(steps)
    ]
    duration = max(SHORTEST_MS, min(LONGEST_MS, ANIMATION_MS // steps))
    animation = animation_bytes(torch.stack(frames), duration, format, HOLD_MS)
    return {"png": png_bytes(strip), format: animation}
