"""Training of a tokenizer: its losses, dead-code revival, and that interruption changes nothing."""

import dataclasses
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from resigned import rewrite_record
from safetensors.torch import load_file
from tiny_models import CODES, VQGAN_SIZES
from tiny_training import (
    VQGAN_TRAINING,
    contents,
    count_syncs,
    ctrl_c_at,
    in_processes,
    kill_at,
    metrics,
    train_tiny_vqgan,
)

from maskgit_cli.config.networks import TOKENIZER_SIZES, TOKENIZERS
from maskgit_cli.config.training import VQGANTrainConfig
from maskgit_cli.data.sources import open_source
from maskgit_cli.errors import ConfigError, InputError, MaskGITError, OutputError, WeightsError
from maskgit_cli.formats.runs import load_checkpoint
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.runtime.distributed import make_accelerator, world
from maskgit_cli.runtime.progress import SILENT
from maskgit_cli.scoring import perceptual
from maskgit_cli.scoring.perceptual import Perceptual
from maskgit_cli.scoring.reconstruction import load_features
from maskgit_cli.training import vqgan as vqgan_training
from maskgit_cli.training import vqgan_objective
from maskgit_cli.training.image_batches import image_batches
from maskgit_cli.training.init_tokenizer import InitialTokenizer
from maskgit_cli.training.optim import cosine_factor
from maskgit_cli.training.reconstruction import reconstruction_quality


class Listener(type(SILENT)):
    """Records the warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A tokenizer directory: six steps, with the adversarial loss from the third on."""
    out = tmp_path_factory.mktemp("trained") / "tokenizer"
    return out, count_syncs(train_tiny_vqgan, images, out, preview_every=3)


def weights(out):
    return load_checkpoint(out).tensors


# --- results ----------------------------------------------------------------------------------------


def test_loss_falls(images, tmp_path):
    settings = {"steps": 60, "lr": 4e-3, "adversarial_weight": 0.0, "checkpoint_every": 60, "flip": False}
    out = train_tiny_vqgan(images, tmp_path / "out", **settings, batch_size=12)
    losses = [line["l1"] for line in metrics(out)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_a_finished_tokenizer_has_the_ema_weights(trained):
    out, _ = trained
    tokenizer, state = load_tokenizer(out), weights(out)
    for name, tensor in tokenizer.network.state_dict().items():
        assert torch.equal(tensor, state["ema"][name])
    assert not torch.equal(state["ema"]["decoder.conv_out.weight"], state["model"]["decoder.conv_out.weight"])
    assert tokenizer.config == VQGAN_SIZES


def test_the_record_names_settings_and_parents(trained, images):
    record = json.loads((trained[0] / "config.json").read_text())
    wanted = VQGAN_TRAINING | {"preview_every": 3, "res": 16, "codebook_size": CODES, "decay_steps": 6}
    wanted["perceptual"] = "none"  # which follows from its weight of 0
    assert record["settings"] == VQGANTrainConfig(**wanted).to_json()
    assert [(p["kind"], p["name"]) for p in record["parents"]] == [("images", images.name)]


def test_every_line_of_the_log_is_complete(trained):
    lines = metrics(trained[0])
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"l1", "codebook", "lr", "usage", "perplexity"} <= lines[0].keys()
    assert "discriminator" not in lines[1]
    adversarial = {"generator", "discriminator", "adaptive_weight", "logits_real", "logits_fake"}
    assert adversarial <= lines[2].keys()
    assert not adversarial & lines[1].keys()
    assert all(0 < line["usage"] <= 1 and 1 <= line["perplexity"] <= CODES for line in lines)
    assert all(math.isfinite(value) for line in lines for value in line.values())
    wanted = [1e-3 * min(1, step / 2) * cosine_factor(step, 6, 0.1) for step in range(1, 7)]
    assert [line["lr"] for line in lines] == pytest.approx(wanted, abs=1e-6)


