"""``maskgit inpaint``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options, sampler_options
from maskgit_cli.config.inpaint import Box, InpaintConfig, Outpaint

EXAMPLES = """
maskgit inpaint photo.jpg --box 100,80,120,90 --label cat --n 4
maskgit inpaint photo.jpg runs/imagenet --mask mask.png --feather 4
maskgit inpaint street.jpg --box 90,60,30,30=cock --box 80,56,36,36=zebra
maskgit inpaint photo.jpg --outpaint left:64,right:64,top:32
maskgit inpaint photo.jpg --keep-box 200,100,256,256 --label beach
maskgit --procs 4 inpaint edits.csv --n 4
"""


def _boxes(_ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[Box, ...]:
    """Read X,Y,W,H[=CLASS] of each."""
    return tuple(_parsed(Box.parse, text) for text in texts)


def _sides(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> Outpaint | None:
    """Read SIDE:PIXELS,..."""
    return None if text is None else _parsed(Outpaint.parse, text)


def _parsed(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


@options.command("inpaint", examples=EXAMPLES, parallel=True)
@options.path_argument("image", "Image of any size, or CSV of images.")
@options.path_argument("model", options.MODEL, required=False)
@options.path("--mask", "Mask image of the size of IMAGE; white is regenerated.")
@click.option(
    "--box",
    multiple=True,
    callback=_boxes,
    metavar="X,Y,W,H[=CLASS]",
    help="Box to regenerate, in pixels, optionally with a class of its own; repeatable.",
)
@click.option(
    "--keep-box",
    multiple=True,
    callback=_boxes,
    metavar="X,Y,W,H",
    help="Box to keep; without --mask and --box, everything else is regenerated; repeatable.",
)
@click.option(
    "--outpaint",
    callback=_sides,
    metavar="SIDE:N,...",
    help="Pixels to add on the left, right, top or bottom.",
)
@options.path("--out", "Sample directory.", unset="samples/IMAGE-DIGEST")
@options.settings_of(InpaintConfig)
@sampler_options.sampler
@options.batch_size(16)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(
    image: Path, model: Path | None, preset: str | None, as_json: bool, quiet: bool, **values: Any
) -> None:
    """Inpaint or outpaint images.

    The region to regenerate is the union of --mask, --box and --outpaint, without --keep-box. All other
    pixels stay as they are. A box with a class places an object into the image.

    A CSV describes many images, one per line. Its first line names the columns: image; optional: mask, box
    (several separated by ;), keep_box, outpaint, label, seed, window, name. Paths are relative to the CSV.
    """
    config = options.given(InpaintConfig, values)
    sampler = sampler_options.chosen(preset, values)
    shared = options.without(values, InpaintConfig, others=("box", "keep_box", "outpaint"))
    from maskgit_cli.sampling.inpaint.inpainting import inpaint

    done = inpaint(image, model, config=config, sampler=sampler, reporter=console.reporter(quiet), **shared)
    record = {"path": str(done.path), "images": done.images, "model": str(done.model), "tokens": done.tokens}
    record |= {"windows": done.windows, "resumed": done.resumed, "settings": done.settings}
    facts = {"images": done.images, "tokens": done.tokens}
    console.summary(quiet, done.path, facts, resumed=done.resumed, look=done.path / "grid.png")
    console.result(done.path, record, as_json)
