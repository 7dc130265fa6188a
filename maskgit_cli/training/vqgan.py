"""``train-vqgan``: images in, a tokenizer directory out (arXiv 2012.09841, section 3.1)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.base import require
from maskgit_cli.config.networks import TOKENIZER_SIZES, VQGANConfig
from maskgit_cli.config.stages import VQGANTrainConfig
from maskgit_cli.data.loading import ImageDataset, load_batches
from maskgit_cli.data.sources import ImageSource, open_source, source_digest
from maskgit_cli.errors import ConfigError, InputError, MaskGITError, WeightsError
from maskgit_cli.figures.grids import image_grid, save_png
from maskgit_cli.formats.atomic import CREATED_BY, parent
from maskgit_cli.formats.models import TOKENIZER_FORMAT, TOKENIZER_VERSION, WEIGHTS_FILE
from maskgit_cli.formats.runs import MetricsLog, held, load_checkpoint, save_checkpoint, settle_record
from maskgit_cli.networks.discriminator import PatchDiscriminator
from maskgit_cli.networks.loading import save_tokenizer
from maskgit_cli.networks.pixels import to_model, to_pixels
from maskgit_cli.networks.vqgan import VQGAN
from maskgit_cli.runtime.distributed import accelerator_for, from_main, on_main, world
from maskgit_cli.runtime.interrupts import Interrupts
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.runtime.rng import FLIP, REVIVAL, batch_rows, batch_uniform, uniform
from maskgit_cli.training.optim import (
    EMA,
    cosine_factor,
    load_optimizer,
    optimizer_tensors,
    set_lr,
    warmup_factor,
)
from maskgit_cli.training.perceptual import PerceptualLoss, lpips
from maskgit_cli.training.reconstruction import check_readable, codebook_use, reconstruction_quality

_WHAT = "a tokenizer directory"
_PREVIEWS = 8
# Settings that may change on resuming. The learning rate's shape depends on the number of steps, so
# that stays what it was.
_FREE = {"keep", "checkpoint_every", "preview_every", "log_every"}


class _Networks(NamedTuple):
    """What is trained, bare (for weights) and as Accelerate wrapped it (for gradients)."""

    vqgan: VQGAN
    discriminator: PatchDiscriminator
    wrapped_vqgan: nn.Module
    wrapped_discriminator: nn.Module
    optimizer: Any
    discriminator_optimizer: Any
    ema: EMA
    last_used: Tensor  # (K,) the step at which each code was last chosen


def resolved(config: VQGANTrainConfig) -> tuple[VQGANTrainConfig, VQGANConfig]:
    """Settings with every open choice made, and the sizes of the network they ask for.

    Raises:
        ConfigError: the resolution is not a multiple of the network's factor.
    """
    sizes = TOKENIZER_SIZES[config.size]
    if config.res is not None:
        rule = f"a multiple of {sizes.factor}, which is how many times size {config.size} shrinks a side"
        require(config.res % sizes.factor == 0, "res", config.res, rule)
    sizes = dataclasses.replace(
        sizes,
        resolution=config.res or sizes.resolution,
        codebook_size=config.codebook_size or sizes.codebook_size,
    )
    start = config.steps // 2 if config.adversarial_start is None else config.adversarial_start
    config = dataclasses.replace(
        config, res=sizes.resolution, codebook_size=sizes.codebook_size, adversarial_start=start
    )
    return config, sizes


def train_vqgan(
    images: Path,
    out: Path,
    config: VQGANTrainConfig | None = None,
    *,
    val: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    workers: int = 2,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Train a tokenizer, resuming what an earlier call began.

    Args:
        images: a folder or CSV, as ``tokenize`` takes it; labels are not used.
        out: the tokenizer directory; its ``checkpoints/``, ``metrics.jsonl`` and ``previews/`` grow
            while training, and ``model.safetensors`` (the averaged weights) completes it.
        config: the settings; None is the defaults.
        val: images on which the averaged weights are measured at every checkpoint.
        device: where to train.
        dtype: precision of matrix products and convolutions.
        workers: processes that read images.
        overwrite: begin anew, removing an earlier tokenizer there.
        reporter: told of progress.

    Returns:
        ``out``.

    Raises:
        InputError: no image can be read.
        ConfigError: settings contradict one another.
        OutputError: ``out`` holds something else or was begun with other settings.
        MaskGITError: the weights are not finite any more.
        KeyboardInterrupt: Ctrl-C; the step it was at was finished, and is in a checkpoint.
    """
    config, sizes = resolved(config or VQGANTrainConfig())
    require(workers >= 0, "workers", workers, "0 or more")
    accelerator = _accelerator(config, device, dtype)
    source, held_out = open_source(images), _validation_set(val)
    perceptual, config = _perceptual(config, accelerator.device, reporter)
    record = _record(images, source, config, sizes)
    resumed = on_main(lambda: settle_record(out, record, overwrite, _WHAT, _FREE))
    if (out / WEIGHTS_FILE).exists():
        reporter.info(f"{out} is complete already; pass --overwrite to train it anew")
        return out
    torch.manual_seed(config.seed)
    nets = _build(config, sizes, accelerator)
    meter = _Meter(sizes.codebook_size, accelerator.device)
    step = _resume(out, nets, meter) if resumed else 0
    log = MetricsLog(out, step) if world().main else None
    batches = _batches(source, config, step, workers, reporter)
    progress = reporter.task("train-vqgan", config.steps, step, unit="steps")
    with held(out, world().main), Interrupts(accelerator, reporter) as interrupts, progress as task:
        while step < config.steps:
            pixels = to_model(next(batches).to(accelerator.device, non_blocking=True))
            pixels = pixels.to(memory_format=_layout(accelerator.device))
            step += 1
            values, reconstruction, codes = _train_step(pixels, step, nets, config, perceptual, accelerator)
            counts = accelerator.reduce(torch.bincount(codes.flatten(), minlength=sizes.codebook_size))
            nets.last_used[counts > 0] = step
            meter.add(values, counts, config.batch_size)
            task.advance(1, loss=values["l1"])
            last = step == config.steps
            checkpoint, line = (step % n == 0 or last for n in (config.checkpoint_every, config.log_every))
            asked = interrupts.asked(step, last)
            if checkpoint or line or asked:
                _check_finite(nets, step)
            if log and line:
                log.append(step=step, **meter.flush())
            if log and config.preview_every and (step % config.preview_every == 0 or last):
                _preview(out, step, pixels, reconstruction)
            if checkpoint and held_out is not None and log:
                log.append(step=step, **_validate(nets, sizes, held_out, config))
            if checkpoint or asked:  # last of all: what is lost in a kill before it is done again
                _checkpoint(out, step, nets, meter, config)
                interrupts.checkpointed(step)
    tensors = {name: nets.ema.tensors[name] for name in nets.vqgan.state_dict()}
    on_main(lambda: save_tokenizer(out, tensors, sizes, record["settings"], record["parents"]))
    return out


