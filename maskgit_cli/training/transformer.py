"""``train``: from a token file to a run directory (arXiv 2310.14400, section 4; arXiv 2202.04200, 3.1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from maskgit_cli.config.arguments import PathArgument, checked, optional_path, path_list
from maskgit_cli.config.recipes import derived_settings, resolve_recipe
from maskgit_cli.config.training import TrainConfig
from maskgit_cli.data.splitting import held_out
from maskgit_cli.data.tokenizing import tokens_at
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.formats.atomic import CREATED_BY, parent
from maskgit_cli.formats.models import copy_tokenizer, find_tokenizer
from maskgit_cli.formats.runs import ORDER, RUN_FORMAT, RUN_VERSION
from maskgit_cli.formats.token_set import Tokens, join_tokens
from maskgit_cli.formats.tokens import TokenFile, open_tokens, split_range
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.runtime import rng
from maskgit_cli.runtime.distributed import accelerator_for, on_main, resolve_dtype, world
from maskgit_cli.runtime.interrupts import Interrupts
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.training.batches import Batches, make_batch
from maskgit_cli.training.checkpointing import CheckpointWriter
from maskgit_cli.training.common import (
    Meter,
    TrainState,
    check_decay,
    claim_training,
    due,
    handle_spike,
    load_state,
    open_log,
    prepare,
    report_finished,
    save_state,
)
from maskgit_cli.training.evaluation import Evaluation, check_reference
from maskgit_cli.training.init_from import InitialWeights, check_elsewhere, from_model, from_scratch
from maskgit_cli.training.measures import BINS, Utilization, accuracies, ema_distance
from maskgit_cli.training.objective import learning_rate, train_step, validation_loss
from maskgit_cli.training.optim import EMA, parameter_groups
from maskgit_cli.training.planning import (
    CHECKPOINT_BYTES,
    Plan,
    available_memory,
    fitting_accumulate,
    measure_activations,
    memory_errors,
    state_bytes,
    time_steps,
)
from maskgit_cli.training.previews import Previews
from maskgit_cli.training.sharding import shard
from maskgit_cli.training.spikes import SpikeDetector
from maskgit_cli.training.tracking import TrackedLog, add_tracker

# Settings that may change when resuming; the recipe is only a name for the others.
FREE = {"recipe", "steps", "epochs", "keep", "checkpoint_every", "preview_every", "log_every"} | {
    "fid_every", "fid_n", "fid_features", "log_with", "on_spike", "spike_sigma", "fsdp", "grad_checkpointing"
}  # fmt: skip


@checked
def train(
    tokens: PathArgument | Sequence[PathArgument],
    out: PathArgument | None = None,
    config: TrainConfig | Mapping[str, Any] | None = None,
    *,
    recipe: str = "paper",
    res: int | None = None,
    val: PathArgument | None = None,
    tokenizer: PathArgument | None = None,
    init_from: PathArgument | None = None,
    fid_ref: PathArgument | None = None,
    auto_batch: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Train a transformer; a repeated call resumes, and extends the training where it has more steps.

    Args:
        tokens: the token file, or several whose rows are one training set; see
            :func:`~maskgit_cli.formats.token_set.join_tokens`.
        out: the run directory; None is ``runs/TOKENS-SIZE-RES``, with ``TOKENS+1`` for two files and so on.
        config: all settings, or those that differ from the recipe's.
        recipe: a key of :data:`~maskgit_cli.config.recipes.RECIPES`; a whole ``config`` replaces it.
        res: resolution in pixels; images of a token file at another one are tokenized again first.
        val: a token file whose loss is measured at every checkpoint, if no rows are held out for that.
        tokenizer: the tokenizer's directory, where it is not found automatically.
        init_from: run or model directory, or a name under ``models/``, with the initial weights.
        fid_ref: reference images or statistics for the scores of ``fid_every``.
        auto_batch: choose ``accumulate`` so that a micro-batch fits in memory; the global batch stays.
        device: name of the device.
        dtype: precision of matrix products.
        overwrite: replace an earlier run.
        reporter: receives progress updates.

    Returns:
        The run directory.

    Raises:
        MaskGITError: an input, a setting or ``out`` is refused (one line says why), or training diverged.
        KeyboardInterrupt: Ctrl-C; the current step was finished and checkpointed.
    """
    out, tokenizer, init_from = optional_path(out), optional_path(tokenizer), optional_path(init_from)
    check_reference(config, optional_path(fid_ref))
    data, split = _open_data(path_list(tokens), optional_path(val), config, res, tokenizer, device, reporter)
    initial, config, derived = _resolve(data, split, config, recipe, init_from, reporter)
    out = out or Path("runs") / f"{data.name}-{config.size or initial.entry.name}-{data.meta.resolution}"
    accelerator = accelerator_for(device, dtype)
    add_tracker(accelerator, config.log_with)
    if auto_batch:
        config, derived = _fit_batch(config, initial, derived, accelerator, reporter)
    check_elsewhere(init_from, initial.directory, out)
    source = _find_tokenizer(data, initial, tokenizer, out, overwrite)
    record = _record(data, config, initial, derived)
    evaluation = Evaluation(
        config,
        optional_path(fid_ref),
        source,
        data.meta.tokenizer_sha256,
        data.meta.resolution,
        accelerator.device,
        resolve_dtype(dtype, accelerator.device),
        reporter,
    )
    with claim_training(out, record, overwrite, "a run directory", FREE, reporter) as claimed:
        config = claimed.settings(config)
        on_main(lambda: _copy_tokenizer_once(source, out))
        with memory_errors(config):
            _train(out, data, split, config, initial, accelerator, evaluation, reporter)
    return out


