"""The objective of ``train-vqgan``: its losses, one optimizer step, and dead-code revival.

Equations are those of arXiv 2012.09841, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli.config.training import VQGANTrainConfig
from maskgit_cli.networks.vqgan import Quantized
from maskgit_cli.runtime.distributed import gather_objects, world
from maskgit_cli.runtime.rng import REVIVAL, batch_uniform, row_seeds
from maskgit_cli.scoring.perceptual import Perceptual
from maskgit_cli.training.common import Trained
from maskgit_cli.training.optim import EMA, cosine_factor, set_lr, warmup_factor


class Networks(NamedTuple):
    """The networks of a tokenizer's training.

    Attributes:
        vqgan: the generator.
        discriminator: the discriminator.
        ema: the EMA of the generator's weights.
        last_used: int64 (K,), the step at which each codebook vector was last used.
        from_scratch: whether the initial weights are random.
    """

    vqgan: Trained
    discriminator: Trained
    ema: EMA
    last_used: Tensor
    from_scratch: bool = True


class Step(NamedTuple):
    """Results of an optimizer step.

    Attributes:
        values: the losses of the global batch and the learning rate, scalars by name, the same on all ranks.
        reconstruction: (B, 3, H, W) in -1..1, of this rank's images.
        indices: codebook indices (B, h, w), of this rank's images.
    """

    values: dict[str, Tensor]
    reconstruction: Tensor
    indices: Tensor


def train_step(
    pixels: Tensor,
    step: int,
    nets: Networks,
    config: VQGANTrainConfig,
    perceptual: Perceptual | None,
    accelerator: Any,
) -> Step:
    """One update of the generator and, once the adversarial loss is enabled, one of the discriminator.

    Losses are means over the images of the global batch, so the gradient is the same however the batch is
    split into processes and micro-batches; ``smoothness_weight``, relative to a variance, is the exception.

    Args:
        pixels: this rank's images (B, 3, H, W) in -1..1.
        step: number of the step, from 1.
        nets: the networks.
        config: fully resolved settings.
        perceptual: the perceptual distance, or None.
        accelerator: an ``accelerate.Accelerator``.
    """
    lr = _set_learning_rates(step, nets, config)
    adversarial = step > (config.adversarial_start or 0) and config.adversarial_weight > 0
    revive_dead_codes(pixels, step, nets, config, accelerator)
    batch = MicroBatches.of(pixels, config.accumulate, accelerator)
    seed = int(row_seeds(config.seed, step, world().size)[world().rank])  # of dropout, where a network has it
    weight = None
    if adversarial and config.accumulate > 1:
        torch.manual_seed(seed)
        weight = _weight_of(batch, nets, config, perceptual, accelerator)
    torch.manual_seed(seed)
    reconstructions, indices = [], []
    nets.vqgan.optimizer.zero_grad()
    for part in batch.synchronized(nets.vqgan.wrapped):
        reconstruction, quantized = nets.vqgan.wrapped(part)
        fidelity, values = fidelity_loss(part, reconstruction, config, perceptual)
        loss = fidelity + codebook_losses(quantized, config, values)
        if adversarial:
            with frozen(nets.discriminator.network) as discriminator:
                values["generator"] = fooling = -discriminator(reconstruction).mean()
            if weight is None:
                gradients = last_layer_gradients(fidelity, fooling, _last_layer(nets))
                weight = adaptive_weight(batch.sum(gradients * batch.share(part)))
            loss = loss + config.adversarial_weight * weight * fooling  # equation 6
        batch.backward(loss, part)
        batch.add(values, part)
        reconstructions.append(reconstruction.detach())
        indices.append(quantized.indices)
    nets.vqgan.optimizer.step()
    nets.ema.update(nets.vqgan.network, step)
    if adversarial:
        discriminator_step(batch, reconstructions, nets.discriminator)
    values = (
        batch.means() | {"lr": torch.tensor(lr)} | ({} if weight is None else {"adaptive_weight": weight})
    )
    return Step(values, torch.cat(reconstructions), torch.cat(indices))


def _set_learning_rates(step: int, nets: Networks, config: VQGANTrainConfig) -> float:
    """Set and return the learning rate of both optimizers at a step."""
    decay = cosine_factor(step, config.decay_steps or config.steps, config.lr_floor)
    lr = config.lr * warmup_factor(step, config.warmup) * decay
    set_lr(nets.vqgan.optimizer, lr)
    set_lr(nets.discriminator.optimizer, lr)
    return lr


def _last_layer(nets: Networks) -> Tensor:
    weight: Tensor = nets.vqgan.network.decoder.conv_out.weight
    return weight


# --- micro-batches ----------------------------------------------------------------------------------


class MicroBatches:
    """A rank's images of a step in micro-batches, and means over the images of all ranks.

    Ranks may have different numbers of images, as unreadable ones are left out.

    Attributes:
        parts: the micro-batches (b, 3, H, W).
        total: int64, images of the step over all ranks.
        accelerator: an ``accelerate.Accelerator``.
    """

    def __init__(self, parts: Sequence[Tensor], total: Tensor, accelerator: Any) -> None:
        self.parts, self.total, self.accelerator = parts, total, accelerator
        self._sums: dict[str, Tensor] = {}

    @classmethod
    def of(cls, pixels: Tensor, count: int, accelerator: Any) -> MicroBatches:
        """Divide this rank's images (B, 3, H, W) into ``count`` parts, or fewer if there are fewer images."""
        images = torch.tensor(len(pixels), device=pixels.device)
        return cls(pixels.chunk(count), accelerator.reduce(images, reduction="sum"), accelerator)

    def share(self, part: Tensor) -> Tensor:
        """The fraction of the global batch that a part is, a scalar."""
        return len(part) / self.total

    def synchronized(self, wrapped: nn.Module) -> Iterator[Tensor]:
        """The parts; gradients of a network as wrapped by Accelerate are reduced at the last one only."""
        for part in self.parts[:-1]:
            with self.accelerator.no_sync(wrapped):
                yield part
        yield self.parts[-1]

    def backward(self, loss: Tensor, part: Tensor) -> None:
        """Add the gradient of the mean loss of a part, by its share of the global batch."""
        # Accelerate averages gradients over the processes; the sum is wanted.
        self.accelerator.backward(loss * (self.share(part) * world().size))

    def add(self, values: Mapping[str, Tensor], part: Tensor) -> None:
        """Add mean losses of a part."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float() * self.share(part)

    def means(self) -> dict[str, Tensor]:
        """The means over the global batch of what was added."""
        return dict(zip(self._sums, self.sum(torch.stack([*self._sums.values()])), strict=True))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks."""
        total: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return total


