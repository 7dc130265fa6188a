"""``train``: a token file in, a run directory out (arXiv 2310.14400, section 4; arXiv 2202.04200, 3.1)."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.samplers import PRESETS, preset_for
from maskgit_cli.config.stages import TrainConfig
from maskgit_cli.errors import ConfigError, InputError, MaskGITError, counted
from maskgit_cli.figures.grids import image_grid, save_png
from maskgit_cli.formats.atomic import CREATED_BY, parent
from maskgit_cli.formats.models import copy_tokenizer, find_tokenizer
from maskgit_cli.formats.runs import (
    RUN_FORMAT,
    RUN_VERSION,
    MetricsLog,
    held,
    load_checkpoint,
    save_checkpoint,
    settle_record,
)
from maskgit_cli.formats.tokens import TokenFile, open_tokens
from maskgit_cli.networks.loading import Tokenizer, load_tokenizer
from maskgit_cli.networks.pixels import to_pixels
from maskgit_cli.runtime import rng
from maskgit_cli.runtime.distributed import accelerator_for, gather_objects, on_main, plain_attention, world
from maskgit_cli.runtime.interrupts import Interrupts
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.sampling.samplers.registry import sample_tokens
from maskgit_cli.sampling.schedules import mask_ratio
from maskgit_cli.training.init_from import Start, network_sizes, size_name, start_from
from maskgit_cli.training.optim import (
    EMA,
    cosine_factor,
    load_optimizer,
    optimizer_tensors,
    set_lr,
    warmup_factor,
)

_WHAT = "a run directory"
_PREVIEWS = 36


class Batch(NamedTuple):
    """What the network is given and what it should say, for B images of N = h·w tokens.

    Attributes:
        inputs: int64 (B, h, w), with the mask's code where a token is hidden.
        codes: int64 (B, h, w), the tokens themselves.
        masked: bool (B, h, w).
        labels: int64 (B,), -1 for none.
        drop: bool (B,), whether the label is hidden.
    """

    inputs: Tensor
    codes: Tensor
    masked: Tensor
    labels: Tensor
    drop: Tensor


class _Training(NamedTuple):
    """What is trained, bare (for weights) and as Accelerate wrapped it (for gradients)."""

    network: nn.Module
    wrapped: nn.Module
    optimizer: Any
    ema: EMA
    accelerator: Any


def train(
    tokens: Path,
    out: Path | None = None,
    config: TrainConfig | None = None,
    *,
    res: int | None = None,
    val: Path | None = None,
    tokenizer: Path | None = None,
    init_from: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Train a transformer, resuming what an earlier call began.

    Args:
        tokens: the token file.
        out: the run directory; None is ``runs/TOKENS-SIZE-RES``.
        config: the settings; None is the paper's recipe.
        res: resolution in pixels that the token file must have; None takes what it has.
        val: a token file whose loss is measured at every checkpoint.
        tokenizer: directory of the tokenizer the codes came from, where it isn't found by itself.
        init_from: run or model directory, or a name under ``models/``, whose weights are started from.
        device: where to train.
        dtype: precision of matrix products.
        overwrite: begin anew, removing an earlier run there.
        reporter: told of progress.

    Returns:
        The run directory.

    Raises:
        ArtifactError: a file is incomplete or damaged, or its tokenizer is not to be found.
        ConfigError: settings contradict one another or the token file.
        OutputError: ``out`` holds something else or was begun with other settings.
        MaskGITError: the loss is not a number any more.
        KeyboardInterrupt: Ctrl-C; the step it was at was finished, and is in a checkpoint.
    """
    data = open_tokens(tokens)
    held_out = open_tokens(val) if val else None
    start, config = _start(data, _resolved(data, held_out, config or TrainConfig(), res), init_from, reporter)
    out = out or Path("runs") / f"{tokens.stem}-{config.size or start.network}-{data.meta.resolution}"
    near = [out / "tokenizer", *start.near(tokens)]  # a run that is resumed has it itself
    codec = find_tokenizer(data.meta.tokenizer_sha256, tokenizer, near, out if overwrite else None)
    accelerator = accelerator_for(device, dtype)
    on_main(lambda: _begin(out, _record(data, config, start), codec, overwrite, config))
    training, meter = _build(config, start, accelerator), _Meter()
    step = _resume(out, training, meter)
    if step >= (config.steps or 0):
        more = "" if _length_is_settled(config) else "more --steps go on, "
        reporter.info(f"{out} has its {counted(step, 'step')} already; {more}--overwrite begins anew")
        return out
    preview = _Preview(out, load_tokenizer(codec, accelerator.device), start, data, config)
    log = MetricsLog(out, step) if world().main else None
    assert config.steps is not None
    assert config.batch_size is not None
    progress = reporter.task("train", config.steps, step, unit="steps")
    with held(out, world().main), Interrupts(accelerator, reporter) as interrupts, progress as task:
        while step < config.steps:
            step += 1
            loss, norm = _train_step(step, data, config, training)
            meter.add(loss, norm, config.batch_size)
            task.advance(1, loss=loss)
            last = step == config.steps
            if step % config.log_every == 0 or last:
                _write_line(log, step, meter, data, config)
            checkpoint = step % config.checkpoint_every == 0 or last
            if checkpoint and held_out is not None:
                value = validation_loss(preview.take(training.ema), held_out, config, accelerator)
                if log:
                    log.append(step=step, val_loss=round(value, 6))
            if log and config.preview_every and (step % config.preview_every == 0 or last):
                preview.draw(step, training.ema)
            asked = interrupts.asked(step, last)
            if checkpoint or asked:  # last of all: what is lost in a kill before it is done again
                meter.check(step)
                _checkpoint(out, step, training, meter, config)
                interrupts.checkpointed(step)
    return out