def _train(
    out: Path,
    data: Tokens,
    split: _Split,
    config: TrainConfig,
    initial: InitialWeights,
    accelerator: Any,
    evaluation: Evaluation,
    reporter: Reporter,
) -> None:
    """The steps of a training, from its newest checkpoint to its last one; see :func:`train`."""
    spikes = SpikeDetector(accelerator.device, config.spike_sigma)
    (trained,), ema, meter, _ = state = _build(config, initial, accelerator, spikes)
    step = load_state(out, state, config.keep, reporter)
    steps, batch_size = config.steps or 0, config.batch_size or 0
    evaluation.begin(out, step)
    if step >= steps:
        report_finished(out, step, reporter)
        if not evaluation.due(step):
            return
    previews = Previews(out, initial, accelerator.device, config.seed)
    log = TrackedLog(open_log(out, step), accelerator, out, step, config.to_json())
    half = accelerator.mixed_precision != "no"
    utilization = Utilization(accelerator.device, half, initial.config.training_flops())

    def evaluate() -> None:
        if evaluation.due(step):
            with meter.paused():
                evaluation.log(step, log, previews.network(ema), previews.tokenizer, initial)

    progress, writer = reporter.task("train", steps, step, unit="steps"), CheckpointWriter(reporter, step)
    coming = Batches(data, config, accelerator.device, split.trained)
    with Interrupts(accelerator, reporter) as interrupts, log, writer, progress as task, coming:
        evaluate()  # what a kill after the checkpoint has left out
        while step < steps:
            step += 1
            values = train_step(step, coming.take(step), config, trained, ema, accelerator, spikes)
            meter.add(values.means, batch_size, values.counts)
            task.advance(1, loss=values.means["loss"])
            line, checkpoint, preview = due(step, config)
            stop = interrupts.asked(step, last=step == steps)
            save = checkpoint or stop or interrupts.saving
            for spike in spikes.read(wait=line or save):  # before a checkpoint that it might spoil
                handle_spike(spike, log, split.rows(spike.step, config), config.on_spike, writer, reporter)
            if line:
                epoch = round(step * batch_size / len(split.trained), 4)
                means = meter.flush()
                means["ema_distance"] = ema_distance(ema.tensors, trained.network)
                means |= utilization.values(means["images_per_second"])
                log.append(step=step, epoch=epoch, lr=learning_rate(step, config), **means)
                writer.check()
            with meter.paused():
                if checkpoint and split.val is not None:
                    log.append(step=step, val_loss=split.loss(previews.network(ema), config, accelerator))
                if preview:
                    previews.save(step, ema)
                if save:  # after these, so that a kill repeats the lines and the preview as well
                    save_state(out, step, state, config.keep, writer)
            interrupts.checkpointed(step, writer.wait)
            evaluate()


def _open_data(
    tokens: Sequence[Path],
    val: Path | None,
    config: TrainConfig | Mapping[str, Any] | None,
    res: int | None,
    tokenizer: Path | None,
    device: str,
    reporter: Reporter,
) -> tuple[Tokens, _Split]:
    """The tokens to train on, of the resolution asked for, and their rows; see :func:`train`."""
    if not tokens:
        raise ConfigError("train: tokens is an empty list; name at least one token file")
    if res is not None:
        tokens = [tokens_at(path, res, tokenizer, device=device, reporter=reporter) for path in tokens]
        val = tokens_at(val, res, tokenizer, device=device, reporter=reporter) if val else None
    data = join_tokens([open_tokens(path) for path in tokens])
    return data, _split(data, val, config)