def _record(
    images: Path, source: ImageSource, config: VQGANTrainConfig, sizes: VQGANConfig
) -> dict[str, Any]:
    """What the tokenizer's ``config.json`` says."""
    return {
        "format": TOKENIZER_FORMAT,
        "version": TOKENIZER_VERSION,
        "created_by": CREATED_BY,
        "network": "vqgan",
        "vqgan": sizes.to_json(),
        "settings": config.to_json(),
        "parents": [parent("images", images.resolve(), source_digest(source))],
    }


def _accelerator(config: VQGANTrainConfig, device: str, dtype: str) -> Any:
    """What the networks are trained with, once it is known that the batch can be shared out."""
    accelerator = accelerator_for(device, dtype)
    if config.batch_size % world().size:
        raise ConfigError(f"--batch-size {config.batch_size}: must be a multiple of {world().size} processes")
    return accelerator


def _layout(device: torch.device) -> torch.memory_format:
    """Order of dimensions in memory: GPUs convolve faster in the one, CPUs normalize faster in the other."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def _build(config: VQGANTrainConfig, sizes: VQGANConfig, accelerator: Any) -> _Networks:
    """Networks and optimizers from the seed."""
    vqgan = VQGAN(sizes).to(accelerator.device).to(memory_format=_layout(accelerator.device))
    discriminator = PatchDiscriminator(config.discriminator_channels, config.discriminator_layers)
    discriminator.to(accelerator.device).to(memory_format=_layout(accelerator.device))
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.Adam(vqgan.parameters(), lr=config.lr, betas=betas)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=config.lr, betas=betas)
    last_used = torch.zeros(sizes.codebook_size, dtype=torch.int64, device=accelerator.device)
    wrapped, wrapped_d, optimizer, optimizer_d = accelerator.prepare(
        vqgan, discriminator, optimizer, optimizer_d
    )
    ema = EMA(vqgan, config.ema)
    return _Networks(vqgan, discriminator, wrapped, wrapped_d, optimizer, optimizer_d, ema, last_used)


def _resume(out: Path, nets: _Networks, meter: _Meter) -> int:
    """Take up the newest checkpoint; gives the steps done."""
    checkpoint = load_checkpoint(out)
    if checkpoint is None:
        return 0
    tensors = checkpoint.tensors
    nets.vqgan.load_state_dict(tensors["model"])
    nets.discriminator.load_state_dict(tensors["discriminator"])
    nets.ema.load(tensors["ema"])
    load_optimizer(nets.optimizer, nets.vqgan, tensors["optimizer"])
    load_optimizer(nets.discriminator_optimizer, nets.discriminator, tensors["discriminator_optimizer"])
    nets.last_used.copy_(tensors["codebook"]["last_used"])
    meter.load(tensors.get("window", {}))
    return checkpoint.step


def _checkpoint(out: Path, step: int, nets: _Networks, meter: _Meter, config: VQGANTrainConfig) -> None:
    """Write everything that :func:`_resume` reads."""
    state = {
        "model": nets.vqgan.state_dict(),
        "ema": nets.ema.tensors,
        "optimizer": optimizer_tensors(nets.optimizer, nets.vqgan),
        "discriminator": nets.discriminator.state_dict(),
        "discriminator_optimizer": optimizer_tensors(nets.discriminator_optimizer, nets.discriminator),
        "codebook": {"last_used": nets.last_used},
    }
    window = {"window": meter.tensors()} if meter.sums else {}
    on_main(lambda: save_checkpoint(out, step, state | window, config.keep))


def _check_finite(nets: _Networks, step: int) -> None:
    """Stop a training that has lost its way before its weights reach a checkpoint.

    The weights are the same on every process, which the losses are not, so that all of them stop.

    Raises:
        MaskGITError: a weight is not finite.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in nets.ema.tensors.values()):
        raise MaskGITError(
            f"the weights at step {step} are not finite any more; the checkpoint before it is intact: "
            "begin anew with a lower --lr, or with --dtype fp32"
        )