def _resolved(
    data: TokenFile, held_out: TokenFile | None, config: TrainConfig, res: int | None
) -> TrainConfig:
    """Settings with every open choice made; holds them to the token files."""
    meta = data.meta
    if res is not None and res != meta.resolution:
        source = next((p["name"] for p in meta.parents if p["kind"] == "images"), "IMAGES")
        raise ConfigError(
            f"--res {res}: {data.path} has images of {meta.resolution} px; make one of {res} px with "
            f"`maskgit tokenize {source} tokens{res}.h5 --res {res}`"
        )
    if len(data) == 0:
        raise InputError(f"{data.path} holds no images")
    if held_out is not None:
        for name in ("tokenizer_sha256", "grid", "class_names"):
            if getattr(held_out.meta, name) != getattr(meta, name):
                raise ConfigError(f"--val {held_out.path}: its {name} differs from that of {data.path}")
    batch = config.batch_size or TrainConfig.default_batch_size(meta.resolution)
    parts = world().size * config.accumulate
    if batch % parts:
        raise ConfigError(
            f"--batch-size {batch}: must be a multiple of {parts}, the number of processes times --accumulate"
        )
    steps = config.steps or math.ceil(config.epochs * len(data) / batch)
    return dataclasses.replace(config, batch_size=batch, steps=steps)


def _start(
    data: TokenFile, config: TrainConfig, init_from: Path | None, reporter: Reporter = SILENT
) -> tuple[Start, TrainConfig]:
    """The network to train, and the settings that depend on it: its size's name if it has one."""
    if init_from is not None:
        start = start_from(init_from, data, config)
        size = size_name(start.sizes)
    else:
        size = config.size or "base"
        start = Start("maskgit", network_sizes(data, dataclasses.replace(config, size=size)))
    if not start.sizes.drops_labels:
        reporter.info("this network knows no dropped class, so no label is hidden, and there is no guidance")
    drop = config.drop_label
    if drop is None:
        drop = TrainConfig.default_drop_label(start.sizes.drops_labels)
    return start, dataclasses.replace(config, size=size, drop_label=drop)