@contextmanager
def frozen(network: Any, *but: Tensor) -> Iterator[Any]:
    """A context in which a network's weights, except ``but``, take no gradient."""
    network.requires_grad_(False)
    for weight in but:
        weight.requires_grad_(True)
    try:
        yield network
    finally:
        network.requires_grad_(True)


# --- losses -----------------------------------------------------------------------------------------


def fidelity_loss(
    pixels: Tensor, reconstruction: Tensor, config: VQGANTrainConfig, perceptual: Perceptual | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of pixel error and perceptual distance, and both by name."""
    l1 = F.l1_loss(reconstruction, pixels)
    if perceptual is None or config.perceptual_weight == 0:
        return l1, {"l1": l1}
    distance = perceptual.distance(pixels, reconstruction).mean()
    return l1 + config.perceptual_weight * distance, {"l1": l1, perceptual.key: distance}


def codebook_losses(quantized: Quantized, config: VQGANTrainConfig, values: dict[str, Tensor]) -> Tensor:
    """The weighted losses of the codebook (equation 4) and its inputs; ``values`` receives them by name."""
    values["codebook"] = quantized.codebook_loss
    loss = config.codebook_weight * quantized.codebook_loss
    loss = loss + config.commitment_weight * quantized.commitment_loss
    if config.smoothness_weight:
        values["roughness"] = roughness = relative_roughness(quantized.latents)
        loss = loss + config.smoothness_weight * roughness
    return loss


def relative_roughness(latents: Tensor) -> Tensor:
    """Squared differences of neighboring latents, relative to their variance.

    An encoder with a large receptive field stores details of the neighborhood in the indices of empty
    cells, which a transformer can only learn as noise. This term makes it prefer indices that follow from
    those around them, as "When Worse Is Better" (Ramanujan and others, 2024) does with a small predictor;
    here the predictor is the neighbor itself.

    Args:
        latents: encoder outputs (B, D, h, w).

    Returns:
        a scalar: half the mean squared difference of neighbors over the variance, which is 1 for
        independent latents and 0 for constant images; 0 if there is no variance or no neighbor.
    """
    z = latents.float()
    spread = (z - z.mean((0, 2, 3), keepdim=True)).pow(2).mean()
    differences = torch.cat([z.diff(dim=2).flatten(), z.diff(dim=3).flatten()])
    return differences.pow(2).sum() / (2 * max(len(differences), 1) * spread).clamp_min(1e-12)


def last_layer_gradients(fidelity: Tensor, fooling: Tensor, last_layer: Tensor) -> Tensor:
    """Gradients (2, ...) of the fidelity and of the adversarial loss at the decoder's last layer."""
    losses = (fidelity, fooling)
    gradients = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0] for loss in losses]
    return torch.stack(gradients).detach().float()