def _perceptual(
    config: VQGANTrainConfig, device: torch.device, reporter: Reporter
) -> tuple[PerceptualLoss | None, VQGANTrainConfig]:
    """LPIPS, or None, said aloud, where its weights cannot be had; and the settings that come of it.

    The record then says that there was none, and going on with it is refused.
    """
    if config.perceptual_weight == 0:
        return None, config
    try:
        return lpips(device), config
    except WeightsError as error:
        reporter.warn(f"training without the perceptual loss. {error}")
        return None, dataclasses.replace(config, perceptual_weight=0.0)


def _validation_set(path: Path | None) -> ImageSource | None:
    """The images of ``--val``, of which at least one can be read."""
    if path is None:
        return None
    source = open_source(path)
    check_readable(source)
    return source


def _validate(
    nets: _Networks, sizes: VQGANConfig, source: ImageSource, config: VQGANTrainConfig
) -> dict[str, float]:
    """Quality of the averaged weights on held-out images, as a line of the log."""
    network = VQGAN(sizes).to(nets.last_used.device).eval()
    network.load_state_dict(nets.ema.tensors)
    return {f"val_{k}": v for k, v in reconstruction_quality(network, source, config.batch_size).items()}


# --- one step ---------------------------------------------------------------------------------------


def _train_step(
    pixels: Tensor,
    step: int,
    nets: _Networks,
    config: VQGANTrainConfig,
    perceptual: PerceptualLoss | None,
    accelerator: Any,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """One update of the generator and, once it has joined, one of the discriminator.

    Returns:
        the losses as scalars by name, the reconstructions (B, 3, H, W), the codes (B, h, w).
    """
    lr = config.lr * warmup_factor(step, config.warmup) * cosine_factor(step, config.steps, config.lr_floor)
    set_lr(nets.optimizer, lr)
    set_lr(nets.discriminator_optimizer, lr)
    adversarial = step > (config.adversarial_start or 0) and config.adversarial_weight > 0
    _revive(pixels, step, nets, config, accelerator)
    reconstruction, quantized = nets.wrapped_vqgan(pixels)
    l1 = F.l1_loss(reconstruction, pixels)
    fidelity = l1
    if perceptual is not None:
        fidelity = l1 + config.perceptual_weight * perceptual(pixels, reconstruction)
    codebook = config.codebook_weight * quantized.codebook_loss
    loss = fidelity + codebook + config.commitment_weight * quantized.commitment_loss
    values = {"l1": l1, "codebook": quantized.codebook_loss, "lr": torch.tensor(lr)}
    if config.smoothness_weight:
        roughness = relative_roughness(quantized.latents)
        loss = loss + config.smoothness_weight * roughness
        values["roughness"] = roughness
    if adversarial:
        nets.discriminator.requires_grad_(False)
        fooling = -nets.discriminator(reconstruction).mean()
        weight = _adaptive_weight(fidelity, fooling, nets.vqgan.decoder.conv_out.weight, accelerator)
        loss = loss + config.adversarial_weight * weight * fooling
        values |= {"generator": fooling, "adaptive_weight": weight}
        nets.discriminator.requires_grad_(True)
    nets.optimizer.zero_grad()
    accelerator.backward(loss)
    nets.optimizer.step()
    nets.ema.update(nets.vqgan, step)
    if adversarial:
        values["discriminator"] = _discriminator_step(pixels, reconstruction.detach(), nets, accelerator)
    return {k: v.detach() for k, v in values.items()}, reconstruction.detach(), quantized.codes


def relative_roughness(latents: Tensor) -> Tensor:
    """How much latents differ from the ones beside and below them, whatever their scale.

    An encoder that sees far beyond a cell hides details of the neighborhood in codes of empty cells,
    where a transformer can only learn them as noise. This makes it prefer codes that follow from those
    around them, as "When Worse Is Better" (Ramanujan and others, 2024) does with a small predictor; here
    the predictor is the neighbor itself.

    Args:
        latents: encoder outputs (B, D, h, w).

    Returns:
        a scalar: half the mean squared difference of neighbors over the variance, which is 1 for
        independent latents and 0 for constant pictures; 0 if there is no variance or no neighbor.
    """
    z = latents.float()
    spread = (z - z.mean((0, 2, 3), keepdim=True)).pow(2).mean()
    differences = torch.cat([z.diff(dim=2).flatten(), z.diff(dim=3).flatten()])
    return differences.pow(2).sum() / (2 * max(len(differences), 1) * spread).clamp_min(1e-12)


def _adaptive_weight(fidelity: Tensor, fooling: Tensor, last_layer: Tensor, accelerator: Any) -> Tensor:
    """How strong the adversarial gradient may be beside the other one (arXiv 2012.09841, equation 7)."""
    (g_fidelity,) = torch.autograd.grad(fidelity, last_layer, retain_graph=True)
    (g_fooling,) = torch.autograd.grad(fooling, last_layer, retain_graph=True)
    weight = g_fidelity.norm() / (g_fooling.norm() + 1e-4)
    return accelerator.reduce(weight.clamp(0.0, 1e4).detach(), reduction="mean")


def _discriminator_step(real: Tensor, drawn: Tensor, nets: _Networks, accelerator: Any) -> Tensor:
    """One hinge-loss update of the discriminator; gives the loss."""
    logits_real, logits_drawn = nets.wrapped_discriminator(torch.cat([real, drawn])).chunk(2)
    loss = 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_drawn).mean())
    nets.discriminator_optimizer.zero_grad()
    accelerator.backward(loss)
    nets.discriminator_optimizer.step()
    return loss