def _record(data: TokenFile, config: TrainConfig, start: Start) -> dict[str, Any]:
    """What the run's ``config.json`` says."""
    origin = {"init_from": start.sha256} if start.sha256 else {}
    return {
        "format": RUN_FORMAT,
        "version": RUN_VERSION,
        "created_by": CREATED_BY,
        "network": start.network,
        start.key: start.sizes.to_json(),
        "resolution": data.meta.resolution,
        "class_names": data.meta.class_names or list(start.class_names),
        "tokenizer_sha256": data.meta.tokenizer_sha256,
        "settings": {**config.to_json(), **origin},
        "parents": [parent("tokens", data.path, data.sha256), *start.parents, *data.meta.parents],
    }


def _length_is_settled(config: TrainConfig) -> bool:
    """Whether a run's length can't be changed: the learning rate of every step of a decay depends on it."""
    return config.lr_floor != 1


def _begin(out: Path, record: dict[str, Any], codec: Path, overwrite: bool, config: TrainConfig) -> None:
    """Settle the run directory and put the tokenizer in it."""
    free = {"keep", "checkpoint_every", "preview_every", "log_every"}
    if not _length_is_settled(config):
        free |= {"steps", "epochs"}
    settle_record(out, record, overwrite, _WHAT, free)
    if not (out / "tokenizer").exists():
        copy_tokenizer(codec, out / "tokenizer")


def _build(config: TrainConfig, start: Start, accelerator: Any) -> _Training:
    """Network and optimizer, from the seed or from a model's weights."""
    torch.manual_seed(config.seed)
    network = start.build(start.sizes)
    if start.tensors is not None:
        network.load_state_dict(start.tensors)
    network.to(accelerator.device)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=accelerator.device.type in ("cpu", "cuda"),
    )
    wrapped, prepared = accelerator.prepare(network, optimizer)
    return _Training(network, wrapped, prepared, EMA(network, config.ema), accelerator)


def _resume(out: Path, training: _Training, meter: _Meter) -> int:
    """Take up the newest checkpoint; gives the steps done."""
    checkpoint = load_checkpoint(out)
    if checkpoint is None:
        return 0
    training.network.load_state_dict(checkpoint.tensors["model"])
    training.ema.load(checkpoint.tensors["ema"])
    load_optimizer(training.optimizer, training.network, checkpoint.tensors["optimizer"])
    meter.load(checkpoint.tensors.get("window", {}), training.accelerator.device)
    return checkpoint.step


def _write_line(
    log: MetricsLog | None, step: int, meter: _Meter, data: TokenFile, config: TrainConfig
) -> None:
    """Begin the means anew and, in the main process, write them down."""
    assert config.batch_size is not None
    line = meter.flush(step)
    if log:
        epoch = step * config.batch_size / len(data)
        log.append(step=step, epoch=round(epoch, 4), lr=_learning_rate(step, config), **line)


def _checkpoint(out: Path, step: int, training: _Training, meter: _Meter, config: TrainConfig) -> None:
    """Write everything that :func:`_resume` reads; all other state is a function of the step."""
    state = {
        "model": training.network.state_dict(),
        "ema": training.ema.tensors,
        "optimizer": optimizer_tensors(training.optimizer, training.network),
    }
    window = {"window": meter.tensors()} if meter.losses else {}
    on_main(lambda: save_checkpoint(out, step, state | window, config.keep))


# --- one step ---------------------------------------------------------------------------------------


def draw_batch(step: int, data: TokenFile, config: TrainConfig, device: torch.device) -> Batch:
    """This process's share of the batch of a step (from 1), as a pure function of (seed, step).

    The masking ratio is the schedule's function of a uniform number, and each token is hidden with
    that probability (arXiv 2310.14400, section 3.2).
    """
    assert config.batch_size is not None
    assert config.drop_label is not None
    share = config.batch_size // world().size
    mine = slice(world().rank * share, (world().rank + 1) * share)
    rows = rng.batch_rows(config.seed, len(data), (step - 1) * config.batch_size + mine.start, share)

    def numbers(stream: int, n: int = 1) -> Tensor:
        """This process's rows (B, n) of the step's random numbers."""
        return rng.batch_uniform(config.seed, step, config.batch_size or 0, n, stream)[mine]

    view = numbers(rng.VIEW)[:, 0] * data.codes.shape[1]
    chosen = data.codes[rows, view.long().numpy()].astype("int64")
    codes = torch.from_numpy(chosen).to(device, non_blocking=True)  # (B, h, w)
    labels = torch.from_numpy(data.labels[rows].astype("int64")).to(device, non_blocking=True)
    ratio = mask_ratio(numbers(rng.RATIO), config.mask_schedule)  # (B, 1)
    masked = (numbers(rng.MASK, codes[0].numel()) < ratio).view(codes.shape).to(device, non_blocking=True)
    drop = (numbers(rng.LABEL_DROPOUT)[:, 0] < config.drop_label).to(device, non_blocking=True)
    inputs = codes.masked_fill(masked, data.meta.codebook_size)
    return Batch(inputs, codes, masked, labels, drop)


