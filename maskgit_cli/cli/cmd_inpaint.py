"""``maskgit inpaint``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from maskgit_cli.cli import console, options, sampler_options
from maskgit_cli.config import InpaintConfig

TEXTS = {
    "label": "Class of what is drawn, by number or name.",
    "n": "Variants.",
    "mask_rule": "Draw a code anew if any pixel of its cell is masked, or the majority.",
    "feather": "Pixels over which the new blends into the old, inside the mask.",
    "weights": "ema (averaged) or raw.",
    "seed": "Of every random number.",
}


def _box(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Read X,Y,W,H."""
    if text is None:
        return None
    try:
        x, y, width, height = map(int, text.split(","))
        return x, y, width, height
    except ValueError:
        raise click.BadParameter(f"{text!r} is not X,Y,W,H, four numbers of pixels") from None


@click.command(
    "inpaint",
    epilog="\b\nExamples:\n  maskgit inpaint photo.jpg --box 100,80,120,90 --label cat --n 4\n"
    "  maskgit inpaint photo.jpg runs/imagenet --mask white-is-new.png --feather 4",
)
@options.path_argument("image")
@options.path_argument("model", required=False)
@options.path("--mask", "Picture of the image's size, white where it is drawn anew.")
@click.option("--box", callback=_box, metavar="X,Y,W,H", help="What is drawn anew, in pixels of IMAGE.")
@options.path("--out", "Sample directory.  [default: samples/IMAGE-DIGEST]")
@options.settings_of(InpaintConfig, TEXTS, {"label": "no class, and no guidance"})
@sampler_options.sampler
@options.batch_size(16)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(
    image: Path, model: Path | None, preset: str | None, as_json: bool, quiet: bool, **values: Any
) -> None:
    """Draw a part of an image anew.

    IMAGE may have any size, and keeps it: outside the mask or box every pixel stays as it is. MODEL is a
    run or model directory, or `builtin`; without it, the newest run under runs/ is taken, or else the
    built-in model.
    """
    config = options.given(InpaintConfig, values)
    sampler = sampler_options.chosen(preset, values)
    shared = {key: value for key, value in values.items() if key not in {*TEXTS, "box"}}
    from maskgit_cli.inpainting import inpaint

    done = inpaint(image, model, config=config, sampler=sampler, reporter=console.reporter(quiet), **shared)
    record = {"path": str(done.path), "images": done.images, "model": str(done.model), "tokens": done.tokens}
    record |= {"window": list(done.window), "resumed": done.resumed, "settings": done.settings}
    console.result(done.path, record, as_json)