@torch.no_grad()
def _revive(pixels: Tensor, step: int, nets: _Networks, config: VQGANTrainConfig, accelerator: Any) -> None:
    """Replace codes that are no longer chosen by encoder outputs of this batch.

    All of them at the first step, which starts the codebook where the encoder is; afterwards those
    unused for ``revive_after`` steps, once in as many steps.
    """
    first = step == 1
    if not first and (config.revive_after == 0 or step % config.revive_after):
        return
    dead = nets.last_used < (step if first else step - config.revive_after)
    count = int(dead.sum())
    if count == 0:
        return
    with accelerator.autocast():
        latents = nets.vqgan.latents(pixels).float().movedim(1, -1).flatten(0, 2)  # (B·h·w, D)
    chosen = (batch_uniform(config.seed, step, 1, count, REVIVAL)[0] * len(latents)).long()  # (count,)
    vectors = from_main(latents[chosen.to(latents.device)])
    weight = nets.vqgan.quantize.embedding.weight
    weight[dead] = vectors
    nets.ema.tensors["quantize.embedding.weight"][dead] = vectors
    nets.last_used[dead] = step
    state = nets.optimizer.state.get(weight, {})
    for key in ("exp_avg", "exp_avg_sq"):
        if key in state:
            state[key][dead] = 0


