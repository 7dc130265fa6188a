"""Recipes: named settings of ``train``.

A recipe is a function from the number of training images to a :class:`TrainConfig`; most do not depend on
it. Its other arguments are a batch size and a number of steps that were given, if they were, for recipes
whose settings follow from them. To add one, write its function here and add it to :data:`RECIPES`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from maskgit_cli.config.base import require
from maskgit_cli.config.training import TrainConfig


def paper(images: int, batch_size: int | None = None, steps: int | None = None) -> TrainConfig:
    """The paper's recipe (arXiv 2310.14400, section 4), with the numbers of its repository: the defaults.

    The repository's weight decay is that of all weights. Its initial weights are ``init="published"``.
    """
    return TrainConfig()


def halton(images: int, batch_size: int | None = None, steps: int | None = None) -> TrainConfig:
    """Halton-MaskGIT (arXiv 2503.17076), with the numbers of its repository.

    Where the two differ it is the paper: the loss is MaskGIT's, on masked positions, and the repository's
    own code has it at every position, which is ``loss_on="all"``. Over the last tenth of the steps the
    learning rate falls to a hundredth along a cosine. The repository decays all weights, here
    ``weight_decay_on="all"``.
    """
    return TrainConfig(
        network="halton",
        epochs=200,  # 1,000,000 steps of 256 images of ImageNet
        batch_size=256,
        lr=1e-4,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.03,
        weight_decay_on="matrices",
        warmup=2500,
        lr_floor=0.01,
        decay_start=0.9,
        clip=1.0,
        dropout=0.1,
        drop_label=None,  # 0.1, as published; 0 for a network without a null class
        label_smoothing=0.0,
        mask_schedule="arccos",
        loss_on="masked",
    )


def google(images: int, batch_size: int | None = None, steps: int | None = None) -> TrainConfig:
    """Google's MaskGIT (arXiv 2202.04200, sections 3.2 and 4.1), with the numbers of its JAX release.

    The release has no training: masks are drawn as section 3.2 says, ⌈γ(r)·N⌉ tokens of each image.
    """
    return TrainConfig(
        network="google",
        epochs=300,
        batch_size=256,
        lr=1e-4,
        beta1=0.9,
        beta2=0.96,
        weight_decay=0.045,
        weight_decay_on="matrices",
        warmup=5000,
        dropout=0.1,
        drop_label=0.0,  # trained without classifier-free guidance
        label_smoothing=0.1,
        mask_schedule="cosine",
        mask_count="exact",
        loss_on="masked",
    )


def small(images: int, batch_size: int | None = None, steps: int | None = None) -> TrainConfig:
    """Small data on a small machine: an hour or less on two CPU cores at 64 px.

    The base is the training of the built-in model (docs/builtin.md): size small, batch 32, a learning rate
    of 1e-3 with a cosine decay, no dropout, no label smoothing, loss on masked positions.
    """
    # Two cores train size small with 8×8 tokens at about 70 images/s, so 250,000 images take an hour. Few
    # images are memorized long before that: each is seen at most 1,000 times, masked differently each time.
    seen = min(250_000, 1000 * max(1, images))
    # Powers of two, so that two processes can share a batch. A batch larger than the data set would repeat
    # images within a step.
    batch = batch_size or next((size for size in (32, 16, 8) if size <= images), 8)
    steps = steps or max(1, seen // batch)
    return TrainConfig(
        network="maskgit",
        size="small",
        steps=steps,
        batch_size=batch,
        lr=1e-3,
        weight_decay_on="matrices",
        lr_floor=0.05,
        # 2 percent of the steps: 156 in an hour's run. The 2,500 steps of the paper would be a third of it.
        warmup=steps // 50,
        # The EMA averages about 1/(1 - ema) steps, with a half-life of 0.69 times that. An eighth of the run
        # gives 0.999 for an hour's run; with 0.9999 the EMA's own warmup would decide.
        ema=round(1 - 8 / max(steps, 80), 6),
        dropout=0.0,
        label_smoothing=0.0,
        loss_on="masked",
        # Ten checkpoints and previews, about every six minutes.
        checkpoint_every=max(1, steps // 10),
        preview_every=max(1, steps // 10),
    )


RECIPES: dict[str, Callable[..., TrainConfig]] = {
    "paper": paper,
    "halton": halton,
    "google": google,
    "small": small,
}


# Settings that a recipe derives from the number of steps. They keep their values when a run is extended.
FROM_STEPS: dict[str, tuple[str, ...]] = {"small": ("warmup", "ema")}

# Settings that a recipe has had for a while only. Runs that are older keep the values they were started with.
NEWER: dict[str, tuple[str, ...]] = {
    "halton": ("weight_decay_on", "lr_floor", "decay_start"),
    "google": ("weight_decay_on", "mask_count"),
    "small": ("weight_decay_on",),
}


def derived_settings(name: str, changes: Mapping[str, Any]) -> list[str]:
    """The settings of a recipe that a run keeps from its start, without explicit ones."""
    return [key for table in (FROM_STEPS, NEWER) for key in table.get(name, ()) if key not in changes]


def resolve_recipe(
    name: str, images: int, changes: Mapping[str, Any], from_model: bool = False
) -> TrainConfig:
    """The settings of a recipe, with explicit settings on top.

    Args:
        name: a key of :data:`RECIPES`.
        images: number of training images.
        changes: explicit settings by name.
        from_model: whether the weights of a model are the start: network and size are then the model's.

    Raises:
        ConfigError: there is no such recipe, or a setting is out of range.
    """
    require(name in RECIPES, "recipe", name, "one of " + ", ".join(RECIPES))
    given = dataclasses.replace(RECIPES[name](images), **changes)
    steps = given.steps if "steps" in changes else None
    if steps is None and "epochs" in changes and given.batch_size:
        steps = math.ceil(given.epochs * images / given.batch_size)
    config = RECIPES[name](images, given.batch_size if "batch_size" in changes else None, steps)
    if from_model:
        config = dataclasses.replace(config, network=None, size=None)
    if "epochs" in changes:  # an explicit number of epochs replaces a recipe's number of steps
        config = dataclasses.replace(config, steps=None)
    if changes.get("lr_floor") == 1:  # nothing decays, so a recipe's start of the decay has no meaning
        config = dataclasses.replace(config, decay_start=0.0)
    return dataclasses.replace(config, **{**changes, "recipe": name})
