"""``train-vqgan --init-from``: a tokenizer's training that starts from the weights of another."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from published import FAMILIES
from tiny_models import VQGAN_SIZES, make_model, make_tokenizer
from tiny_training import contents, count_syncs, kill_at, metrics, train_tiny_vqgan

from maskgit_cli.config.networks import TOKENIZER_SIZES
from maskgit_cli.config.training import VQGANTrainConfig
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, OutputError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.models import builtin_tokenizer
from maskgit_cli.formats.runs import load_checkpoint
from maskgit_cli.networks.llamagen import SphereCodebook
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.training.init_tokenizer import initial_tokenizer, other_attention, size_name
from maskgit_cli.weights.importing import import_weights

SIZES_ARE_ITS_OWN = {"size": None}


def record_of(path):
    return json.loads((path / "config.json").read_text())


def train_from(images, out, source, **settings):
    return train_tiny_vqgan(images, out, {"init_from": source}, **SIZES_ARE_ITS_OWN | settings)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A tokenizer whose codebook has a training behind it."""
    settings = {"steps": 30, "lr": 4e-3, "adversarial_weight": 0.0, "checkpoint_every": 30, "flip": False}
    return train_tiny_vqgan(images, tmp_path_factory.mktemp("trained") / "t", **settings)


# --- weights and record -----------------------------------------------------------------------------


def test_weights_and_their_ema_are_the_tokenizers(images, trained, tmp_path):
    """With a learning rate of almost nothing they stay what they were, the codebook included."""
    out = train_from(images, tmp_path / "out", trained, steps=2, lr=1e-12)
    wanted = load_tokenizer(trained).network.state_dict()
    for kind in ("model", "ema"):
        found = load_checkpoint(out).tensors[kind]
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-7, rtol=0)
    scratch = train_tiny_vqgan(images, tmp_path / "scratch", steps=2, lr=1e-12)
    assert metrics(out)[0]["l1"] < 0.8 * metrics(scratch)[0]["l1"]


def test_the_record_has_sizes_digest_and_parents(images, trained, tmp_path):
    out = train_from(images, tmp_path / "out", trained, steps=1)
    record, source = record_of(out), record_of(trained)
    assert record["vqgan"] == VQGAN_SIZES.to_json() == source["vqgan"]
    sha256 = sha256_file(trained / "model.safetensors")
    assert record["settings"]["init_from"] == sha256
    found = [(parent["kind"], parent["name"]) for parent in record["parents"]]
    assert found == [("images", images.name), ("tokenizer", trained.name), ("images", images.name)]
    assert record["parents"][1]["sha256"] == sha256
    assert load_tokenizer(out).config == VQGAN_SIZES


def test_the_builtin_tokenizer_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    initial = initial_tokenizer(VQGANTrainConfig(), Path("builtin"), tmp_path / "out")
    assert initial.config == TOKENIZER_SIZES["local"]
    assert initial.sha256 == sha256_file(builtin_tokenizer() / "model.safetensors")
    assert {tensor.dtype for tensor in initial.tensors.values()} == {torch.float32}
    assert initial_tokenizer(VQGANTrainConfig(size="local"), Path("builtin"), tmp_path).tensors


def test_a_model_stands_for_its_tokenizer(images, tmp_path):
    model = make_model(tmp_path / "model")
    out = train_from(images, tmp_path / "out", model, steps=1)
    assert record_of(out)["settings"]["init_from"] == sha256_file(model / "tokenizer" / "model.safetensors")


def test_dead_codes_are_still_revived(images, tmp_path):
    """The tokenizer's codes lie far from what its encoder gives, so that most are never used."""
    source = make_tokenizer(tmp_path / "source")
    settings = {"steps": 9, "revive_after": 4, "adversarial_weight": 0.0}
    last_used = load_checkpoint(train_from(images, tmp_path / "out", source, **settings)).tensors["codebook"]
    assert last_used["last_used"].min() >= 4