class _Split(NamedTuple):
    """Rows that are trained on, and those whose loss is measured.

    Attributes:
        trained: rows of the tokens (R,).
        val: the tokens of the others: those that are trained on, another file, or None.
        held_out: rows of those; None is all.
    """

    trained: np.ndarray
    val: Tokens | None
    held_out: np.ndarray | None

    def loss(self, network: MaskedTransformer, config: TrainConfig, accelerator: Any) -> float:
        """The validation loss, rounded as in the log."""
        assert self.val is not None
        return round(validation_loss(network, self.val, config, accelerator, self.held_out), 6)

    def rows(self, step: int, config: TrainConfig) -> np.ndarray:
        """The rows of the token file in a step's global batch (B,)."""
        assert config.batch_size is not None
        first = (step - 1) * config.batch_size
        return self.trained[rng.batch_rows(config.seed, len(self.trained), first, config.batch_size)]


def _split(data: Tokens, val: Path | None, config: TrainConfig | Mapping[str, Any] | None) -> _Split:
    """The rows to train on and to validate on.

    Raises:
        ConfigError: there are both a file and a fraction to validate on, or nothing can be held out.
        ArtifactError: the file cannot be read.
    """
    settings = config if isinstance(config, TrainConfig) else TrainConfig(**config or {})
    if settings.val_split is None:
        return _Split(np.arange(len(data)), open_tokens(val) if val else None, None)
    if val is not None:
        raise ConfigError(f"--val-split {settings.val_split}: not with --val; leave one of them out")
    chosen = held_out(data.labels, settings.val_split, settings.seed)
    return _Split(np.flatnonzero(~chosen), data, np.flatnonzero(chosen))


def _resolve(
    data: Tokens,
    split: _Split,
    config: TrainConfig | Mapping[str, Any] | None,
    recipe: str,
    init_from: Path | None,
    reporter: Reporter,
) -> tuple[InitialWeights, TrainConfig, list[str]]:
    """Initial weights, fully resolved settings, and the names of those that follow from the number of steps.

    They are checked against the token files.
    """
    derived: list[str] = []
    if not isinstance(config, TrainConfig):
        images = len(split.trained)
        derived = derived_settings(recipe, config or {})
        config = resolve_recipe(recipe, images, config or {}, from_model=init_from is not None)
    check_decay(config)
    meta = data.meta
    _warn_of_parts(data.files, reporter)
    if len(data) == 0:
        raise InputError(f"{data.path} holds no images")
    if split.val is not None:
        for name in ("tokenizer_sha256", "grid", "class_names"):
            if getattr(split.val.meta, name) != getattr(meta, name):
                raise ConfigError(f"--val {split.val.path}: its {name} differs from that of {data.path}")
    batch = config.batch_size or TrainConfig.default_batch_size(meta.resolution)
    parts = world().size * config.accumulate
    if batch % parts:
        raise ConfigError(
            f"--batch-size {batch}: must be a multiple of {parts}, the number of processes times --accumulate"
        )
    steps = config.steps or math.ceil(config.epochs * len(split.trained) / batch)
    initial = from_model(init_from, data, config) if init_from else from_scratch(data, config)
    drop_label, has_null_class = config.drop_label, initial.config.has_null_class
    if not has_null_class:
        reporter.info(
            "this network has no null class: label dropout and classifier-free guidance are disabled"
        )
    if drop_label is None:
        drop_label = TrainConfig.default_drop_label(has_null_class)
    decay_steps = config.decay_steps
    if config.lr_floor != 1 and decay_steps is None:
        decay_steps = steps
        derived.append("decay_steps")
    config = dataclasses.replace(
        config,
        network=initial.entry.name,
        size=initial.entry.size_name(initial.config),
        init=initial.init,
        batch_size=batch,
        steps=steps,
        decay_steps=decay_steps,
        drop_label=drop_label,
    )
    return initial, config, derived


def _warn_of_parts(files: Sequence[TokenFile], reporter: Reporter) -> None:
    """Warn of each file that holds a part of some images whose other parts are not among the files."""
    parts = [(file, found) for file in files if (found := split_range(file.meta))]
    for file, (_, (first, stop), listed) in parts:
        if sum(b - a for _, (_, (a, b), total) in parts if total == listed) < listed:
            reporter.warn(
                f"{file.path} is a part with the images {first}:{stop} of {listed:,}; give all parts, or the "
                "whole that `maskgit merge` makes"
            )


def _find_tokenizer(
    data: Tokens, initial: InitialWeights, tokenizer: Path | None, out: Path, overwrite: bool
) -> Path:
    """The directory of the tokenizer of a token file, the same on all ranks."""
    near = [out / "tokenizer", *initial.tokenizer_paths(data.path)]
    doomed, sha256 = out if overwrite else None, data.meta.tokenizer_sha256
    return on_main(lambda: find_tokenizer(sha256, tokenizer, near, doomed))


def _copy_tokenizer_once(source: Path, out: Path) -> None:
    """Copy the tokenizer to the run directory, unless it is there."""
    if not (out / "tokenizer").exists():
        copy_tokenizer(source, out / "tokenizer")


