"""Where a model looks at a picture larger than its own: square windows, drawn one after another.

Each window sees what those before it have drawn. A pixel belongs to one window, which draws it; where a
window draws beside what an earlier one drew, the two fade into one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

# A window is at least this many times as large as what it draws, so that the model sees as much of the
# picture as it draws; unless the picture ends first.
CONTEXT = 2
# In a map of owners: no window draws this pixel.
KEPT = -1


class Window(NamedTuple):
    """A square of a picture that the model works on, in pixels of the picture.

    Attributes:
        x: left edge.
        y: upper edge.
        side: width and height.
    """

    x: int
    y: int
    side: int

    @property
    def place(self) -> tuple[slice, slice]:
        """The rows and columns of an (H, W) tensor that it covers."""
        return slice(self.y, self.y + self.side), slice(self.x, self.x + self.side)

    def meets(self, other: Window) -> bool:
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
    """Pixels that are drawn with one class. No pixel is in two parts.

    Attributes:
        mask: the pixels, bool (H, W), at least one.
        label: the class, -1 for none.
        strips: what was added to the sides of a picture, for a part that is all in there: it is drawn
            from the picture outwards. Without any, a part is drawn as one thing, or one for each of its
            pieces that are far apart.
    """

    mask: Tensor
    label: int
    strips: tuple[Rect, ...] = ()


class Plan(NamedTuple):
    """The windows of a picture, in the order in which they are drawn.

    Attributes:
        windows: all inside the picture.
        labels: class of each, -1 for none.
        owner: number of the window that draws each pixel, int32 (H, W), or :data:`KEPT`.
    """

    windows: list[Window]
    labels: list[int]
    owner: Tensor


# --- choosing windows -------------------------------------------------------------------------------


def plan_windows(parts: list[Part], resolution: int, side: int | None = None) -> Plan:
    """The windows that draw some parts of a picture, one part after the other.

    Args:
        parts: what is drawn, at least one.
        resolution: of the model, in pixels.
        side: of all windows; None chooses. What was added gets the model's resolution. Anything else gets
            that too, or :data:`CONTEXT` times its longer side if that is more. A window is never larger
            than the shorter side of the picture.
    """
    shape = parts[0].mask.shape
    plan = Plan([], [], torch.full(shape, KEPT, dtype=torch.int32))
    unknown = torch.stack([part.mask for part in parts]).any(0)
    for part in parts:
        for target, candidates in _tasks(part, resolution, side):
            before = len(plan.windows)
            _cover(target, unknown, plan, candidates)
            plan.labels.extend([part.label] * (len(plan.windows) - before))
    return plan


def _tasks(part: Part, resolution: int, side: int | None) -> list[tuple[Tensor, list[Window]]]:
    """What is covered together, bool (H, W), and windows that cover it, which may be more than needed."""
    shape = part.mask.shape
    if part.strips:
        size = side or min(resolution, *shape)
        # A strip of up to half a window is drawn at once, with as much of the picture beside it.
        reach = max(1, size // CONTEXT)
        return [(part.mask, [w for strip in part.strips for w in lattice(strip, size, reach, shape)])]

    def wanted(longest: int) -> int:
        return max(side, longest) if side else max(resolution, CONTEXT * longest)

    tasks = []
    for piece in sorted(separate(part.mask, wanted)):
        size = side or min(wanted(piece.longest), *shape)
        target = torch.zeros_like(part.mask)
        rows, columns = slice(piece.top, piece.bottom), slice(piece.left, piece.right)
        target[rows, columns] = part.mask[rows, columns]
        tasks.append((target, lattice(piece, size, size, shape)))
    return tasks


def separate(mask: Tensor, wanted: Callable[[int], int]) -> list[Rect]:
    """Boxes around pieces of a mask (H, W) that are better off with windows of their own.

    A mask is cut in two along the widest empty gap of rows or columns if that makes the larger window
    smaller, and so are its pieces.

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
    """The box around what is True in a box of a mask."""
    inside = mask[rect.top : rect.bottom, rect.left : rect.right]
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    return Rect(
        rect.top + int(rows[0]),
        rect.top + int(rows[-1]) + 1,
        rect.left + int(columns[0]),
        rect.left + int(columns[-1]) + 1,
    )


def _halves(mask: Tensor, rect: Rect) -> list[Rect]:
    """Both sides of the widest gap of empty rows or columns in a tight box; nothing if there is none."""
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
    """Length and start of the longest run of False in bool (N,) between two True; (0, 0) for none."""
    found = line.nonzero()[:, 0]
    gaps = found.diff() - 1
    if len(gaps) == 0 or int(gaps.max()) == 0:
        return 0, 0
    widest = int(gaps.argmax())
    return int(gaps[widest]), int(found[widest]) + 1


def lattice(rect: Rect, side: int, reach: int, shape: tuple[int, ...]) -> list[Window]:
    """Windows that cover a box of a picture, half of each over the next where one isn't enough.

    Args:
        rect: what is covered.
        side: of the windows, no more than the picture's shorter one.
        reach: how much of the box one window may draw along an axis; at least half of ``side``.
        shape: (H, W) of the picture.
    """
    rows = _positions(rect.top, rect.bottom, side, reach, shape[0])
    columns = _positions(rect.left, rect.right, side, reach, shape[1])
    return [Window(x, y, side) for y in rows for x in columns]


