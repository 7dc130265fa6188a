"""``train-vqgan``: from images to a tokenizer directory (arXiv 2012.09841, section 3.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskgit_cli.config.arguments import PathArgument, checked, optional_path
from maskgit_cli.config.base import require
from maskgit_cli.config.training import VQGANTrainConfig
from maskgit_cli.data.sources import ImageSource, open_source, source_digest
from maskgit_cli.errors import ConfigError, WeightsError
from maskgit_cli.formats.atomic import CREATED_BY, parent, write_json
from maskgit_cli.formats.claim import Outcome
from maskgit_cli.formats.models import TOKENIZER_FORMAT, TOKENIZER_VERSION, write_weights
from maskgit_cli.formats.runs import CONFIG_FILE, ORDER
from maskgit_cli.networks.discriminator import PatchDiscriminator
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.runtime.distributed import accelerator_for, on_main, world
from maskgit_cli.runtime.interrupts import Interrupts
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.scoring.perceptual import Perceptual, load_perceptual
from maskgit_cli.scoring.reconstruction import ReconstructionFeatures, load_features
from maskgit_cli.training.checkpointing import CheckpointWriter
from maskgit_cli.training.common import (
    Meter,
    TrainingClaim,
    TrainState,
    check_decay,
    check_finite,
    claim_training,
    due,
    load_state,
    open_log,
    prepare,
    report_finished,
    save_state,
)
from maskgit_cli.training.image_batches import image_batches
from maskgit_cli.training.init_tokenizer import (
    InitialTokenizer,
    initial_tokenizer,
    other_attention,
    size_name,
)
from maskgit_cli.training.optim import EMA
from maskgit_cli.training.planning import memory_errors
from maskgit_cli.training.previews import preview_path, save_reconstructions
from maskgit_cli.training.reconstruction import check_readable, codebook_use, reconstruction_quality
from maskgit_cli.training.tracking import TrackedLog, add_tracker
from maskgit_cli.training.vqgan_objective import Networks, train_step

WHAT = "a tokenizer directory"
# Settings that may change when resuming.
FREE = {"steps", "keep", "checkpoint_every", "preview_every", "log_every", "log_with", "val_features"}


@checked
def train_vqgan(
    images: PathArgument,
    out: PathArgument,
    config: VQGANTrainConfig | None = None,
    *,
    init_from: PathArgument | None = None,
    val: PathArgument | None = None,
    device: str = "auto",
    dtype: str = "auto",
    workers: int = 2,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Train a tokenizer; a repeated call resumes, and extends the training where it has more steps.

    Args:
        images: any image source, as for ``tokenize``; labels are not used.
        out: the tokenizer directory; ``model.safetensors`` (the EMA weights) completes it.
        config: the settings; None is the defaults.
        init_from: tokenizer, run or model directory, or ``builtin``, with the initial weights and the sizes.
        val: images on which the EMA weights are measured at every checkpoint.
        device: name of the device.
        dtype: precision of matrix products and convolutions.
        workers: processes that read images.
        overwrite: replace an earlier tokenizer.
        reporter: receives progress updates.

    Returns:
        ``out``.

    Raises:
        MaskGITError: an input, a setting or ``out`` is refused (one line says why), or training diverged.
        KeyboardInterrupt: Ctrl-C; the current step was finished and checkpointed.
    """
    images, out, val, init_from = Path(images), Path(out), optional_path(val), optional_path(init_from)
    config = config or VQGANTrainConfig()
    check_decay(config)
    initial = initial_tokenizer(config, init_from, out)
    config, derived = resolved(config, initial)
    require(workers >= 0, "workers", workers, "0 or more")
    accelerator = _accelerator(config, device, dtype)
    source, held_out = open_source(images, reporter=reporter), _held_out(val, config, accelerator, reporter)
    perceptual, config, chosen = _perceptual(config, accelerator.device, reporter)
    record = _record(images, source, config, initial, derived + chosen)
    with memory_errors(config), claim_training(out, record, overwrite, WHAT, FREE, reporter) as claimed:
        if _nothing_to_do(out, config.steps, claimed, reporter):
            return out
        config, size = claimed.settings(config), initial.config.codebook_size
        perceptual = _as_started(perceptual, config, accelerator.device, reporter)
        nets, state = _build(config, initial, accelerator)
        step = load_state(out, state, config.keep, reporter)
        log = TrackedLog(open_log(out, step), accelerator, out, step, config.to_json())
        batches = image_batches(source, config, step, workers, reporter)
        progress = reporter.task("train-vqgan", config.steps, step, unit="steps")
        writer = CheckpointWriter(reporter, step)
        with Interrupts(accelerator, reporter) as interrupts, log, writer, progress as task:
            while step < config.steps:
                pixels = _on_device(next(batches), accelerator.device)
                step += 1
                done = train_step(pixels, step, nets, config, perceptual, accelerator)
                counts = accelerator.reduce(torch.bincount(done.indices.flatten(), minlength=size))
                nets.last_used[counts > 0] = step
                state.meter.add(done.values, config.batch_size, counts)
                task.advance(1, loss=done.values["l1"])
                line, checkpoint, preview = due(step, config)
                stop = interrupts.asked(step, last=step == config.steps)
                save = checkpoint or stop or interrupts.saving
                if line or save:
                    check_finite(step, nets.ema.tensors)
                if line:
                    log.append(step=step, **state.meter.flush())
                if preview and world().main:
                    save_reconstructions(preview_path(out, step), pixels, done.reconstruction)
                if checkpoint and held_out is not None:
                    log.append(step=step, **_validate(state, initial, held_out, config, perceptual))
                if save:  # last, so that a kill repeats the lines and the preview as well
                    save_state(out, step, state, config.keep, writer)
                interrupts.checkpointed(step, writer.wait)
        on_main(lambda: _finish(out, nets, claimed.record, step))
    return out