def _record(data: Tokens, config: TrainConfig, initial: InitialWeights, derived: list[str]) -> dict[str, Any]:
    """The run's ``config.json``."""
    settings = config.to_json()
    del settings["network"]  # the record itself has it
    origin = {"init_from": initial.sha256} if initial.sha256 else {}
    return {
        "format": RUN_FORMAT,
        "version": RUN_VERSION,
        "created_by": CREATED_BY,
        "network": initial.entry.name,
        initial.entry.key: initial.config.to_json(),
        "resolution": data.meta.resolution,
        "order": ORDER,
        "class_names": data.meta.class_names or list(initial.class_names),
        "tokenizer_sha256": data.meta.tokenizer_sha256,
        "settings": {**settings, **origin},
        "derived": derived,
        "parents": [
            *(parent("tokens", file.path, file.sha256) for file in data.files),
            *initial.parents,
            *data.meta.parents,
        ],
    }


def _build(
    config: TrainConfig, initial: InitialWeights, accelerator: Any, spikes: SpikeDetector
) -> TrainState:
    """Network and optimizer, from the seed or with the initial weights of a model."""
    torch.manual_seed(config.seed)
    network = initial.build().to(accelerator.device)
    network.grad_checkpointing = config.grad_checkpointing
    if config.fsdp:
        shard(network, accelerator)
    optimizer = torch.optim.AdamW(
        parameter_groups(network, config.weight_decay, config.weight_decay_on),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=accelerator.device.type in ("cpu", "cuda"),
    )
    trained = prepare(network, optimizer, accelerator)
    means = {"loss": "losses", "grad_norm": "norms"}
    meter = Meter(accelerator.device, means, counters=2 * BINS, summary=accuracies)
    return TrainState((trained,), EMA(network, config.ema), meter, {"spikes": spikes.tensors})


def _fit_batch(
    config: TrainConfig, initial: InitialWeights, derived: list[str], accelerator: Any, reporter: Reporter
) -> tuple[TrainConfig, list[str]]:
    """The settings with the ``accumulate`` that fits, and the names of the derived ones with it."""
    if config.accumulate != 1:
        raise ConfigError(f"--accumulate {config.accumulate}: not with --batch-size auto, which chooses it")
    config = dataclasses.replace(config, accumulate=fitting_accumulate(initial.build, config, accelerator))
    rows = (config.batch_size or 0) // (world().size * config.accumulate)
    reporter.info(f"--batch-size auto: {config.batch_size} images per step, {rows} at a time in each process")
    return config, [*derived, "accumulate"]


@checked
def dry_run(
    tokens: PathArgument | Sequence[PathArgument],
    config: TrainConfig | Mapping[str, Any] | None = None,
    *,
    recipe: str = "paper",
    val: PathArgument | None = None,
    init_from: PathArgument | None = None,
    auto_batch: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    reporter: Reporter = SILENT,
) -> Plan:
    """What :func:`train` with these arguments will take; ten steps are timed, and nothing is written.

    Raises:
        MaskGITError: as ``train``.
    """
    data, split = _open_data(path_list(tokens), optional_path(val), config, None, None, device, reporter)
    initial, config, derived = _resolve(data, split, config, recipe, optional_path(init_from), reporter)
    accelerator = accelerator_for(device, dtype)
    if auto_batch:
        config, _ = _fit_batch(config, initial, derived, accelerator, reporter)
    available, batch_size, size = available_memory(accelerator.device), config.batch_size or 0, world().size
    rows = batch_size // (size * config.accumulate)
    spikes = SpikeDetector(accelerator.device, config.spike_sigma)
    with memory_errors(config):
        network = initial.build().to(accelerator.device)
        network.grad_checkpointing = config.grad_checkpointing
        activations = measure_activations(network, config, accelerator).of(rows)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        del network
        (trained,), ema, *_ = _build(config, initial, accelerator, spikes)

        def step(number: int, settings: TrainConfig) -> None:
            """One optimizer step in memory, to its end."""
            batch = make_batch(number, data, settings, accelerator.device, split.trained)
            values = train_step(number, batch, settings, trained, ema, accelerator)
            float(values.means["loss"])  # waits for the GPU

        seconds, timed_images = time_steps(step, config)
    return Plan(
        network=initial.entry.name,
        size=config.size,
        parameters=parameters,
        steps=config.steps or 0,
        batch_size=batch_size,
        accumulate=config.accumulate,
        processes=size,
        rows=rows,
        state=state_bytes(parameters, config),
        activations=activations,
        available=available,
        seconds=seconds,
        timed_images=timed_images,
        checkpoint=parameters * CHECKPOINT_BYTES,
        kept=config.keep + 1,
    )
