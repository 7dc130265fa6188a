"""Any seed, and no float64 off the CPU: Apple GPUs have none. The meta device stands in for a GPU."""

import contextlib
from pathlib import Path

import pytest
import torch
from tiny_models import VQGAN_SIZES, tiny_transformer
from tiny_training import TRAINING, VQGAN_TRAINING, metrics, train_tiny, train_tiny_vqgan
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maskgit_cli.config.networks import TRANSFORMERS
from maskgit_cli.config.training import TrainConfig, VQGANTrainConfig
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.networks.discriminator import PatchDiscriminator
from maskgit_cli.networks.vqgan import VQGAN
from maskgit_cli.runtime.interrupts import Interrupts
from maskgit_cli.training import common, previews
from maskgit_cli.training.batches import make_batch
from maskgit_cli.training.init_from import InitialWeights
from maskgit_cli.training.objective import train_step
from maskgit_cli.training.optim import EMA
from maskgit_cli.training.vqgan_objective import Networks
from maskgit_cli.training.vqgan_objective import train_step as vqgan_train_step

META = torch.device("meta")
LARGEST = 2**64 - 1


class NoFloat64(TorchDispatchMode):
    """Raises where a float64 tensor is made on the meta device, as Apple GPUs do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.device == META:
                assert value.dtype != torch.float64, func
        return result


class OnMeta:
    """What the trainings use of an accelerator, for one process on the meta device."""

    device, mixed_precision = META, "no"

    def prepare(self, *objects):
        return objects

    def reduce(self, tensor, reduction="sum"):
        return tensor

    def backward(self, loss):
        loss.backward()

    def autocast(self):
        return contextlib.nullcontext()

    def clip_grad_norm_(self, parameters, norm):
        return torch.nn.utils.clip_grad_norm_(parameters, norm)


def prepared(network, **extra):
    network = network.to(META)
    optimizer = torch.optim.AdamW(network.parameters())
    return common.prepare(network, optimizer, OnMeta(), **extra)


def test_the_mode_notices_float64():
    with NoFloat64(), pytest.raises(AssertionError):
        torch.zeros(2).double().to(META)


@pytest.mark.parametrize("loss_on", ["all", "masked"])
def test_a_step_of_train_makes_no_float64_on_the_device(tokens, loss_on):
    config = TrainConfig(**TRAINING | {"drop_label": 0.1, "loss_on": loss_on})
    trained = prepared(tiny_transformer().train().requires_grad_(True))
    with NoFloat64():
        batch = make_batch(1, open_tokens(tokens), config, META)
        values = train_step(1, batch, config, trained, EMA(trained.network, 0.9), OnMeta())
        meter = common.Meter(META, {"loss": "losses", "grad_norm": "norms"})
        meter.add(values.means, 8)
        assert meter.tensors()["losses"].device == META
        Interrupts(OnMeta())._note(15, None)
    assert values.means["loss"].dtype == torch.float32


def test_a_step_of_train_vqgan_makes_no_float64_on_the_device(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # has no meta device
    config = VQGANTrainConfig(
        **VQGAN_TRAINING | {"adversarial_start": 0, "revive_after": 0, "smoothness_weight": 0.1}
    )
    vqgan = prepared(VQGAN(VQGAN_SIZES))
    discriminator = prepared(PatchDiscriminator(4, 2), files=("discriminator", "discriminator_optimizer"))
    last_used = torch.zeros(VQGAN_SIZES.codebook_size, dtype=torch.int64, device=META)
    nets = Networks(vqgan, discriminator, EMA(vqgan.network, 0.9), last_used)
    with NoFloat64():
        step = vqgan_train_step(torch.zeros(2, 3, 16, 16, device=META), 2, nets, config, None, OnMeta())
    assert {"l1", "roughness", "generator", "discriminator"} <= step.values.keys()


def test_the_arithmetic_of_previews_is_on_the_cpu(run, monkeypatch):
    """Only the networks are on the device; the sampler's inputs and results are not."""
    seen = {}

    def predictor(network, device, dtype):
        seen["device"] = device
        return "predict"

    def sample_tokens(predict, blank, labels, index, *rest, **options):
        seen["inputs"] = {t.device.type for t in (blank, labels, index)}
        assert predict == "predict"
        return blank % 12

    def decode_tokens(tokenizer, tokens, device):
        seen["tokens"] = tokens.device.type
        return torch.zeros(len(tokens), 3, 16, 16, dtype=torch.uint8)

    for name, double in (
        ("predictor", predictor), ("sample_tokens", sample_tokens), ("decode_tokens", decode_tokens)
    ):  # fmt: skip
        monkeypatch.setattr(previews, name, double)
    network = tiny_transformer().to(META)
    initial = InitialWeights(TRANSFORMERS["maskgit"], network.config)
    made = previews.Previews(run, initial, META, seed=0)
    monkeypatch.setattr(previews, "save_png", lambda path, image: seen.setdefault("path", path))
    made.save(3, EMA(network, 0.9))
    assert seen == {
        "device": META, "inputs": {"cpu"}, "tokens": "cpu", "path": Path(run) / "previews/step-00000003.png"
    }  # fmt: skip


# --- seeds ------------------------------------------------------------------------------------------


def test_the_largest_seed_trains_a_transformer(tokens, tmp_path):
    settings = {"steps": 2, "preview_every": 2, "drop_label": 0.5}
    run = train_tiny(tokens, tmp_path / "run", {"val": tokens}, **settings, seed=LARGEST)
    other = train_tiny(tokens, tmp_path / "other", {"val": tokens}, **settings, seed=LARGEST - 1)
    assert (run / "previews" / "step-00000002.png").exists()
    assert metrics(run)[-1] != metrics(other)[-1]


def test_the_largest_seed_trains_a_tokenizer(images, tmp_path):
    settings = {"steps": 2, "adversarial_start": 0, "revive_after": 1}
    out = train_tiny_vqgan(images, tmp_path / "out", **settings, seed=LARGEST)
    other = train_tiny_vqgan(images, tmp_path / "other", **settings, seed=LARGEST - 1)
    assert metrics(out)[-1] != metrics(other)[-1]
