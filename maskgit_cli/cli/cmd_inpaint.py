"""``maskgit inpaint``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options, sampler_options
from maskgit_cli.config.inpaint import Box, InpaintConfig, Outpaint

EXAMPLES = """\b
Examples:
  maskgit inpaint photo.jpg --box 100,80,120,90 --label cat --n 4
  maskgit inpaint photo.jpg runs/imagenet --mask white-is-new.png --feather 4
  maskgit inpaint street.jpg --box 90,600,300,300=cock --box 1600,560,360,360=zebra
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
        raise click.BadParameter(str(error)) from None


@click.command("inpaint", epilog=EXAMPLES)
@options.path_argument("image")
@options.path_argument("model", required=False)
@options.path("--mask", "Picture of the image's size, white where it is drawn anew.")
@click.option(
    "--box",
    multiple=True,
    callback=_boxes,
    metavar="X,Y,W,H[=CLASS]",
    help="Draw this box of IMAGE anew, with a class of its own if one is named. May be repeated.",
)
@click.option(
    "--keep-box",
    multiple=True,
    callback=_boxes,
    metavar="X,Y,W,H",
    help="Leave this box as it is. Without --mask and --box, draw all else anew. May be repeated.",
)
@click.option(
    "--outpaint",
    callback=_sides,
    metavar="SIDE:N,...",
    help="Add N pixels on the left, right, top or bottom, and draw them.",
)
@options.path("--out", "Sample directory.  [default: samples/IMAGE-DIGEST]")
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
    """Draw parts of an image anew, or more of it.

    IMAGE may have any size; every pixel stays as it is outside of what is drawn. That is what --mask, --box
    and --outpaint cover, together, without what --keep-box covers. --box with --label or =CLASS puts
    another object into a picture and keeps its background.

    IMAGE may also be a manifest, a CSV whose first line names its columns: image, and if you like mask, box
    (several with ; between), keep_box, outpaint, label, seed, window, name. Paths are relative to the CSV.

    MODEL is a run or model directory, or `builtin`; without it, the newest run under runs/ is taken, or
    else the built-in model.
    """
    config = options.given(InpaintConfig, values)
    sampler = sampler_options.chosen(preset, values)
    shared = options.without(values, InpaintConfig)
    shared = {key: value for key, value in shared.items() if key not in ("box", "keep_box", "outpaint")}
    from maskgit_cli.sampling.inpaint.inpainting import inpaint

    done = inpaint(image, model, config=config, sampler=sampler, reporter=console.reporter(quiet), **shared)
    record = {"path": str(done.path), "images": done.images, "model": str(done.model), "tokens": done.tokens}
    record |= {"windows": done.windows, "resumed": done.resumed, "settings": done.settings}
    console.result(done.path, record, as_json)
