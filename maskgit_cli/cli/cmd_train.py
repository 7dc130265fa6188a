"""``maskgit train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from maskgit_cli.cli import console, options
from maskgit_cli.config.recipes import RECIPES
from maskgit_cli.config.sizes import TRANSFORMER_NOTE, transformer_table
from maskgit_cli.config.training import TrainConfig

EXAMPLES = """
maskgit train tokens.h5 --size base --res 256
maskgit train tokens.h5 --recipe small
maskgit train tokens512.h5 --init-from maskgit-256
maskgit train part-0.h5 part-1.h5 --val-split 0.01
maskgit --procs 8 train tokens.h5
"""


@options.command(
    "train",
    examples=EXAMPLES,
    parallel=True,
    appendix=lambda: options.sizes(transformer_table(), TRANSFORMER_NOTE),
)
@options.path_argument(
    "tokens",
    "Token file, from `maskgit tokenize`; several of one tokenizer and set of classes are one training set.",
    nargs=-1,
    required=True,
    metavar="TOKENS.h5...",
)
@options.path("--out", "Run directory.", unset="runs/TOKENS-SIZE-RES")
@options.plain_option(
    "--res",
    type=int,
    metavar="N",
    help="Resolution in pixels; TOKENS of another one are made anew.",
    unset="its own",
)
@options.path("--val", "Token file on which the validation loss is computed at every checkpoint.")
@options.path("--tokenizer", "Tokenizer that made TOKENS.", unset="the one that TOKENS names")
@options.path("--init-from", "Model to fine-tune: a directory, or a name under models/.")
@options.plain_option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default="paper",
    help="Recipe: named settings, which other options override.",
)
@options.settings_of(TrainConfig)
@options.path("--fid-ref", "Reference images or statistics of --fid-every.", panel="Logging and checkpoints")
@click.option(
    "--dry-run", "dry", is_flag=True, help="Print memory, time and disk of the training, and write nothing."
)
@options.device
@options.dtype
@options.overwrite
@options.output
def command(tokens: tuple[Path, ...], dry: bool, as_json: bool, quiet: bool, **values: Any) -> None:
    """Train a transformer on token files.

    Writes a run directory. The defaults shown are those of the recipe `paper`. Run the same command again
    to resume an interrupted training, or with more --steps to extend it.
    """
    changes = options.explicit(TrainConfig, values)
    auto_batch = changes.get("batch_size") == "auto"
    if auto_batch:
        del changes["batch_size"]
    options.given(TrainConfig, changes)  # a value out of range is reported before torch is imported
    shared = options.without(values, TrainConfig)
    from maskgit_cli.training.transformer import train

    if dry:
        _dry_run(tokens, changes, shared | {"auto_batch": auto_batch}, as_json, quiet)
        return
    path = train(tokens, config=changes, auto_batch=auto_batch, reporter=console.reporter(quiet), **shared)
    facts = console.final_metrics(path, ("step", "loss", "val_loss"))
    previews = sorted(path.glob("previews/*.png"))
    then = f"maskgit sample {console.quoted(path)}"
    console.summary(quiet, path, facts, look=previews[-1] if previews else None, then=then)
    console.result(path, {"path": str(path)}, as_json)


def _dry_run(
    tokens: tuple[Path, ...], changes: dict[str, Any], shared: dict[str, Any], as_json: bool, quiet: bool
) -> None:
    """Print what a training will take; where the result goes does not matter."""
    if shared["res"] is not None:
        raise click.UsageError("--dry-run: not with --res; give the token file of that resolution.")
    from maskgit_cli.training.transformer import dry_run

    names = ("recipe", "val", "init_from", "auto_batch", "device", "dtype")
    given = {name: shared[name] for name in names}
    plan = dry_run(tokens, config=changes, reporter=console.reporter(quiet), **given)
    size, total = console.size, plan.state + plan.activations
    timed = "" if plan.timed_images == plan.batch_size else f", from steps of {plan.timed_images} images"
    rows = {
        "network": " ".join(filter(None, [plan.network, plan.size])),
        "parameters": f"{plan.parameters / 1e6:.3f} M",
        "steps": f"{plan.steps:,}",
        "batch": f"{plan.batch_size} images = {plan.processes} × {plan.accumulate} × {plan.rows} "
        "(processes, --accumulate, images per micro-batch)",
        "state": f"{size(plan.state)} per process (weights, gradients, AdamW, EMA)",
        "activations": f"{size(plan.activations)} per process",
        "memory": f"{size(total)} of {size(plan.available)} available",
        "step": f"{plan.seconds:.3g} s, {plan.batch_size / plan.seconds:.3g} images/s{timed}",
        "expected time": f"{console.duration(plan.steps * plan.seconds)} ({plan.hours:.3g} hours)",
        "checkpoint": f"{size(plan.checkpoint)}, up to {size(plan.kept * plan.checkpoint)} on the disk",
    }
    if as_json:
        console.result(None, plan.record(), True)
    elif console.rank() == 0:
        for name, value in rows.items():
            console.echo(f"{name:<14} {value}")