def test_held_out_images_are_measured_at_every_checkpoint(images, trained, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vqgan_training, "reconstruction_quality", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_tiny_vqgan(images, tmp_path / "out", {"val": images}, preview_every=3)
    out = train_tiny_vqgan(images, tmp_path / "out", {"val": images}, preview_every=3)
    lines = [line for line in metrics(out) if "val_psnr" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    found = reconstruction_quality(load_tokenizer(out).network, open_source(images))
    for name, value in found.items():
        assert lines[-1][f"val_{name}"] == pytest.approx(value, abs=2e-3)
    # Validation changes nothing.
    assert contents(out / "checkpoints") == contents(trained[0] / "checkpoints")


def test_previews_show_images_above_their_reconstructions(trained):
    with Image.open(trained[0] / "previews" / "step-00000006.png") as sheet:
        assert sheet.size == (8 * 18 + 2, 2 * 18 + 2)


# --- the images -------------------------------------------------------------------------------------


def batches(images, step=0, **settings):
    config = VQGANTrainConfig(size="tiny", res=16, steps=8, batch_size=6, **settings)
    return list(image_batches(open_source(images), config, step, 0, SILENT))


def test_half_of_the_images_are_flipped(images):
    plain, flipped = torch.cat(batches(images, flip=False)), torch.cat(batches(images))
    changed = (plain.flip(-1) == flipped).flatten(1).all(1)
    assert torch.equal(changed, (plain != flipped).flatten(1).any(1))
    assert 12 < changed.sum() < 36


def test_every_epoch_takes_every_image_once_in_another_order(images):
    found = batches(images, flip=False)
    epochs = [torch.cat(found[i : i + 2]).flatten(1).double().mean(1) for i in (0, 2, 4, 6)]
    assert len(epochs[0].unique()) == 12
    assert all(torch.equal(epoch.sort().values, epochs[0].sort().values) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4
    other = torch.cat(batches(images, flip=False, seed=1)[:2]).flatten(1).double().mean(1)
    assert not torch.equal(other, epochs[0])


def test_a_resumed_training_has_the_same_batches(images):
    for wanted, found in zip(batches(images)[3:], batches(images, step=3), strict=True):
        assert torch.equal(wanted, found)


# --- adversarial loss -------------------------------------------------------------------------------


def test_the_adversarial_loss_changes_nothing_before_its_start(images, tmp_path):
    with_it, without = (
        train_tiny_vqgan(images, tmp_path / name, steps=4, checkpoint_every=1, keep=9, **settings)
        for name, settings in [("with", {}), ("without", {"adversarial_weight": 0.0})]
    )
    for step, same in [(1, True), (2, True), (3, False), (4, False)]:
        files = [out / "checkpoints" / f"step-{step:08d}" for out in (with_it, without)]
        for name in ("model", "discriminator"):
            a, b = ((folder / f"{name}.safetensors").read_bytes() for folder in files)
            assert (a == b) is same, (step, name)


def test_the_discriminator_learns(images, tmp_path):
    settings = {"steps": 40, "adversarial_start": 0, "checkpoint_every": 40, "lr_floor": 1.0}
    out = train_tiny_vqgan(images, tmp_path / "out", **settings, discriminator_channels=8, lr=2e-3)
    losses = [line["discriminator"] for line in metrics(out)]
    assert losses[0] == pytest.approx(1.0, abs=0.05)  # the hinge loss of a constant
    assert np.mean(losses[-5:]) < 0.9


def test_adaptive_weight_is_the_ratio_of_the_two_gradients():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    fidelity, fooling = weight @ weight, weight.sum()  # gradients (6, 8) and (1, 1)
    gradients = vqgan_objective.last_layer_gradients(fidelity, fooling, weight)
    found = vqgan_objective.adaptive_weight(gradients)
    assert found.item() == pytest.approx(10 / (math.sqrt(2) + 1e-4))
    assert not found.requires_grad
    flat = vqgan_objective.last_layer_gradients(weight @ weight, (weight * 0).sum(), weight)
    assert vqgan_objective.adaptive_weight(flat).item() == 1e4


# --- micro-batches ----------------------------------------------------------------------------------


def doubled(batch, accumulate):
    """Values and weights, in double precision, of a step with everything enabled, from the same start."""
    config = VQGANTrainConfig(**VQGAN_TRAINING | {"accumulate": accumulate, "res": 16})
    accelerator = make_accelerator(torch.device("cpu"), torch.float32)
    initial = InitialTokenizer(TOKENIZERS["vqgan"], VQGAN_SIZES)
    nets, _ = vqgan_training._build(config, initial, accelerator)
    nets.vqgan.network.double()
    nets.discriminator.network.double()
    distance = Perceptual("lpips", lambda a, b: (a - b).pow(4).mean((1, 2, 3)))
    config = dataclasses.replace(config, perceptual_weight=0.5)
    for step in (1, 3, 4):  # the first one initializes the codebook, the others have the adversarial loss
        done = vqgan_objective.train_step(batch, step, nets, config, distance, accelerator)
    networks = (nets.vqgan.network, nets.discriminator.network)
    return done, [value.detach() for network in networks for value in network.state_dict().values()]


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_micro_batches_are_one_batch(accumulate):
    """Also of different sizes, as 3 parts of 8 images are."""
    batch = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    (whole, wanted), (parts, found) = doubled(batch, 1), doubled(batch, accumulate)
    assert parts.values.keys() == whole.values.keys()
    assert {"adaptive_weight", "discriminator", "logits_real", "logits_fake"} < whole.values.keys()
    for name, value in whole.values.items():
        assert parts.values[name].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-9)
    torch.testing.assert_close(parts.reconstruction, whole.reconstruction, rtol=1e-6, atol=1e-7)
    assert torch.equal(parts.indices, whole.indices)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_frozen_weights_take_gradients_again():
    network = torch.nn.Linear(2, 2)
    with vqgan_objective.frozen(network, network.bias):
        assert (network.weight.requires_grad, network.bias.requires_grad) == (False, True)
    assert network.weight.requires_grad


def test_dropout_of_a_step_depends_on_the_step_alone(images, tmp_path):
    """A killed training would otherwise continue with other random numbers."""
    sizes = dataclasses.replace(VQGAN_SIZES, dropout=0.5)
    settings = {"steps": 4, "accumulate": 2, "checkpoint_every": 1, "keep": 9}
    with mock.patch.dict(TOKENIZER_SIZES, small=sizes):
        wanted = train_tiny_vqgan(images, tmp_path / "wanted", **settings, size="small")
        out = shutil.copytree(wanted, tmp_path / "out", ignore=later_than(3))
        (out / "model.safetensors").unlink()
        train_tiny_vqgan(images, out, **settings, size="small")
    assert contents(out) == contents(wanted)


def test_a_batch_must_divide_into_micro_batches(images, tmp_path):
    with pytest.raises(ConfigError, match="--batch-size 8: must be a multiple of 3"):
        train_tiny_vqgan(images, tmp_path / "out", accumulate=3)
    assert not (tmp_path / "out").exists()


# --- smoothness --------------------------------------------------------------------------------------


def test_roughness_is_relative_to_the_variance():
    torch.manual_seed(0)
    noise = torch.randn(16, 8, 8, 8)
    assert vqgan_objective.relative_roughness(noise).item() == pytest.approx(1, abs=0.05)
    found, scaled = (vqgan_objective.relative_roughness(z).item() for z in (noise, 7 * noise + 3))
    assert scaled == pytest.approx(found, rel=1e-5)
    flat = torch.randn(16, 8, 1, 1).expand(16, 8, 8, 8)
    assert vqgan_objective.relative_roughness(flat).item() == 0
    for nothing in (torch.ones(2, 3, 4, 4), torch.randn(2, 3, 1, 1)):
        assert vqgan_objective.relative_roughness(nothing).item() == 0
    # One row, 0 1 1: differences 1 and 0, so a mean square of 1/2; variance 2/9.
    row = torch.tensor([0.0, 1.0, 1.0]).view(1, 1, 1, 3)
    assert vqgan_objective.relative_roughness(row).item() == pytest.approx(0.5 / (2 * 2 / 9))


def test_smoothness_makes_neighbors_alike(images, tmp_path):
    settings = {"steps": 30, "adversarial_weight": 0.0, "checkpoint_every": 30, "lr": 4e-3, "flip": False}
    rough, smooth = (
        train_tiny_vqgan(images, tmp_path / f"{weight}", **settings, smoothness_weight=weight)
        for weight in (1e-9, 1.0)
    )
    assert metrics(smooth)[0]["roughness"] == pytest.approx(metrics(rough)[0]["roughness"], rel=1e-6)
    assert metrics(smooth)[-1]["roughness"] < 0.7 * metrics(rough)[-1]["roughness"]
    without = train_tiny_vqgan(images, tmp_path / "without", steps=1)
    assert "roughness" not in metrics(without)[0]


# --- the codebook -----------------------------------------------------------------------------------


def test_dead_codes_are_revived(images, tmp_path):
    """The images have few colors: codebook vectors fall out of use, and are revived."""
    settings = {"steps": 12, "checkpoint_every": 12, "adversarial_weight": 0.0, "lr": 2e-2, "flip": False}
    seen = {}
    for revive_after in (0, 4):
        out = tmp_path / f"{revive_after}"
        train_tiny_vqgan(images, out, **settings, revive_after=revive_after)
        seen[revive_after] = weights(out)["codebook"]["last_used"]
    assert seen[0].min() < 8, "the test needs dead codes"
    assert seen[4].min() >= 8


def test_the_codebook_is_initialized_at_encoder_outputs(images, tmp_path, monkeypatch):
    distances = []
    revive = vqgan_objective.revive_dead_codes

    def spy(pixels, step, nets, *rest):
        revive(pixels, step, nets, *rest)
        with torch.no_grad():
            latents = nets.vqgan.network.latents(pixels).movedim(1, -1).flatten(0, 2)
        distance = torch.cdist(nets.vqgan.network.quantize.embedding.weight.detach(), latents).min(1).values
        distances.append(float(distance.max()))

    monkeypatch.setattr(vqgan_objective, "revive_dead_codes", spy)
    out = train_tiny_vqgan(images, tmp_path / "out", steps=1)
    assert distances[0] < 1e-3
    assert metrics(out)[0]["usage"] > 0.5


def test_revival_resets_the_moments_of_adam(images, tmp_path):
    settings = {"steps": 8, "adversarial_weight": 0.0, "lr": 2e-2, "revive_after": 4, "warmup": 0, "seed": 1}
    out = train_tiny_vqgan(images, tmp_path / "out", **settings, checkpoint_every=1, keep=9, flip=False)
    then = load_checkpoint(shutil.copytree(out, tmp_path / "then", ignore=later_than(7))).tensors
    now = weights(out)
    name = "quantize.embedding.weight"
    unused = then["codebook"]["last_used"] < 4
    assert unused.any(), "the test needs dead codes"
    # Revived at step 8 and moved by that step's gradient g alone: Adam's moments are (1-β1)·g and (1-β2)·g².
    assert (now["codebook"]["last_used"][unused] == 8).all()
    assert not torch.equal(now["model"][name][unused], then["model"][name][unused])
    first = now["optimizer"][f"{name}/exp_avg"][unused]
    second = now["optimizer"][f"{name}/exp_avg_sq"][unused]
    assert first.any()
    torch.testing.assert_close(second / 0.1, (first / 0.5) ** 2, rtol=1e-3, atol=1e-12)


def later_than(step):
    return lambda folder, names: [n for n in names if n.startswith("step-") and int(n[5:]) > step]


# --- interruption -----------------------------------------------------------------------------------


def test_killed_with_everything_enabled_it_ends_in_the_same_bytes(images, tmp_path):
    """Accumulation, the adversarial loss, revival, held-out images, and one that cannot be read."""
    folder = shutil.copytree(images, tmp_path / "images")
    (folder / "cat" / "0.png").write_bytes(b"")
    settings = {"accumulate": 2, "adversarial_start": 1, "revive_after": 2, "log_every": 3, "batch_size": 12}
    arguments = (folder, tmp_path / "out", {"val": images})
    moments = count_syncs(train_tiny_vqgan, folder, tmp_path / "wanted", {"val": images}, **settings)
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    kills = [kill_at(chance.randint(1, moments // 2), train_tiny_vqgan, *arguments, **settings) for _ in "ab"]
    assert any(kills)
    train_tiny_vqgan(*arguments, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "wanted"), f"seed {seed}"


def test_killed_at_random_moments_it_ends_in_the_same_bytes(trained, images, tmp_path):
    wanted, moments = trained
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    arguments, settings = (images, tmp_path / "out"), {"preview_every": 3}
    kills = sum(
        kill_at(chance.randint(1, moments // 2), train_tiny_vqgan, *arguments, **settings) for _ in range(3)
    )
    assert kills > 0
    train_tiny_vqgan(*arguments, **settings)
    assert contents(tmp_path / "out") == contents(wanted), f"seed {seed}"


def test_a_line_of_the_log_covers_steps_before_a_resume(images, tmp_path, monkeypatch):
    uneven = {"checkpoint_every": 2, "log_every": 4}
    wanted = train_tiny_vqgan(images, tmp_path / "wanted", **uneven)
    with monkeypatch.context() as patch:
        whole_step = vqgan_training.train_step

        def stop_at_four(pixels, step, *rest):
            if step == 4:
                raise KeyboardInterrupt
            return whole_step(pixels, step, *rest)

        patch.setattr(vqgan_training, "train_step", stop_at_four)
        with pytest.raises(KeyboardInterrupt):
            train_tiny_vqgan(images, tmp_path / "out", **uneven)
    resumed = train_tiny_vqgan(images, tmp_path / "out", **uneven)
    assert [line["step"] for line in metrics(resumed)] == [4, 6]
    assert contents(resumed) == contents(wanted)


def test_ctrl_c_waits_for_the_step_and_a_checkpoint(trained, images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        ctrl_c_at(patch, vqgan_training, 3, 1)
        with pytest.raises(KeyboardInterrupt):
            train_tiny_vqgan(images, tmp_path / "out", preview_every=3)
    assert load_checkpoint(tmp_path / "out").step == 3
    assert contents(train_tiny_vqgan(images, tmp_path / "out", preview_every=3)) == contents(trained[0])


def test_workers_survive_a_signal_to_all_processes(trained, images, tmp_path, monkeypatch):
    """The death of a worker would abort the step."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    whole_step = vqgan_training.train_step

    def signaled(pixels, step, *rest):
        if step == 3:
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            for process in [*(worker.pid for worker in workers), os.getpid()]:
                for number in (signal.SIGTERM, signal.SIGHUP)[: 1 if process == os.getpid() else 2]:
                    os.kill(process, number)
            time.sleep(0.5)
        return whole_step(pixels, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(vqgan_training, "train_step", signaled)
        with pytest.raises(KeyboardInterrupt):
            train_tiny_vqgan(images, tmp_path / "out", {"workers": 2}, preview_every=3)
    assert load_checkpoint(tmp_path / "out").step == 3
    assert contents(train_tiny_vqgan(images, tmp_path / "out", preview_every=3)) == contents(trained[0])


def test_an_unfinished_one_is_not_taken_for_a_tokenizer(images, tmp_path, trained):
    kill_at(trained[1] - 2, train_tiny_vqgan, images, tmp_path / "out", preview_every=3)
    with pytest.raises(MaskGITError, match="maskgit train-vqgan"):
        load_tokenizer(tmp_path / "out")


def test_a_finished_tokenizer_is_not_changed(trained, images, tmp_path, monkeypatch):
    copy = shutil.copytree(trained[0], tmp_path / "out")
    monkeypatch.setattr(vqgan_training, "_build", lambda *_: pytest.fail("built a network"))
    assert train_tiny_vqgan(images, copy, preview_every=3) == copy
    assert contents(copy) == contents(trained[0])


@pytest.fixture(scope="module")
def in_one_and_two(images, tmp_path_factory):
    """The same training in one process and in two, from the first step on: revival, accumulation, all losses.

    An image cannot be read, so the processes have different numbers of images.
    """
    folder = shutil.copytree(images, tmp_path_factory.mktemp("images") / "images")
    (folder / "cat" / "0.png").write_bytes(b"")
    out = tmp_path_factory.mktemp("processes")
    settings = {"steps": 4, "accumulate": 2, "adversarial_start": 1, "revive_after": 2, "batch_size": 12}
    settings |= {"checkpoint_every": 1, "keep": 9, "val_features": "vqgan"}
    arguments = {"val": images}
    train_tiny_vqgan(folder, out / "one", arguments, **settings)
    in_processes(2, train_tiny_vqgan, folder, out / "two", arguments, **settings)
    return out / "one", out / "two"


def test_two_processes_train_as_one(in_one_and_two):
    """To rounding: sums are taken in another order, and Adam's first steps have the sign of a gradient."""
    one, two = in_one_and_two
    for step in (1, 2, 3, 4):
        found, wanted = (
            load_file(out / "checkpoints" / f"step-{step:08d}" / "model.safetensors") for out in (two, one)
        )
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, wanted[name], atol=1e-4, rtol=0)


def test_two_processes_log_the_same(in_one_and_two):
    one, two = map(metrics, in_one_and_two)
    assert [line["step"] for line in two] == [line["step"] for line in one]
    for line, wanted in zip(two, one, strict=True):
        assert line.keys() == wanted.keys()
        exact = line["step"] <= 2
        for name, value in wanted.items():
            close = {"rel": 1e-5, "abs": 2e-6} if exact else {"rel": 2e-2, "abs": 1e-3}
            assert line[name] == pytest.approx(value, **close), (line["step"], name)


def test_processes_share_the_held_out_images(images, tokenizer, tmp_path):
    """The values are those of one process, and every process measures its part only."""
    source, network = open_source(images), load_tokenizer(tokenizer).network
    wanted = reconstruction_quality(network, source, 4, None, load_features("vqgan", torch.device("cpu")))
    in_processes(2, measure_a_share, images, tokenizer, tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [images for _, images in found] == [6, 6]
    for values, _ in found:
        assert values.keys() == wanted.keys()
        assert all(values[name] == pytest.approx(wanted[name], abs=1e-9) for name in wanted)


def measure_a_share(images, tokenizer, out):
    """``reconstruction_quality`` in one of several processes: its values, and the images that it encoded."""
    network, encoded = load_tokenizer(tokenizer).network, []
    encode = network.encode
    network.encode = lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    features = load_features("vqgan", torch.device("cpu"))
    values = reconstruction_quality(network, open_source(images), 4, None, features)
    (out / f"{world().rank}.json").write_text(json.dumps([values, sum(encoded)]))


# --- refusals and warnings --------------------------------------------------------------------------


def test_other_settings_are_named(trained, images, tmp_path):
    copy = shutil.copytree(trained[0], tmp_path / "out")
    with pytest.raises(OutputError, match=r"--lr 0\.001, not 0\.002"):
        train_tiny_vqgan(images, copy, lr=2e-3)
    fewer = shutil.copytree(images, tmp_path / "images")
    (fewer / "cat" / "0.png").unlink()
    with pytest.raises(OutputError, match=r"images [0-9a-f]{12}, not"):
        train_tiny_vqgan(fewer, copy, preview_every=3)


def test_an_unreadable_image_is_left_out_and_named_once(images, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    (folder / "cat" / "0.png").write_bytes(b"")
    listener = Listener()
    train_tiny_vqgan(folder, tmp_path / "out", {"reporter": listener}, batch_size=12, steps=3)
    assert len(listener.warnings) == 1
    assert str(folder / "cat" / "0.png") in listener.warnings[0]


def test_a_folder_without_a_readable_image_is_an_error(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.png"):
        train_tiny_vqgan(tmp_path / "images", tmp_path / "out")


# --- the perceptual distance ------------------------------------------------------------------------


@pytest.fixture
def available(monkeypatch):
    """Networks of perceptual distances by name, none of them available; they give squared differences."""

    def absent(name):
        def load(device, reporter, download):
            raise WeightsError(f"no weights of {name}")

        return load

    def present(device, reporter, download):
        return lambda images, others: (images - others).pow(2).mean((1, 2, 3))

    def switch(*names):
        for name in perceptual.NETWORKS:
            load = present if name in names else absent(name)
            monkeypatch.setitem(perceptual.NETWORKS, name, perceptual._Network(load, 16))

    switch()
    return switch


WITH = {"perceptual_weight": 1.0, "steps": 2}


def unfinished(out):
    (out / "model.safetensors").unlink()
    return out


def settings_of(out):
    record = json.loads((out / "config.json").read_text())
    return {key: record["settings"][key] for key in ("perceptual", "perceptual_weight")}, record["derived"]


def test_without_a_perceptual_distance_there_is_a_warning(images, tmp_path, available):
    listener = Listener()
    out = train_tiny_vqgan(images, tmp_path / "out", {"reporter": listener}, **WITH)
    assert len(listener.warnings) == 1
    assert "no weights of lpips" in listener.warnings[0]
    assert "no weights of st-lpips" in listener.warnings[0]
    assert load_tokenizer(out)
    settings, derived = settings_of(out)
    assert settings == {"perceptual": "none", "perceptual_weight": 0}
    assert "perceptual" in derived


def test_a_training_without_it_is_not_resumed_with_it(images, tmp_path, available):
    out = unfinished(train_tiny_vqgan(images, tmp_path / "out", steps=2))
    available("lpips")
    with pytest.raises(OutputError, match=r"--perceptual-weight 0\.0, not 1\.0"):
        train_tiny_vqgan(images, out, **WITH)


@pytest.mark.parametrize(("name", "key"), [("lpips", "lpips"), ("st-lpips", "st_lpips")])
def test_the_distance_is_used_and_logged_by_its_name(images, tmp_path, available, name, key):
    without = train_tiny_vqgan(images, tmp_path / "without", steps=2)
    assert not {"lpips", "st_lpips"} & metrics(without)[0].keys()
    available(name)
    with_it = train_tiny_vqgan(images, tmp_path / "with", {"val": images}, **WITH)
    assert settings_of(with_it)[0] == {"perceptual": name, "perceptual_weight": 1.0}
    lines = metrics(with_it)
    assert {"lpips", "st_lpips"} & lines[0].keys() == {key}
    assert {"val_lpips", "val_st_lpips"} & lines[-1].keys() == {f"val_{key}"}
    weight = "decoder.conv_out.weight"
    assert not torch.equal(weights(with_it)["model"][weight], weights(without)["model"][weight])


def test_lpips_is_preferred(images, tmp_path, available):
    available("lpips", "st-lpips")
    out = train_tiny_vqgan(images, tmp_path / "out", **WITH)
    assert settings_of(out)[0]["perceptual"] == "lpips"


def test_a_resumed_training_keeps_its_distance(images, tmp_path, available):
    available("st-lpips")
    out = unfinished(train_tiny_vqgan(images, tmp_path / "out", **WITH))
    wanted = contents(out)
    available("lpips", "st-lpips")
    train_tiny_vqgan(images, out, **WITH)
    (out / "model.safetensors").unlink()
    train_tiny_vqgan(images, out, **WITH, perceptual="st-lpips")
    assert {key: value for key, value in contents(unfinished(out)).items() if key != "config.json"} == {
        key: value for key, value in wanted.items() if key != "config.json"
    }
    for other in ("lpips", "none"):
        with pytest.raises(OutputError, match=f"--perceptual st-lpips, not {other}|--perceptual-weight"):
            train_tiny_vqgan(images, out, **WITH, perceptual=other)


def test_a_resumed_training_needs_its_distance(images, tmp_path, available):
    available("st-lpips")
    out = unfinished(train_tiny_vqgan(images, tmp_path / "out", **WITH))
    available("lpips")
    with pytest.raises(WeightsError, match="no weights of st-lpips"):
        train_tiny_vqgan(images, out, **WITH)


def test_records_older_than_the_setting_are_continued(images, tmp_path, available):
    available("lpips")
    out = unfinished(train_tiny_vqgan(images, tmp_path / "out", **WITH))
    record = json.loads((out / "config.json").read_text())
    for newer in ("perceptual", "accumulate", "attention"):
        del record["settings"][newer]
    record["derived"].remove("perceptual")
    (out / "config.json").write_text(json.dumps(record))
    rewrite_record(out / "config.json")
    available("st-lpips")
    with pytest.raises(WeightsError, match="no weights of lpips"):
        train_tiny_vqgan(images, out, **WITH)
    available("lpips", "st-lpips")
    train_tiny_vqgan(images, out, **WITH)
    assert settings_of(out)[0]["perceptual"] == "lpips"


def test_a_distance_without_a_weight_is_only_measured(images, tmp_path, available):
    available("st-lpips")
    without = train_tiny_vqgan(images, tmp_path / "without", steps=2)
    out = train_tiny_vqgan(images, tmp_path / "out", {"val": images}, steps=2, perceptual="st-lpips")
    assert contents(out / "checkpoints") == contents(without / "checkpoints")
    assert "st_lpips" not in metrics(out)[0]
    assert metrics(out)[-1]["val_st_lpips"] > 0


def test_images_too_small_for_the_distance(images, tmp_path):
    with pytest.raises(ConfigError, match="--perceptual st-lpips: images of 16 px"):
        train_tiny_vqgan(images, tmp_path / "out", steps=1, perceptual="st-lpips")


def test_features_of_validation_need_images(images, tmp_path):
    with pytest.raises(ConfigError, match="--val-features vqgan"):
        train_tiny_vqgan(images, tmp_path / "out", steps=1, val_features="vqgan")
    out = train_tiny_vqgan(images, tmp_path / "out", {"val": images}, steps=2, val_features="vqgan")
    assert metrics(out)[-1]["val_frechet_vqgan"] > 0


def test_a_diverged_run_stops_before_its_checkpoint(trained, images, tmp_path, monkeypatch):
    loss, calls = torch.nn.functional.l1_loss, []

    def spoiled(*arguments):
        calls.append(1)
        return loss(*arguments) * (math.nan if len(calls) == 4 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "l1_loss", spoiled)
        with pytest.raises(MaskGITError, match=r"step 4.*not finite.*--lr"):
            train_tiny_vqgan(images, tmp_path / "out", preview_every=3)
    assert load_checkpoint(tmp_path / "out").step == 2
    assert len(metrics(tmp_path / "out")) == 3
    train_tiny_vqgan(images, tmp_path / "out", preview_every=3)
    assert contents(tmp_path / "out") == contents(trained[0])


# --- the command ------------------------------------------------------------------------------------


def test_the_command_prints_the_tokenizer(maskgit, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TOKENIZER_SIZES, "tiny", VQGAN_SIZES)
    arguments = ["--size", "tiny", "--steps", 1, "--batch-size", 4, "--perceptual-weight", 0, "--workers", 0]
    done = maskgit("train-vqgan", images, *arguments, "--device", "cpu")
    assert (done.status, done.stdout) == (0, f"tokenizers/{images.name}\n"), done.stderr
    again = maskgit("train-vqgan", images, *arguments, "--device", "cpu", "--json")
    assert json.loads(again.stdout) == {"path": f"tokenizers/{images.name}"}
    assert "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--batch-size", "0"], "--batch-size 0: must be"),
        (["--steps", "-1"], "--steps -1: must be"),
        (["--res", "30"], "--res 30: must be a multiple of 8"),
        (["--codebook-size", "70000"], "--codebook-size 70000: must be between 2 and 65535"),
    ],
)
def test_bad_input_is_one_line(maskgit, images, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    done = maskgit("train-vqgan", images, *arguments)
    assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert line in done.stderr
    assert not (tmp_path / "tokenizers").exists()


def test_a_missing_folder_is_one_line(maskgit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = maskgit("train-vqgan", "nowhere")
    assert (done.status, done.stderr.count("\n")) == (1, 1)
    assert "nowhere" in done.stderr


def test_settings_that_contradict_one_another(images, tmp_path):
    with pytest.raises(ConfigError, match=r"--res 18: .*multiple of 4"):
        train_tiny_vqgan(images, tmp_path / "out", res=18)
