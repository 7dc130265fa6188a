"""Settings of ``inpaint``: boxes, added borders, and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple, Self

from maskgit_cli.config.arguments import Label, label_text
from maskgit_cli.config.base import (
    LARGEST_SAMPLES,
    LARGEST_SIDE,
    Settings,
    a_seed,
    among,
    at_least,
    between,
    option,
    require,
    setting,
)
from maskgit_cli.errors import ConfigError


class Box(NamedTuple):
    """A box in pixels of the image without added borders.

    Attributes:
        x: left edge; below 0 in a border added on the left.
        y: upper edge.
        width: at least 1.
        height: at least 1.
        label: class of the content generated inside, by number or name; None is that of the whole image.
    """

    x: int
    y: int
    width: int
    height: int
    label: Label | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``X,Y,W,H`` or ``X,Y,W,H=CLASS``.

        Raises:
            ValueError: the text is neither.
        """
        numbers, equals, label = text.partition("=")
        if equals and not label.strip():
            raise ValueError(f"{text!r} has no class after =")
        try:
            x, y, width, height = map(int, numbers.split(","))
        except ValueError:
            raise ValueError(f"{text!r} is not X,Y,W,H, four numbers of pixels, or X,Y,W,H=CLASS") from None
        return cls(x, y, width, height, label.strip() or None)

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        return ",".join(map(str, self[:4])) + (f"={self.label}" if self.label is not None else "")


class Outpaint(NamedTuple):
    """Borders added to the sides of an image, in pixels."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``left:64,top:32``; other sides are 0.

        Raises:
            ValueError: the text is something else.
        """
        sides: dict[str, int] = {}
        for item in text.split(","):
            side, colon, number = (part.strip() for part in item.partition(":"))
            if side in sides:
                raise ValueError(f"{text!r} has {side} twice")
            if not colon or side not in cls._fields or not number.isdecimal():
                raise ValueError(f"{item!r} is not SIDE:PIXELS with one of {', '.join(cls._fields)}")
            sides[side] = int(number)
        return cls(**sides)

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        return ",".join(f"{side}:{pixels}" for side, pixels in self._asdict().items() if pixels)


# What Python functions accept as boxes: one or several, each also as four numbers or as text.
BoxArgument = Box | Sequence[int] | str
BoxesArgument = BoxArgument | Sequence[BoxArgument] | None


def boxes_of(boxes: BoxesArgument, name: str) -> tuple[Box, ...]:
    """One or several boxes; None is none.

    Args:
        boxes: see :data:`BoxesArgument`.
        name: of the argument, for the message.

    Raises:
        ConfigError: a box is something else.
    """
    if boxes is None:
        return ()
    one = isinstance(boxes, Box | str) or (len(boxes) == 4 and all(_is_integer(x) for x in boxes))
    listed = [boxes] if one else list(boxes)
    return tuple(_box_of(box, name) for box in listed)


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _box_of(box: object, name: str) -> Box:
    """A box of itself, four numbers, or text."""
    if isinstance(box, str):
        try:
            return Box.parse(box)
        except ValueError as error:
            raise ConfigError(f"{option(name)} {error}") from None
    numbers = tuple(box) if isinstance(box, Sequence) else ()
    label = numbers[4] if isinstance(box, Box) else None
    if len(numbers) != (5 if isinstance(box, Box) else 4) or not all(map(_is_integer, numbers[:4])):
        raise ConfigError(f"{option(name)} {box}: must be Box(x, y, width, height) or four whole numbers")
    x, y, width, height = map(int, numbers[:4])
    return Box(x, y, width, height, label)


def outpaint_of(sides: Outpaint | Mapping[str, int] | str | None) -> Outpaint | None:
    """Borders to add, also by their sides' names, ``{"left": 64}``, or as text, ``left:64``.

    Raises:
        ConfigError: they are something else.
    """
    if sides is None or isinstance(sides, Outpaint):
        return sides
    text = sides if isinstance(sides, str) else ",".join(f"{side}:{pixels}" for side, pixels in sides.items())
    try:
        return Outpaint.parse(text)
    except ValueError as error:
        raise ConfigError(f"--outpaint {error}") from None


@dataclass(frozen=True)
class InpaintConfig(Settings):
    """Settings of ``inpaint`` besides the sampler's own.

    The region to inpaint is the union of the mask, the boxes and the added borders, without the kept boxes.
    With kept boxes and neither mask nor box, it is everything else.
    """

    n: int = setting(1, at_least(1, LARGEST_SAMPLES), help="Number of variants.")
    label: str | int | None = setting(
        None,
        help="Class of the generated content, by number or name, where a box names none.",
        unset="no class, and no guidance",
        convert=label_text,
    )
    box: tuple[Box, ...] = ()
    keep_box: tuple[Box, ...] = ()
    outpaint: Outpaint | None = None
    window: int | None = setting(
        None,
        at_least(1),
        help="Side of the square window that the model sees, in pixels of IMAGE.",
        unset="the model's resolution, or twice the region",
    )
    mask_threshold: int | None = setting(
        None,
        between(1, 255),
        help="Regenerate where a mask that is not black and white has this luma (1 to 255) or more.",
        unset="a mask must be black and white",
    )
    mask_rule: str = setting(
        "any",
        among("any", "majority"),
        help="Regenerate a token if any pixel of its cell is masked, or if the majority is.",
    )
    feather: int = setting(0, at_least(0, LARGEST_SIDE), help="Feather width in pixels, inside the mask.")
    weights: str = setting("ema", among("ema", "raw"), help="EMA weights (ema) or raw weights (raw).")
    seed: int = setting(0, a_seed(), help="Random seed.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_boxes(self.box, self.keep_box)
        check_outpaint(self.outpaint)


def check_boxes(boxes: tuple[Box, ...], kept: tuple[Box, ...]) -> None:
    """Refuse boxes without pixels, and kept boxes with a class.

    Raises:
        ConfigError: there is such a box.
    """
    for name, group in (("box", boxes), ("keep_box", kept)):
        for box in group:
            if not isinstance(box, Box):
                raise ConfigError(f"{option(name)} {box}: must be a tuple of Box(x, y, width, height)")
            if box.label is not None:
                label_text(box.label, f"{option(name)} {box}: the label")
            if box.width < 1 or box.height < 1:
                raise ConfigError(f"{option(name)} {box}: width and height must be 1 or more")
    for box in kept:
        if box.label is not None:
            raise ConfigError(f"--keep-box {box}: a kept box has no class; give it to a --box")


def check_outpaint(sides: Outpaint | None) -> None:
    """Refuse borders without pixels, and negative or absurd ones.

    Raises:
        ConfigError: no side has a pixel, or a side has a negative number or more than ``LARGEST_SIDE``.
    """
    if sides is not None:
        rule = f"numbers of pixels between 0 and {LARGEST_SIDE:,}"
        require(min(sides) >= 0 and max(sides) <= LARGEST_SIDE, "outpaint", sides, rule)
        shown = sides if any(sides) else "0"
        require(any(sides), "outpaint", shown, "at least one pixel on one side")