def test_killed_at_random_moments_it_ends_in_the_same_bytes(images, trained, tmp_path):
    extra, wanted = {"init_from": trained}, tmp_path / "wanted"
    moments = count_syncs(train_tiny_vqgan, images, wanted, extra, **SIZES_ARE_ITS_OWN)
    seed = random.randrange(10**6)
    chance, out = random.Random(seed), tmp_path / "out"
    kills = [
        kill_at(chance.randint(1, moments // 2), train_tiny_vqgan, images, out, extra, **SIZES_ARE_ITS_OWN)
        for _ in range(2)
    ]
    assert any(kills)
    train_tiny_vqgan(images, out, extra, **SIZES_ARE_ITS_OWN)
    assert contents(out) == contents(wanted), f"seed {seed}"


# --- other networks ---------------------------------------------------------------------------------


def imported(name, path):
    family = FAMILIES[name]
    import_weights([family.transformer], path, tokenizer=family.tokenizer, heads=family.heads)
    return path / "tokenizer"


def test_llamagens_tokenizer_is_trained_as_what_it_is(images, tmp_path):
    source = imported("halton", tmp_path / "halton")
    settings = {"res": None, "steps": 2, "batch_size": 4, "adversarial_start": 0}
    out = train_from(images, tmp_path / "out", source, **settings)
    assert record_of(out)["network"] == "llamagen"
    assert record_of(out)["llamagen"] == record_of(source)["llamagen"]
    assert record_of(out)["settings"]["size"] is None
    assert type(load_tokenizer(out).network) is type(load_tokenizer(source).network)


def test_latents_on_the_sphere_are_compared_with_vectors_on_the_sphere():
    torch.manual_seed(0)
    codebook, z = SphereCodebook(16, 4), torch.randn(2, 4, 3, 3)
    found, scaled = codebook(z), codebook(7 * z)
    torch.testing.assert_close(scaled.z, found.z)
    torch.testing.assert_close(found.latents.norm(dim=1), torch.ones(2, 3, 3))
    distance = (found.latents - codebook.lookup(found.indices)).pow(2).mean()
    torch.testing.assert_close(found.commitment_loss, distance)


def test_googles_tokenizer_cannot_be_trained(images, tmp_path):
    source = imported("google", tmp_path / "google")
    with pytest.raises(ConfigError, match="google_vqgan cannot be trained, only vqgan, llamagen"):
        train_from(images, tmp_path / "out", source, res=None)
    assert not (tmp_path / "out").exists()


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--size", "f16"], "--size f16: must be that of the tokenizer at builtin, local; leave it out"),
        (["--res", "128"], "--res 128: must be that of the tokenizer at builtin, 64; leave it out"),
        (["--codebook-size", "64"], "--codebook-size 64: must be that of the tokenizer at builtin, 512"),
        (["--init-from", "nowhere"], "no tokenizer at nowhere"),
    ],
)
def test_an_option_that_contradicts_it_is_named(maskgit, images, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    done = maskgit("train-vqgan", images, "--init-from", "builtin", *words)
    assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert line in done.stderr
    assert not (tmp_path / "tokenizers").exists()


def test_a_size_without_a_name_is_left_out(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"--size small: .*a size without a name"):
        initial_tokenizer(VQGANTrainConfig(size="small"), trained, tmp_path / "out")


def test_a_named_size_with_another_codebook_keeps_its_name():
    for name, sizes in TOKENIZER_SIZES.items():
        changed = dataclasses.replace(sizes, codebook_size=99, resolution=4 * sizes.resolution)
        assert size_name(changed) == name
        assert other_attention(changed) is None
    assert size_name(VQGAN_SIZES) is None


def test_a_named_size_with_attention_elsewhere_keeps_its_name(images, tmp_path):
    """Its record has both, so that the same command resumes it, and another one names the option."""
    settings = {"size": "small", "res": 16, "steps": 1, "adversarial_weight": 0.0}
    out = train_tiny_vqgan(images, tmp_path / "out", **settings, attention="none")
    record = record_of(out)
    assert (record["settings"]["size"], record["settings"]["attention"]) == ("small", "none")
    assert record["vqgan"]["attention_resolutions"] == []
    assert record["vqgan"]["middle_attention"] is False
    assert not any("attn" in name for name in load_tokenizer(out).network.state_dict())
    before = contents(out)
    assert contents(train_tiny_vqgan(images, out, **settings, attention="none")) == before
    with pytest.raises(OutputError, match="--attention none, not middle"):
        train_tiny_vqgan(images, out, **settings, attention="middle")
    own = train_tiny_vqgan(images, tmp_path / "own", steps=1, attention="middle")
    assert record_of(own)["settings"]["attention"] is None  # that of the size


def test_attention_is_that_of_the_tokenizer(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"--attention none: .*, middle; leave it out"):
        initial_tokenizer(VQGANTrainConfig(attention="none"), trained, tmp_path / "out")
    assert initial_tokenizer(VQGANTrainConfig(attention="middle"), trained, tmp_path / "out").tensors


def test_the_output_is_not_where_the_weights_are(images, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "t")
    for extra in ({}, {"overwrite": True}):
        with pytest.raises(ConfigError, match=r"--init-from .*--out"):
            train_tiny_vqgan(images, copy, {"init_from": copy, **extra}, **SIZES_ARE_ITS_OWN)
    assert contents(copy) == contents(trained)


def test_it_is_not_resumed_with_other_weights(images, trained, tmp_path):
    out = train_from(images, tmp_path / "out", trained, steps=1)
    other = make_tokenizer(tmp_path / "other")
    with pytest.raises(OutputError, match=r"--init-from [0-9a-f]{12}, not [0-9a-f]{12}"):
        train_from(images, out, other, steps=1)
    with pytest.raises(OutputError, match=r"--init-from [0-9a-f]{12}, not none"):
        train_tiny_vqgan(images, out, steps=1)


def test_an_unfinished_tokenizer_is_refused(images, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "t")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="maskgit train-vqgan"):
        train_from(images, tmp_path / "out", copy)
    with pytest.raises(InputError, match="nothing"):
        train_from(images, tmp_path / "out", tmp_path / "nothing")