def resolved(config: VQGANTrainConfig, initial: InitialTokenizer) -> tuple[VQGANTrainConfig, list[str]]:
    """Fully resolved settings, and the names of those that follow from the number of steps."""
    sizes = initial.config
    from_steps: dict[str, Any] = {"adversarial_start": config.steps // 2}
    if config.lr_floor != 1:
        from_steps["decay_steps"] = config.steps
    derived = {key: value for key, value in from_steps.items() if getattr(config, key) is None}
    config = dataclasses.replace(
        config,
        size=size_name(sizes) if initial.entry.name == "vqgan" else None,
        attention=other_attention(sizes) if initial.entry.name == "vqgan" else None,
        res=sizes.resolution,
        codebook_size=sizes.codebook_size,
        **derived,
    )
    return config, [*derived]


def _record(
    images: Path,
    source: ImageSource,
    config: VQGANTrainConfig,
    initial: InitialTokenizer,
    derived: list[str],
) -> dict[str, Any]:
    """The tokenizer's ``config.json``."""
    origin = {"init_from": initial.sha256} if initial.sha256 else {}
    return {
        "format": TOKENIZER_FORMAT,
        "version": TOKENIZER_VERSION,
        "created_by": CREATED_BY,
        "network": initial.entry.name,
        initial.entry.key: initial.config.to_json(),
        "order": ORDER,
        "settings": {**config.to_json(), **origin},
        "derived": derived,
        "parents": [parent("images", images.resolve(), source_digest(source)), *initial.parents],
    }


def _finish(out: Path, nets: Networks, record: Mapping[str, Any], step: int) -> None:
    """Complete a tokenizer directory with the EMA weights.

    Raises:
        OutputError: the file system refuses.
    """
    tensors = {name: nets.ema.tensors[name] for name in nets.vqgan.network.state_dict()}
    write_json(out / CONFIG_FILE, record)  # without the digest of the weights that are replaced next
    write_weights(out, tensors, {**record, "step": step})


def _nothing_to_do(out: Path, steps: int, claimed: TrainingClaim, reporter: Reporter) -> bool:
    """Whether a tokenizer is finished; reports that, and that one is extended."""
    if claimed.finished:
        report_finished(out, steps, reporter)
    elif claimed.outcome is Outcome.COMPLETE:
        reporter.info(
            f"{out} is extended; tokens made with it need its earlier weights, which it has until the end: "
            f"`maskgit export {out} COPY` keeps them"
        )
    return claimed.finished


def _accelerator(config: VQGANTrainConfig, device: str, dtype: str) -> Any:
    """The accelerator of the training, if the batch can be divided among the processes."""
    accelerator = accelerator_for(device, dtype)
    add_tracker(accelerator, config.log_with)
    parts = world().size * config.accumulate
    if config.batch_size % parts:
        raise ConfigError(
            f"--batch-size {config.batch_size}: must be a multiple of {parts}, the number of processes times "
            "--accumulate"
        )
    return accelerator


def _memory_format(device: torch.device) -> torch.memory_format:
    """The memory format of images: GPUs convolve faster in channels-last, CPUs normalize faster without."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def _on_device(images: Tensor, device: torch.device) -> Tensor:
    """A batch of uint8 images (B, 3, H, W) as the networks take them, in -1..1."""
    return to_model(images.to(device, non_blocking=True)).to(memory_format=_memory_format(device))


def _build(
    config: VQGANTrainConfig, initial: InitialTokenizer, accelerator: Any
) -> tuple[Networks, TrainState]:
    """Networks and optimizers, from the seed; the generator may have the weights of a tokenizer."""
    torch.manual_seed(config.seed)
    device, memory_format = accelerator.device, _memory_format(accelerator.device)
    vqgan: torch.nn.Module = initial.build().to(device).to(memory_format=memory_format)
    discriminator = PatchDiscriminator(config.discriminator_channels, config.discriminator_layers)
    discriminator = discriminator.to(device).to(memory_format=memory_format)
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=config.lr, betas=(config.beta1, config.beta2))
        for network in (vqgan, discriminator)
    ]
    files = ("discriminator", "discriminator_optimizer")
    nets = Networks(
        prepare(vqgan, optimizers[0], accelerator),
        prepare(discriminator, optimizers[1], accelerator, files),
        EMA(vqgan, config.ema),
        torch.zeros(initial.config.codebook_size, dtype=torch.int64, device=device),
        from_scratch=initial.tensors is None,
    )
    meter = Meter(device, counters=initial.config.codebook_size, summary=_codebook_values)
    extra = {"codebook": {"last_used": nets.last_used}}
    return nets, TrainState((nets.vqgan, nets.discriminator), nets.ema, meter, extra)


def _codebook_values(counts: Tensor) -> dict[str, float]:
    """Codebook use as values of the log."""
    return dict(zip(("usage", "perplexity"), codebook_use(counts), strict=True))


def _perceptual(
    config: VQGANTrainConfig, device: torch.device, reporter: Reporter
) -> tuple[Perceptual | None, VQGANTrainConfig, list[str]]:
    """The perceptual distance, or None, the settings that name it, and those of them that are derived.

    Without a distance the record has a weight of 0, and resuming with one is refused. A distance that is
    named and has a weight of 0 is measured on the images of ``--val`` only.
    """
    asked, found = config.perceptual, None
    automatic = asked == "auto" and config.perceptual_weight > 0
    if automatic:
        try:
            found = load_perceptual(asked, config.res or 0, device, reporter)
        except WeightsError as error:
            reporter.warn(f"training without a perceptual loss. {error}")
    elif asked not in ("auto", "none"):
        found = load_perceptual(asked, config.res or 0, device, reporter)
    weight = config.perceptual_weight if found else 0.0
    name = found.name if found else "none"
    config = dataclasses.replace(config, perceptual=name, perceptual_weight=weight)
    return found, config, ["perceptual"] if automatic else []


def _as_started(
    found: Perceptual | None, config: VQGANTrainConfig, device: torch.device, reporter: Reporter
) -> Perceptual | None:
    """The perceptual distance with which a training was started, whatever ``auto`` finds now.

    Raises:
        WeightsError: its weights are not available any more.
    """
    if config.perceptual == (found.name if found else "none"):
        return found
    reporter.info(f"the training continues with --perceptual {config.perceptual}, with which it was started")
    if config.perceptual == "none":
        return None
    return load_perceptual(config.perceptual, config.res or 0, device, reporter)


class _HeldOut(NamedTuple):
    """The images of ``--val``, and the features of ``--val-features``."""

    source: ImageSource
    features: ReconstructionFeatures | None


def _held_out(
    path: Path | None, config: VQGANTrainConfig, accelerator: Any, reporter: Reporter
) -> _HeldOut | None:
    """The images of ``--val``, at least one of which is readable, and how they are measured.

    Raises:
        ConfigError: there are features and no images.
        InputError: no image can be read.
        WeightsError: the weights of the features are not available.
    """
    if path is None:
        if config.val_features is not None:
            raise ConfigError(f"--val-features {config.val_features}: give the images to measure with --val")
        return None
    source = open_source(path, reporter=reporter)
    check_readable(source)
    name = config.val_features
    return _HeldOut(source, None if name is None else load_features(name, accelerator.device, reporter))


def _validate(
    state: TrainState,
    initial: InitialTokenizer,
    held_out: _HeldOut,
    config: VQGANTrainConfig,
    perceptual: Perceptual | None,
) -> dict[str, float]:
    """Quality of the EMA weights on held-out images, which all ranks share, as a line of the log."""
    with state.meter.paused():
        network = initial._replace(tensors=state.ema.tensors).build().to(state.meter.device).eval()
        size, features = config.batch_size, held_out.features
        found = reconstruction_quality(network, held_out.source, size, perceptual, features)
    return {f"val_{key}": value for key, value in found.items()}