def adaptive_weight(gradients: Tensor) -> Tensor:
    """Adaptive adversarial weight λ: the ratio of the gradients' norms at the last layer (equation 7).

    Args:
        gradients: of the fidelity and of the adversarial loss of the global batch, (2, ...).
    """
    fidelity, fooling = (gradient.norm() for gradient in gradients)
    return (fidelity / (fooling + 1e-4)).clamp(0.0, 1e4)


def _weight_of(
    batch: MicroBatches,
    nets: Networks,
    config: VQGANTrainConfig,
    perceptual: Perceptual | None,
    accelerator: Any,
) -> Tensor:
    """λ of several micro-batches, by a pass of their own: every one's gradient needs that of the whole batch.

    Only the last layer takes gradients in it, so the generator keeps no activations.
    """
    last_layer, total = _last_layer(nets), torch.zeros((), device=accelerator.device)
    with frozen(nets.vqgan.network, last_layer) as vqgan, frozen(nets.discriminator.network) as discriminator:
        for part in batch.parts:
            reconstruction, _ = vqgan(part)
            fidelity, _ = fidelity_loss(part, reconstruction, config, perceptual)
            fooling = -discriminator(reconstruction).mean()
            total = total + last_layer_gradients(fidelity, fooling, last_layer) * batch.share(part)
    return adaptive_weight(batch.sum(total))


def discriminator_step(batch: MicroBatches, generated: Sequence[Tensor], discriminator: Trained) -> None:
    """One hinge-loss update of the discriminator (arXiv 1705.02894, equation 8).

    Args:
        batch: the images; receives the loss and the mean logits of images and of reconstructions.
        generated: their reconstructions, by micro-batch.
        discriminator: the discriminator.
    """
    discriminator.optimizer.zero_grad()
    for part, fake in zip(batch.synchronized(discriminator.wrapped), generated, strict=True):
        logits_real, logits_fake = discriminator.wrapped(torch.cat([part, fake])).chunk(2)
        loss = 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())
        batch.backward(loss, part)
        means = {"logits_real": logits_real.mean(), "logits_fake": logits_fake.mean()}
        batch.add({"discriminator": loss, **means}, part)
    discriminator.optimizer.step()


@torch.no_grad()
def revive_dead_codes(
    pixels: Tensor, step: int, nets: Networks, config: VQGANTrainConfig, accelerator: Any
) -> None:
    """Dead-code revival: replace unused codebook vectors by encoder outputs of the global batch.

    At the first step of a training from scratch all are replaced, which initializes the codebook at the
    encoder's outputs; afterwards, every ``revive_after`` steps, those that were not used for as many steps.
    """
    first = step == 1 and nets.from_scratch
    if not first and (config.revive_after == 0 or step % config.revive_after):
        return
    dead = nets.last_used < (step if first else step - config.revive_after)
    count = int(dead.sum())
    if count == 0:
        return
    with accelerator.autocast():
        parts = [nets.vqgan.network.latents(part) for part in pixels.chunk(config.accumulate)]
    latents = torch.cat(parts).movedim(1, -1).flatten(0, 2)  # (B·h·w, D)
    vectors = _drawn(latents, batch_uniform(config.seed, step, 1, count, REVIVAL)[0], accelerator)
    weight = nets.vqgan.network.quantize.embedding.weight
    weight[dead] = vectors.to(weight.dtype)
    nets.ema.tensors["quantize.embedding.weight"][dead] = vectors.float()
    nets.last_used[dead] = step
    state = nets.vqgan.optimizer.state.get(weight, {})
    for key in ("exp_avg", "exp_avg_sq"):
        if key in state:
            state[key][dead] = 0


def _drawn(latents: Tensor, uniform: Tensor, accelerator: Any) -> Tensor:
    """Rows of all ranks' latents (M, D), those that numbers (n,) in 0..1 choose: (n, D) on all ranks."""
    counts = gather_objects(len(latents))
    first = sum(counts[: world().rank])
    chosen = (uniform * sum(counts)).long().to(latents.device) - first  # (n,), of this rank if in 0..M-1
    mine = (chosen >= 0) & (chosen < len(latents))
    vectors = torch.zeros(len(chosen), latents.shape[1], dtype=latents.dtype, device=latents.device)
    vectors[mine] = latents[chosen[mine]]
    drawn: Tensor = accelerator.reduce(vectors, reduction="sum")  # each row is that of one rank
    return drawn
