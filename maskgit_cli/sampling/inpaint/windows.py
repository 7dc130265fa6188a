"""Square windows through which a model inpaints images larger than its own, one after another.

Each window sees what earlier ones have filled. A pixel belongs to one window, which fills it; where a window
borders on what an earlier one filled, the two are blended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# A window is at least this many times as large as what it fills, so that half of what the model sees is
# context, unless the image ends first.
CONTEXT = 2
# In a map of owners: no window fills this pixel.
KEPT = -1


class Window(NamedTuple):
    """A square of an image that the model works on, in pixels of the image.

    Attributes:
        x: left edge.
        y: upper edge.
        side: width and height.
    """

    x: int
    y: int
    side: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns of an (H, W) tensor."""
        return slice(self.y, self.y + self.side), slice(self.x, self.x + self.side)

    def overlaps(self, other: Window) -> bool:
        """Whether two windows have a pixel in common."""
        apart = max(abs(self.x - other.x), abs(self.y - other.y))
        return apart < max(self.side, other.side)


class Rect(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right``, the latter of each not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def longest(self) -> int:
        """The longer of height and width."""
        return max(self.bottom - self.top, self.right - self.left)


class Part(NamedTuple):
    """Masked pixels that are filled with one class. No pixel is in two parts.

    Attributes:
        mask: the pixels, bool (H, W), at least one.
        label: the class, -1 for none.
        strips: borders added to an image, for a part that lies entirely in them: it is filled from the
            image outwards. Without strips, a part is filled as a whole, or piece by piece where its pieces
            are far apart.
    """

    mask: Tensor
    label: int
    strips: tuple[Rect, ...] = ()


class WindowPlan(NamedTuple):
    """The windows of an image, in the order in which they are filled.

    Attributes:
        windows: all inside the image.
        labels: class of each, -1 for none.
        owner: number of the window that fills each pixel, int32 (H, W), or :data:`KEPT`.
    """

    windows: list[Window]
    labels: list[int]
    owner: Tensor


def plan_windows(parts: list[Part], resolution: int, side: int | None = None) -> WindowPlan:
    """The windows that fill some parts of an image, one part after the other.

    Args:
        parts: what is filled, at least one.
        resolution: of the model, in pixels.
        side: of all windows; None chooses: the model's resolution for added borders, and for anything else
            that too, or :data:`CONTEXT` times its longer side if that is more. A window is never larger
            than the shorter side of the image.
    """
    shape = parts[0].mask.shape
    plan = WindowPlan([], [], torch.full(shape, KEPT, dtype=torch.int32))
    masked = torch.stack([part.mask for part in parts]).any(0)
    for part in parts:
        for target, candidates in _targets(part, resolution, side):
            before = len(plan.windows)
            _cover(target, masked, plan, candidates)
            plan.labels.extend([part.label] * (len(plan.windows) - before))
    return plan


def _targets(part: Part, resolution: int, side: int | None) -> list[tuple[Tensor, list[Window]]]:
    """What is covered together, bool (H, W), and windows that cover it, which may be more than needed."""
    shape = part.mask.shape
    if part.strips:
        size = side or min(resolution, *shape)
        # A strip of up to half a window is filled at once, with as much of the image next to it.
        reach = max(1, size // CONTEXT)
        return [(part.mask, [w for strip in part.strips for w in lattice(strip, size, reach, shape)])]

    def wanted(longest: int) -> int:
        return max(side, longest) if side else max(resolution, CONTEXT * longest)

    targets = []
    for piece in sorted(separate(part.mask, wanted)):
        size = side or min(wanted(piece.longest), *shape)
        target = torch.zeros_like(part.mask)
        rows, columns = slice(piece.top, piece.bottom), slice(piece.left, piece.right)
        target[rows, columns] = part.mask[rows, columns]
        targets.append((target, lattice(piece, size, size, shape)))
    return targets


def separate(mask: Tensor, wanted: Callable[[int], int]) -> list[Rect]:
    """Bounding boxes of the pieces of a mask (H, W) that get windows of their own.

    A mask is cut in two along the widest empty gap of rows or columns if that makes the larger window
    smaller, and its pieces likewise.

    Args:
        mask: at least one pixel of it is True.
        wanted: side of the window for something whose longer side is given.
    """
    found, left = [], [_tight(mask, Rect(0, mask.shape[0], 0, mask.shape[1]))]
    while left:
        whole = left.pop()
        halves = [_tight(mask, half) for half in _halves(mask, whole)]
        if halves and wanted(whole.longest) > max(wanted(half.longest) for half in halves):
            left.extend(halves)
        else:
            found.append(whole)
    return found


def _tight(mask: Tensor, rect: Rect) -> Rect:
    """The bounding box of what is True inside a box of a mask."""
    inside = mask[rect.top : rect.bottom, rect.left : rect.right]
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    return Rect(
        rect.top + int(rows[0]),
        rect.top + int(rows[-1]) + 1,
        rect.left + int(columns[0]),
        rect.left + int(columns[-1]) + 1,
    )


def _halves(mask: Tensor, rect: Rect) -> list[Rect]:
    """Both sides of the widest gap of empty rows or columns in a tight box; nothing if there is no gap."""
    inside = mask[rect.top : rect.bottom, rect.left : rect.right]
    (tall, y), (wide, x) = _widest_gap(inside.any(1)), _widest_gap(inside.any(0))
    if max(tall, wide) == 0:
        return []
    if tall >= wide:
        middle = rect.top + y
        return [rect._replace(bottom=middle), rect._replace(top=middle)]
    middle = rect.left + x
    return [rect._replace(right=middle), rect._replace(left=middle)]


def _widest_gap(line: Tensor) -> tuple[int, int]:
    """Length and start of the longest run of False in bool (N,) between two True; (0, 0) for no run."""
    found = line.nonzero()[:, 0]
    gaps = found.diff() - 1
    if len(gaps) == 0 or int(gaps.max()) == 0:
        return 0, 0
    widest = int(gaps.argmax())
    return int(gaps[widest]), int(found[widest]) + 1


def lattice(rect: Rect, side: int, reach: int, shape: tuple[int, ...]) -> list[Window]:
    """Windows that cover a box of an image, each overlapping the next by half where one isn't enough.

    Args:
        rect: what is covered.
        side: of the windows, at most the shorter side of the image.
        reach: how much of the box one window may fill along an axis; at least half of ``side``.
        shape: (H, W) of the image.
    """
    rows = _positions(rect.top, rect.bottom, side, reach, shape[0])
    columns = _positions(rect.left, rect.right, side, reach, shape[1])
    return [Window(x, y, side) for y in rows for x in columns]


def _positions(start: int, stop: int, side: int, reach: int, length: int) -> list[int]:
    """Where windows begin that cover start..stop of a line."""
    if stop - start <= reach:
        return [min(max((start + stop - side) // 2, 0), length - side)]
    # Half a window of context on either side, as far as the image goes.
    first, last = max(start - side // 2, 0), min(stop + side // 2, length) - side
    steps = math.ceil((last - first) / max(1, side // 2))
    return [first + i * (last - first) // max(steps, 1) for i in range(steps + 1)]


def _cover(target: Tensor, masked: Tensor, plan: WindowPlan, candidates: list[Window]) -> None:
    """Add windows to a plan until each pixel of a target (H, W) has one.

    The next window is always the one with the fewest masked pixels, so that filling starts at the image's
    own content and goes outwards. ``masked`` (H, W), all that no window has filled yet, is updated.
    """
    counts = {window: int(masked[window.slices].sum()) for window in candidates}
    while counts:
        window = min(counts, key=lambda w: (counts[w], w.y, w.x))
        del counts[window]
        new = target[window.slices] & masked[window.slices]
        if not new.any():
            continue
        plan.owner[window.slices][new] = len(plan.windows)
        plan.windows.append(window)
        masked[window.slices] &= ~new
        for other in counts:
            if window.overlaps(other):
                counts[other] = int(masked[other.slices].sum())