def masked_loss(logits: Tensor, batch: Batch, config: TrainConfig) -> Tensor:
    """Sum of the cross-entropy over the positions that ``loss_on`` names: a scalar.

    Args:
        logits: (B, N, K+1); the smoothing spreads over all K+1 of them.
        batch: the targets.
        config: ``loss_on`` and ``label_smoothing`` are read.
    """
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(),
        batch.codes.flatten(),
        label_smoothing=config.label_smoothing,
        reduction="none",
    )  # (B·N,)
    return loss.sum() if config.loss_on == "all" else (loss * batch.masked.flatten()).sum()


def _learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate at optimizer step ``step`` (from 1): linear warm-up, then constant or a cosine decay."""
    assert config.steps is not None
    return config.lr * warmup_factor(step, config.warmup) * cosine_factor(step, config.steps, config.lr_floor)


def _train_step(
    step: int, data: TokenFile, config: TrainConfig, training: _Training
) -> tuple[Tensor, Tensor]:
    """One optimizer step; gives the batch's loss and the gradient's norm, as scalars.

    The sum over positions is divided by their number in the whole batch, so the gradient is the same
    however the batch is split into processes and micro-batches.
    """
    accelerator = training.accelerator
    bf16 = accelerator.mixed_precision == "bf16"
    set_lr(training.optimizer, _learning_rate(step, config))
    # Dropout is the one thing torch's own generators decide: seed them by step and process.
    torch.manual_seed(rng.torch_seed(config.seed, step, world().rank))
    batch = draw_batch(step, data, config, accelerator.device)
    counted = torch.ones_like(batch.masked) if config.loss_on == "all" else batch.masked
    positions = accelerator.reduce(counted.sum(), reduction="sum").clamp(min=1)
    total = torch.zeros((), device=accelerator.device)
    pieces = [Batch(*piece) for piece in zip(*(t.chunk(config.accumulate) for t in batch), strict=True)]
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(training.wrapped):
            with plain_attention(accelerator.device, bf16, piece.inputs[0].numel()):
                logits = training.wrapped(piece.inputs, piece.labels, piece.drop)
            loss = masked_loss(logits, piece, config) / positions
            # Gradients are averaged over the processes; the sum is wanted.
            accelerator.backward(loss * world().size)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(training.wrapped.parameters(), config.clip)
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.ema.update(training.network, step)
    return accelerator.reduce(total, reduction="sum"), norm


@torch.no_grad()
def validation_loss(network: nn.Module, data: TokenFile, config: TrainConfig, accelerator: Any) -> float:
    """Mean cross-entropy in nats, without smoothing, of the hidden tokens of every image of a file.

    Each image is seen once, its first view and its label given, with a mask that depends on the seed
    and the image alone; so the number compares between runs, sizes and process counts.
    """
    size = max(1, (config.batch_size or 1) // world().size)
    total, count = 0.0, 0
    for first in range(world().rank * size, len(data), size * world().size):
        rows = range(first, min(first + size, len(data)))
        device = accelerator.device
        codes = torch.from_numpy(data.codes[first : first + size, 0].astype("int64")).to(device)
        labels = torch.from_numpy(data.labels[first : first + size].astype("int64")).to(device)
        ratio = mask_ratio(rng.uniform(config.seed, rows, 0, 1, rng.RATIO), config.mask_schedule)
        masked = rng.uniform(config.seed, rows, 0, codes[0].numel(), rng.MASK) < ratio
        masked = masked.view(codes.shape).to(device)
        with accelerator.autocast():
            logits = network(codes.masked_fill(masked, data.meta.codebook_size), labels)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="none")
        # Summed on the host: Apple's GPUs have no float64.
        total += float((loss.cpu() * masked.flatten().cpu()).double().sum())
        count += int(masked.sum())
    totals, counts = zip(*gather_objects((total, count)), strict=True)
    return sum(totals) / max(1, sum(counts))


class _Meter:
    """Means of the loss and the gradient's norm since the last line of the log."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.images = 0
        self.began = time.perf_counter()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, so that the next line is the same after a resume."""
        return {"losses": torch.stack(self.losses), "norms": torch.stack(self.norms)}

    def load(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Take up what :meth:`tensors` gave; speed counts from now."""
        self._clear()
        if tensors:
            self.losses = list(tensors["losses"].to(device))
            self.norms = list(tensors["norms"].to(device))

    def add(self, loss: Tensor, norm: Tensor, images: int) -> None:
        """Take in one step."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.images += images

    def check(self, step: int) -> None:
        """Stop a training that has lost its way before its weights reach a checkpoint.

        Raises:
            MaskGITError: the newest loss or gradient is not finite; once one isn't, none is again.
        """
        for name, values in (("loss", self.losses), ("gradient's norm", self.norms)):
            if values and not math.isfinite(float(values[-1])):
                raise MaskGITError(
                    f"the {name} at step {step} is {float(values[-1])}; the checkpoint before it is intact: "
                    "begin anew with a lower --lr, or with --dtype fp32"
                )

    def flush(self, step: int) -> dict[str, float]:
        """The line's values; begins anew."""
        self.check(step)
        seconds = time.perf_counter() - self.began
        line = {
            "loss": round(float(torch.stack(self.losses).mean()), 6),
            "grad_norm": round(float(torch.stack(self.norms).mean()), 6),
            "images_per_second": round(self.images / seconds, 2),
        }
        self._clear()
        return line


