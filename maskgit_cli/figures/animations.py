"""What a sampler did step by step, as strips and animations (arXiv 2310.14400, Figure 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.figures.grids import png_bytes
from maskgit_cli.figures.sheets import animation_bytes, captioned_sheet

# A strip shows so many steps at most, the first and the last among them.
STRIP_STEPS = 10
# An animation takes about so long, its last frame stays, and no frame is quicker or slower than these.
ANIMATION_MS, HOLD_MS = 2500, 1500
QUICKEST_MS, SLOWEST_MS = 40, 400
# The line around a mask, which may be as white as the paper.
FRAME = 128


def shown_steps(steps: int) -> list[int]:
    """Which of S steps a strip shows: all, or as many as fit at even distances, from first to last."""
    return sorted({round(i) for i in np.linspace(0, steps - 1, min(steps, STRIP_STEPS))})


def mask_pictures(masks: np.ndarray, side: int) -> Tensor:
    """Masks bool (S, h, w) as pictures uint8 (S, 3, side, side): white is masked, with a gray frame."""
    factor = side // masks.shape[-1]
    pictures = torch.from_numpy(masks).to(torch.uint8).mul(255)
    pictures = pictures.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    for edge in (0, -1):
        pictures[:, edge] = pictures[:, :, edge] = FRAME
    return pictures.unsqueeze(1).expand(-1, 3, -1, -1)


def trace_pictures(pixels: Tensor, masks: np.ndarray, title: str, format: str) -> dict[str, bytes]:
    """A strip of a picture's steps and an animation of them, as files by their suffix.

    Above stands what is still masked after a step, below what its codes look like: those known, and where
    nothing is known those that the step drew.

    Args:
        pixels: decoded codes of every step, uint8 (S, 3, H, H).
        masks: True where nothing is known after a step, bool (S, h, w).
        title: of the strip.
        format: of the animation, ``webp`` or ``gif``.
    """
    steps = len(pixels)
    names = [f"step {number}" for number in range(1, steps + 1)]
    masked = mask_pictures(masks, pixels.shape[-1])
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
    pause = max(QUICKEST_MS, min(SLOWEST_MS, ANIMATION_MS // steps))
    moving = animation_bytes(torch.stack(frames), pause, format, HOLD_MS)
    return {"png": png_bytes(strip), format: moving}
