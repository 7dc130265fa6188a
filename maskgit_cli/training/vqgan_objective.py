"""The objective of ``train-vqgan``: its losses, one optimizer step, and dead-code revival.

Equations are those of arXiv 2012.09841, section 3.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskgit_cli.config.stages import VQGANTrainConfig
from maskgit_cli.runtime.distributed import from_main
from maskgit_cli.runtime.rng import REVIVAL, batch_uniform
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
        values: the losses and the learning rate, scalars by name.
        reconstruction: (B, 3, H, W) in -1..1.
        indices: codebook indices (B, h, w).
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

    Args:
        pixels: this rank's images (B, 3, H, W) in -1..1.
        step: number of the step, from 1.
        nets: the networks.
        config: fully resolved settings.
        perceptual: the perceptual distance, or None.
        accelerator: an ``accelerate.Accelerator``.
    """
    decay = cosine_factor(step, config.decay_steps or config.steps, config.lr_floor)
    lr = config.lr * warmup_factor(step, config.warmup) * decay
    set_lr(nets.vqgan.optimizer, lr)
    set_lr(nets.discriminator.optimizer, lr)
    adversarial = step > (config.adversarial_start or 0) and config.adversarial_weight > 0
    revive_dead_codes(pixels, step, nets, config, accelerator)
    reconstruction, quantized = nets.vqgan.wrapped(pixels)
    l1 = F.l1_loss(reconstruction, pixels)
    codebook = config.codebook_weight * quantized.codebook_loss  # equation 4
    values = {"l1": l1, "codebook": quantized.codebook_loss, "lr": torch.tensor(lr)}
    fidelity = l1
    if perceptual is not None and config.perceptual_weight > 0:
        distance = perceptual.distance(pixels, reconstruction).mean()
        fidelity = l1 + config.perceptual_weight * distance
        values[perceptual.key] = distance
    loss = fidelity + codebook + config.commitment_weight * quantized.commitment_loss
    if config.smoothness_weight:
        roughness = relative_roughness(quantized.latents)
        loss = loss + config.smoothness_weight * roughness
        values["roughness"] = roughness
    if adversarial:
        discriminator = nets.discriminator.network
        discriminator.requires_grad_(False)
        fooling = -discriminator(reconstruction).mean()
        last_layer = nets.vqgan.network.decoder.conv_out.weight
        weight = adaptive_weight(fidelity, fooling, last_layer, accelerator)
        loss = loss + config.adversarial_weight * weight * fooling  # equation 6
        values |= {"generator": fooling, "adaptive_weight": weight}
        discriminator.requires_grad_(True)
    nets.vqgan.optimizer.zero_grad()
    accelerator.backward(loss)
    nets.vqgan.optimizer.step()
    nets.ema.update(nets.vqgan.network, step)
    if adversarial:
        values["discriminator"] = discriminator_step(
            pixels, reconstruction.detach(), nets.discriminator, accelerator
        )
    return Step({k: v.detach() for k, v in values.items()}, reconstruction.detach(), quantized.indices)


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


def adaptive_weight(fidelity: Tensor, fooling: Tensor, last_layer: Tensor, accelerator: Any) -> Tensor:
    """Adaptive adversarial weight λ: the ratio of the gradients' norms at the last layer (equation 7)."""
    (g_fidelity,) = torch.autograd.grad(fidelity, last_layer, retain_graph=True)
    (g_fooling,) = torch.autograd.grad(fooling, last_layer, retain_graph=True)
    weight = g_fidelity.norm() / (g_fooling.norm() + 1e-4)
    return accelerator.reduce(weight.clamp(0.0, 1e4).detach(), reduction="mean")


def discriminator_step(real: Tensor, generated: Tensor, discriminator: Trained, accelerator: Any) -> Tensor:
    """One hinge-loss update of the discriminator (arXiv 1705.02894, equation 8); returns the loss."""
    logits_real, logits_generated = discriminator.wrapped(torch.cat([real, generated])).chunk(2)
    loss = 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_generated).mean())
    discriminator.optimizer.zero_grad()
    accelerator.backward(loss)
    discriminator.optimizer.step()
    return loss


@torch.no_grad()
def revive_dead_codes(
    pixels: Tensor, step: int, nets: Networks, config: VQGANTrainConfig, accelerator: Any
) -> None:
    """Dead-code revival: replace unused codebook vectors by encoder outputs of this batch.

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
        latents = nets.vqgan.network.latents(pixels).float().movedim(1, -1).flatten(0, 2)  # (B·h·w, D)
    chosen = (batch_uniform(config.seed, step, 1, count, REVIVAL)[0] * len(latents)).long()  # (count,)
    vectors = from_main(latents[chosen.to(latents.device)])
    weight = nets.vqgan.network.quantize.embedding.weight
    weight[dead] = vectors
    nets.ema.tensors["quantize.embedding.weight"][dead] = vectors
    nets.last_used[dead] = step
    state = nets.vqgan.optimizer.state.get(weight, {})
    for key in ("exp_avg", "exp_avg_sq"):
        if key in state:
            state[key][dead] = 0