class _Preview:
    """Draws a sheet of samples of the averaged weights with the run's own tokenizer."""

    def __init__(
        self, out: Path, codec: Tokenizer, start: Start, data: TokenFile, config: TrainConfig
    ) -> None:
        self.out, self.codec, self.start = out, codec, start
        self.seed, self.resolution = config.seed, data.meta.resolution
        self.network: nn.Module | None = None

    def take(self, ema: EMA) -> nn.Module:
        """A network of its own with the averaged weights, in evaluation mode."""
        if self.network is None:
            device = next(self.codec.network.parameters()).device
            self.network = self.start.build(self.start.sizes).to(device).eval().requires_grad_(False)
        assert self.network is not None
        self.network.load_state_dict(copy.copy(ema.tensors))
        return self.network

    @torch.no_grad()
    def draw(self, step: int, ema: EMA) -> None:
        """Write ``previews/step-N.png``, class after class."""
        network, sizes = self.take(ema), self.start.sizes
        sampler = PRESETS[preset_for(self.resolution, sizes.sampler)]
        sampler = sampler.limited(steps=sizes.grid**2, guided=sizes.drops_labels)
        index = torch.arange(_PREVIEWS, device=next(network.parameters()).device)
        classes = max(1, sizes.classes)
        labels = index % classes if sizes.classes else torch.full_like(index, -1)
        mask = sizes.codebook_size
        blank = torch.full((_PREVIEWS, sizes.grid, sizes.grid), mask, device=index.device)
        codes = sample_tokens(network, blank, labels, index, sampler, seed=self.seed, mask_token=mask)
        pixels = torch.cat([to_pixels(self.codec.network.decode(part)) for part in codes.split(6)])
        columns = classes if 4 <= classes <= 12 else 6
        save_png(self.out / "previews" / f"step-{step:08d}.png", image_grid(pixels, columns))
