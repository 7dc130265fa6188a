"""The parts that ``train`` and ``train-vqgan`` share: networks with optimizers, checkpoints, and the log."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from maskgit_cli.config.base import option
from maskgit_cli.config.training import TrainConfig, VQGANTrainConfig
from maskgit_cli.errors import ConfigError, MaskGITError, counted
from maskgit_cli.formats.atomic import read_json
from maskgit_cli.formats.claim import Outcome, replaced_path
from maskgit_cli.formats.runs import (
    CONFIG_FILE,
    METRICS_FILE,
    MetricsLog,
    checkpoint_path,
    intact_checkpoint,
    is_finished,
    prepare_to_resume,
    read_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
    training_kind,
)
from maskgit_cli.runtime.distributed import claim_on_main, on_main, world
from maskgit_cli.runtime.progress import Reporter
from maskgit_cli.training.checkpointing import CheckpointWriter
from maskgit_cli.training.optim import EMA, load_optimizer, optimizer_tensors
from maskgit_cli.training.sharding import gathered_on_main, is_sharded, load_weights
from maskgit_cli.training.spikes import MOST_SKIPPED, Spike

C = TypeVar("C", TrainConfig, VQGANTrainConfig)

# --- the directory ----------------------------------------------------------------------------------


class TrainingClaim(NamedTuple):
    """A training directory that this process may write.

    Attributes:
        outcome: ``NEW``, ``RESUME``, ``COMPLETE`` or ``REPLACE``. A finished training that is to be extended
            is ``COMPLETE``, too.
        record: its record: the one asked for, with the derived settings of the training that is resumed.
        finished: whether there is nothing to do.
    """

    outcome: Outcome
    record: Mapping[str, Any]
    finished: bool

    def settings(self, config: C) -> C:
        """The settings of the training, of those that were asked for."""
        settings = self.record["settings"]
        return dataclasses.replace(config, **{key: settings[key] for key in self.record["derived"]})


@contextmanager
def claim_training(
    out: Path, record: Mapping[str, Any], overwrite: bool, what: str, free: Set[str], reporter: Reporter
) -> Iterator[TrainingClaim]:
    """Claim a training directory for the time of the ``with`` block, by rank 0 for all.

    A finished training that is replaced is kept under another name until this one is finished.

    Args:
        out: the directory.
        record: its ``config.json``.
        overwrite: replace a finished training there, and an unfinished one of other settings.
        what: what the directory is, for errors.
        free: settings that may differ when resuming.
        reporter: receives warnings, and the name of a training that is replaced.

    Yields:
        The claim.

    Raises:
        OutputError: the directory holds something else, a training with other settings or of more steps, or
            is locked.
    """

    def finished() -> bool:
        return is_finished(out, read_json(out / CONFIG_FILE, what))

    with claim_on_main(out, training_kind(record, what, free), record, overwrite, reporter) as claimed:
        if claimed.outcome is Outcome.REPLACE:
            reporter.info(f"the finished training is kept as {replaced_path(out)} until this one is finished")
        continued = record
        if claimed.outcome in (Outcome.RESUME, Outcome.COMPLETE):
            continued = on_main(lambda: prepare_to_resume(out, record, reporter.warn))
        yield TrainingClaim(claimed.outcome, continued, on_main(finished))
        on_main(lambda: claimed.finish() if finished() else None)


def report_finished(out: Path, steps: int, reporter: Reporter) -> None:
    """Report that a training has its steps already, and how to get more."""
    reporter.info(
        f"{out} is already trained for {counted(steps, 'step')}; increase --steps to continue, "
        "or use --overwrite to replace it"
    )


def check_decay(config: TrainConfig | VQGANTrainConfig) -> None:
    """Check that settings of the decay come with a decay.

    Raises:
        ConfigError: it does not.
    """
    if config.decay_steps is not None and config.lr_floor == 1:
        raise ConfigError(
            f"--decay-steps {config.decay_steps}: nothing decays; give --lr-floor below 1 as well"
        )
    if isinstance(config, TrainConfig) and config.lr_floor == 1:
        for key in ("decay_start", "lr_schedule"):
            value = getattr(config, key)
            if value != getattr(TrainConfig, key):
                raise ConfigError(f"{option(key)} {value}: nothing decays; give --lr-floor below 1 as well")


# --- networks ---------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """A network that is trained.

    Attributes:
        network: the bare network, for weights.
        wrapped: the network as wrapped by Accelerate, for gradients.
        optimizer: its optimizer, as wrapped by Accelerate.
        files: names of the checkpoint files of the network and of its optimizer.
    """

    network: Any
    wrapped: nn.Module
    optimizer: Any
    files: tuple[str, str]


def prepare(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Any,
    files: tuple[str, str] = ("model", "optimizer"),
) -> Trained:
    """A network and its optimizer, ready for training: all ranks have the weights of rank 0.

    Args:
        network: with initial weights, on its device.
        optimizer: over all of its parameters.
        accelerator: an ``accelerate.Accelerator``.
        files: names of the checkpoint files of network and optimizer.
    """
    if is_sharded(network):  # it synchronizes by itself, so Accelerate adds the precision alone
        wrapped = accelerator.prepare_model(network, evaluation_mode=True)
        return Trained(network, wrapped, accelerator.prepare_optimizer(optimizer), files)
    wrapped, prepared = accelerator.prepare(network, optimizer)
    return Trained(network, wrapped, prepared, files)


class TrainState(NamedTuple):
    """Everything that a checkpoint stores; all other state is a function of the step.

    Attributes:
        trained: the networks with their optimizers.
        ema: the EMA of the first network's weights.
        meter: the means since the last line of the log.
        extra: further tensors, by file and name.
    """

    trained: tuple[Trained, ...]
    ema: EMA
    meter: Meter
    extra: Mapping[str, Mapping[str, Tensor]]


def save_state(out: Path, step: int, state: TrainState, keep: int, writer: CheckpointWriter) -> None:
    """Have a checkpoint written, after the one before it; returns once its tensors are copied.

    Raises:
        OutputError: the checkpoint before it could not be written.
    """
    groups: dict[str, Mapping[str, Tensor]] = {"ema": state.ema.tensors, **state.extra}
    for part in state.trained:
        model, optimizer = part.files
        groups[model] = part.network.state_dict()
        groups[optimizer] = optimizer_tensors(part.optimizer, part.network)
    window = state.meter.tensors()
    if window:
        groups["window"] = window
    groups = {name: gathered_on_main(tensors) for name, tensors in groups.items()}
    writer.write(step, groups, lambda copies: save_checkpoint(out, step, copies, keep))


def load_state(out: Path, state: TrainState, keep: int, reporter: Reporter) -> int:
    """Load the newest intact checkpoint into a state, the same on all ranks; returns its step, 0 without one.

    Args:
        out: the training directory.
        state: receives the tensors.
        keep: number of checkpoints that stay.
        reporter: receives a warning for each newer checkpoint that is damaged.

    Raises:
        ArtifactError: all checkpoints are damaged.
        OutputError: the file system refuses.
    """
    path = on_main(lambda: intact_checkpoint(out, reporter.warn))
    if path is None:
        return 0
    checkpoint = read_checkpoint(path)
    groups = checkpoint.tensors
    for part in state.trained:
        model, optimizer = part.files
        load_weights(part.network, groups[model])
        load_optimizer(part.optimizer, part.network, groups[optimizer])
    state.ema.load(groups["ema"])
    for file, tensors in state.extra.items():
        if file in groups:  # checkpoints may be older than what it holds
            for name, tensor in tensors.items():
                tensor.copy_(groups[file][name])
    state.meter.load(groups.get("window", {}))
    on_main(lambda: remove_old_checkpoints(out, keep))
    return checkpoint.step


def check_finite(step: int, values: Mapping[str, Tensor]) -> None:
    """Stop a diverged run before its checkpoint.

    Args:
        step: the step that was just done.
        values: tensors by name, the same on all ranks, so that all of them stop.

    Raises:
        MaskGITError: a number is NaN or infinite.
    """
    for name, tensor in values.items():
        if not bool(torch.isfinite(tensor).all()):
            shown = f"is {float(tensor)}" if tensor.numel() == 1 else "is not finite"
            raise MaskGITError(
                f"training diverged at step {step}, {name} {shown}; the previous checkpoint is intact, "
                "restart with a lower --lr, or with --dtype fp32"
            )


def handle_spike(
    spike: Spike,
    log: MetricsLine,
    rows: np.ndarray,
    on_spike: str,
    writer: CheckpointWriter,
    reporter: Reporter,
) -> None:
    """Log a step whose update was left out, and go on or end the training.

    Args:
        spike: the step.
        log: receives a line.
        rows: of the token file, in the step's batch (B,).
        on_spike: ``skip`` or ``stop``.
        writer: knows the last checkpoint.
        reporter: receives a warning.

    Raises:
        MaskGITError: ``on_spike`` is ``stop``, or too many steps in a row were left out.
    """
    listed = sorted(rows.tolist())
    log.append(step=spike.step, spike_loss=spike.loss, spike_grad_norm=spike.grad_norm, spike_rows=listed)
    shown = ", ".join(map(str, listed[:8])) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
    where = f"at step {spike.step}, {spike.what} (rows {shown}; {METRICS_FILE} lists all)"
    if on_spike == "skip" and spike.in_row < MOST_SKIPPED:
        reporter.warn(f"the update {where} is left out")
        return
    last = checkpoint_path(Path(), writer.newest).name if writer.newest else "none"
    again = "" if on_spike == "skip" else ", continue with --on-spike skip"
    many = f", the last of {MOST_SKIPPED} steps in a row" if on_spike == "skip" else ""
    raise MaskGITError(
        f"training diverged {where}{many}; last good checkpoint: {last}; restart with a lower --lr{again}, "
        "or use --dtype fp32"
    )


# --- the log ----------------------------------------------------------------------------------------


def due(step: int, config: TrainConfig | VQGANTrainConfig) -> tuple[bool, bool, bool]:
    """Whether a line of the log, a checkpoint and a preview are due at a step; all are at the last one.

    A preview that is made every 0 steps is never due.
    """
    last = step == config.steps
    line, checkpoint = (last or step % every == 0 for every in (config.log_every, config.checkpoint_every))
    return line, checkpoint, config.preview_every > 0 and (last or step % config.preview_every == 0)


class MetricsLine(Protocol):
    """Takes the lines of a training's log."""

    def append(self, **values: Any) -> None:
        """Add a line; ``step`` is among the values."""