def _positions(start: int, stop: int, side: int, reach: int, length: int) -> list[int]:
    """Where windows begin that cover start..stop of a line."""
    if stop - start <= reach:
        return [min(max((start + stop - side) // 2, 0), length - side)]
    # Half a window of the picture on either side, as far as there is one.
    first, last = max(start - side // 2, 0), min(stop + side // 2, length) - side
    steps = math.ceil((last - first) / max(1, side // 2))
    return [first + i * (last - first) // max(steps, 1) for i in range(steps + 1)]


def _cover(target: Tensor, unknown: Tensor, plan: Plan, candidates: list[Window]) -> None:
    """Add windows to a plan until all of a target (H, W) has one.

    The next window is always the one that knows most of what is in it, so that drawing starts at what is
    there and goes outwards. ``unknown`` (H, W), all that no window has drawn yet, is kept up to date.
    """
    counts = {window: int(unknown[window.place].sum()) for window in candidates}
    while counts:
        window = min(counts, key=lambda w: (counts[w], w.y, w.x))
        del counts[window]
        new = target[window.place] & unknown[window.place]
        if not new.any():
            continue
        plan.owner[window.place][new] = len(plan.windows)
        plan.windows.append(window)
        unknown[window.place] &= ~new
        for other in counts:
            if window.meets(other):
                counts[other] = int(unknown[other.place].sum())


# --- from pixels to codes and back ------------------------------------------------------------------


def resize(image: Tensor, side: int) -> Tensor:
    """Scale a square uint8 (3, S, S) to (3, side, side); the same pixels if it has that size already."""
    if image.shape[-1] == side:
        return image
    smooth = InterpolationMode.BICUBIC if side > image.shape[-1] else InterpolationMode.BILINEAR
    # In floats, as PyTorch's own way with uint8 fails where the result is a single pixel.
    scaled = transforms.resize(image.float(), [side, side], interpolation=smooth, antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def masked_cells(masked: Tensor, grid: int, rule: str) -> Tensor:
    """Which codes are drawn anew: bool (grid, grid) for a window's mask (S, S).

    The window's S pixels are divided evenly into ``grid`` cells a side, so that a cell's edge may go
    through a pixel. ``any`` draws a code if a masked pixel touches its cell, ``majority`` if more than
    half of the cell's area is masked.
    """
    side = masked.shape[0]
    pixel, cell = torch.arange(side), torch.arange(grid)[:, None]
    # Lengths in units of 1/(side·grid) of the window, in which all edges are whole numbers.
    ends = torch.minimum((pixel + 1) * grid, (cell + 1) * side)
    overlap = (ends - torch.maximum(pixel * grid, cell * side)).clamp(min=0).double()  # (grid, S)
    area = overlap @ masked.double() @ overlap.T  # (grid, grid), exact: whole numbers below 2^53
    return area > 0 if rule == "any" else 2 * area > side * side


def cells_to_draw(plan: Plan, number: int, grid: int, rule: str) -> Tensor:
    """The codes of a window that are drawn anew, bool (grid, grid), once those before it are drawn.

    They are all that nobody has drawn by then, also where a later window will draw it: what the picture
    shows there has to go.
    """
    owner = plan.owner[plan.windows[number].place]  # (S, S)
    return masked_cells(owner >= number, grid, rule)


def blend_weights(masked: Tensor, feather: int) -> Tensor:
    """How much of the drawn picture each pixel takes: float32 (H, W), 0 outside the mask.

    Inside it, a pixel d pixels away from the nearest one outside (diagonals count 1) takes d/(feather+1),
    and 1 from there on. The picture's own border is no edge of the mask.
    """
    outside = (~masked).float()[None]  # (1, H, W)
    weights = torch.zeros_like(outside)
    for _ in range(feather + 1):
        weights += 1 - outside
        outside = F.max_pool2d(outside, 3, stride=1, padding=1)
    return (weights / (feather + 1))[0]


def seam_weights(owner: Tensor, number: int, width: int) -> Tensor:
    """How much each pixel of a window takes of what the window draws: float32 (S, S).

    All of it where the window is the owner. From there it falls over ``width`` pixels into what earlier
    windows have drawn, which this one has seen and shows again, so that no edge stays. Nowhere else.

    Args:
        owner: of each pixel of the window, int32 (S, S).
        number: of the window.
        width: pixels of the fade.
    """
    reached = owner == number
    weights = reached.float()
    drawn = (owner >= 0) & (owner < number)
    if not drawn.any():
        return weights
    for step in range(1, width + 1):
        grown = F.max_pool2d(reached.float()[None], 3, stride=1, padding=1)[0] > 0
        ring = grown & drawn & ~reached
        weights[ring] = 1 - step / (width + 1)
        reached = reached | ring
    return weights


def paste(picture: Tensor, drawn: Tensor, window: Window, weights: Tensor) -> None:
    """Lay what was drawn, uint8 (3, R, R), over a window of a picture uint8 (3, H, W), in place.

    Args:
        picture: changed where ``weights`` isn't 0.
        drawn: scaled to the window.
        window: where it belongs.
        weights: how much of it each pixel takes, float32 (S, S).
    """
    square = resize(drawn, window.side)
    rows, columns = window.place
    old = picture[:, rows, columns]
    mixed = (old + weights * (square.float() - old)).round().to(torch.uint8)
    picture[:, rows, columns] = torch.where(weights > 0, mixed, old)