# --- data and what is said of the training ----------------------------------------------------------


def _order(n: int, config: VQGANTrainConfig, start: int) -> Iterator[list[int]]:
    """Which images this process takes at each step from ``start`` on, a pure function of (seed, step)."""
    share = config.batch_size // world().size
    for step in range(start, config.steps):
        first = step * config.batch_size + world().rank * share
        yield batch_rows(config.seed, n, first, share).tolist()


def _batches(
    source: ImageSource, config: VQGANTrainConfig, step: int, workers: int, reporter: Reporter
) -> Iterator[Tensor]:
    """Endless uint8 batches (B, 3, H, W) from ``step`` on; unreadable images are left out and named."""
    assert config.res is not None
    dataset = ImageDataset(source, config.res)
    order = _order(len(dataset), config, step)
    named: set[int] = set()
    for offset, batch in enumerate(load_batches(dataset, order, workers, torch.cuda.is_available())):
        if batch.images is None:
            index, reason = batch.skipped[0]
            raise InputError(
                f"no image of a whole batch can be read; the first, {source.location(index)}: {reason}"
            )
        for index, reason in batch.skipped:
            if index not in named:
                reporter.warn(f"skipped {source.location(index)}: {reason}")
                named.add(index)
        images = batch.images[:, 0]
        if config.flip:
            coin = uniform(config.seed, batch.indices, step + offset, 1, FLIP)[:, 0] < 0.5
            images = torch.where(coin.view(-1, 1, 1, 1), images.flip(-1), images)
        yield images


class _Meter:
    """Means of the losses, and codebook use, since the last line of the log."""

    def __init__(self, codes: int, device: torch.device) -> None:
        self.counts = torch.zeros(codes, dtype=torch.int64, device=device)
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps: dict[str, int] = {}
        self.images = 0
        self.began = time.perf_counter()
        self.counts.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, so that the next line is the same after a resume."""
        sums = {f"sums/{name}": total for name, total in self.sums.items()}
        steps = {f"steps/{name}": torch.tensor(n) for name, n in self.steps.items()}
        return sums | steps | {"counts": self.counts}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`tensors` gave; speed counts from now."""
        self._clear()
        if tensors:
            self.counts.copy_(tensors["counts"])
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "sums":
                self.sums[name] = value
            elif kind == "steps":
                self.steps[name] = int(value)

    def add(self, values: dict[str, Tensor], counts: Tensor, images: int) -> None:
        """Take in the losses and the codes' counts of one step."""
        for name, value in values.items():
            # Stays where it was computed: reading it would wait for the GPU at every step.
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.float()
            self.steps[name] = self.steps.get(name, 0) + 1
        self.counts += counts
        self.images += images

    def flush(self) -> dict[str, float]:
        """The line's values: means, share of codes in use, perplexity, images a second."""
        line = {name: round(float(total) / self.steps[name], 6) for name, total in self.sums.items()}
        line["usage"], line["perplexity"] = codebook_use(self.counts)
        line["images_per_second"] = round(self.images / (time.perf_counter() - self.began), 2)
        self._clear()
        return line


def _preview(out: Path, step: int, images: Tensor, reconstruction: Tensor) -> None:
    """A sheet of pictures above what the codes keep of them."""
    pair = torch.cat([images[:_PREVIEWS], reconstruction[:_PREVIEWS]])
    path = out / "previews" / f"step-{step:08d}.png"
    save_png(path, image_grid(to_pixels(pair.float()), columns=min(_PREVIEWS, len(images))))