class _NoLog:
    """The log of all ranks but 0."""

    def append(self, **values: Any) -> None:
        """Write nothing."""


def open_log(out: Path, step: int) -> MetricsLine:
    """The log of a training directory, cut at the step that is resumed; only rank 0 writes it.

    Raises:
        ArtifactError: its lines are damaged.
    """
    return MetricsLog(out, step) if world().main else _NoLog()


class Meter:
    """Means of scalars since the last line of the log, and the throughput.

    Scalars stay on their device until a line is due: reading them would wait for the GPU at every step.
    The checkpoint formats of the two trainings differ: ``train`` stores every value of its two scalars,
    ``train-vqgan`` the sum of each scalar. Both count: right predictions, or the use of codebook vectors.

    Args:
        device: device of the scalars.
        series: the scalars to keep value by value, with their names in the checkpoint; all others are
            summed.
        counters: number of counters.
        summary: values of a line from the counters, int64 (counters,).
    """

    def __init__(
        self,
        device: torch.device,
        series: Mapping[str, str] | None = None,
        counters: int = 0,
        summary: Callable[[Tensor], Mapping[str, float | None]] = lambda counts: {},
    ) -> None:
        self.device, self.names, self.summary = device, dict(series or {}), summary
        self.counts = torch.zeros(counters, dtype=torch.int64, device=device)
        self.reset()

    def reset(self) -> None:
        """Forget all values, and restart the clock."""
        self.series: dict[str, list[Tensor]] = {}
        self.sums: dict[str, Tensor] = {}
        self.steps: dict[str, int] = {}
        self.counts.zero_()
        self.images = 0
        self.began = time.perf_counter()

    def add(self, values: Mapping[str, Tensor], images: int, counts: Tensor | None = None) -> None:
        """Add the scalars of one step, its number of images, and its counts (counters,)."""
        for name, value in values.items():
            if name in self.names:
                self.series.setdefault(name, []).append(value)
            else:
                self.sums[name] = self.sums.get(name, torch.zeros(())) + value.float()
                self.steps[name] = self.steps.get(name, 0) + 1
        if counts is not None:
            self.counts += counts.long()
        self.images += images

    def flush(self) -> dict[str, Any]:
        """The values of a line of the log: means, those of the counters, images/s; then reset."""
        means = {name: _finite_mean(values) for name, values in self.series.items()}
        means |= {name: float(total) / self.steps[name] for name, total in self.sums.items()}
        line: dict[str, Any] = {name: round(mean, 6) for name, mean in means.items()}
        line |= self.summary(self.counts)
        line["images_per_second"] = round(self.images / (time.perf_counter() - self.began), 2)
        self.reset()
        return line

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time does not count as training: the throughput leaves it out."""
        start = time.perf_counter()
        yield
        self.began += time.perf_counter() - start

    def tensors(self) -> dict[str, Tensor]:
        """The state for a checkpoint, so that a resumed run logs the same line; {} right after a line."""
        if not self.series and not self.sums:
            return {}
        state = {self.names[name]: torch.stack(values) for name, values in self.series.items()}
        state |= {f"sums/{name}": total for name, total in self.sums.items()}
        state |= {f"steps/{name}": torch.tensor(n) for name, n in self.steps.items()}
        return state | ({"counts": self.counts} if len(self.counts) else {})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state of a checkpoint; throughput counts from now."""
        self.reset()
        for name, stored in self.names.items():
            if stored in tensors:
                self.series[name] = list(tensors[stored].to(self.device))
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "sums":
                self.sums[name] = value.to(self.device)
            elif kind == "steps":
                self.steps[name] = int(value)
            elif kind == "counts":
                self.counts.copy_(value)


def _finite_mean(values: list[Tensor]) -> float:
    """The mean of the scalars that are finite: steps that are not were left out. NaN where none is."""
    stacked = torch.stack(values)
    return float(stacked[torch.isfinite(stacked)].mean())
