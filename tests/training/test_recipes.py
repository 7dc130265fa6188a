"""Recipes, networks from scratch, and the options of ``train`` that choose them."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from resigned import sign_record
from tiny_models import NAMES
from tiny_training import metrics, write_tokens

from maskgit_cli.cli.cmd_train import command
from maskgit_cli.config.networks import HALTON_SIZES, SIZES, TRANSFORMERS, HaltonSize, Size
from maskgit_cli.config.recipes import FROM_STEPS, NEWER, RECIPES, derived_settings, resolve_recipe
from maskgit_cli.config.training import TrainConfig
from maskgit_cli.errors import ConfigError, OutputError
from maskgit_cli.networks.loading import load_model
from maskgit_cli.training.init_from import InitialWeights
from maskgit_cli.training.transformer import FREE, train

FEW = {"steps": 2, "batch_size": 4, "preview_every": 1, "checkpoint_every": 1, "log_every": 1}


@pytest.fixture
def tiny_sizes(monkeypatch):
    """Every network's base size, and maskgit's small one, with some thousand weights."""
    size = Size(32, 1, 4, 64)
    for name in ("base", "small"):
        monkeypatch.setitem(SIZES, name, size)
    monkeypatch.setitem(HALTON_SIZES, "base", HaltonSize(32, 1, 4, 64, 8))
    monkeypatch.setitem(TRANSFORMERS["google"].sizes, "base", size)


def record_of(run):
    return json.loads((run / "config.json").read_text())


# --- the table --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("images", [1, 7, 300, 20_000, 1_281_167])
def test_a_recipe_gives_settings_for_any_number_of_images(name, images):
    config = resolve_recipe(name, images, {})
    assert config.recipe == name
    assert config.network is None or config.network in TRANSFORMERS
    assert config.size is None or config.size in TRANSFORMERS[config.network or "maskgit"].sizes


def test_the_paper_is_the_defaults():
    assert resolve_recipe("paper", 5, {}) == TrainConfig()


def test_haltons_and_googles_numbers():
    halton, google = (RECIPES[name](10**6) for name in ("halton", "google"))
    assert (halton.loss_on, halton.mask_schedule, halton.lr) == ("masked", "arccos", 1e-4)
    assert (halton.beta1, halton.beta2, halton.weight_decay) == (0.9, 0.999, 0.03)
    assert (google.loss_on, google.mask_schedule, google.label_smoothing) == ("masked", "cosine", 0.1)
    assert (google.beta1, google.beta2, google.weight_decay) == (0.9, 0.96, 0.045)
    assert google.drop_label == 0
    assert (google.mask_count, google.weight_decay_on, google.lr_floor) == ("exact", "matrices", 1)
    assert (halton.mask_count, halton.weight_decay_on) == ("bernoulli", "matrices")
    assert (halton.lr_schedule, halton.lr_floor, halton.decay_start) == ("cosine", 0.01, 0.9)
    assert TrainConfig().weight_decay_on == "all"


def test_small_depends_on_the_number_of_images():
    few, many = RECIPES["small"](20), RECIPES["small"](5_000)
    assert (few.batch_size, few.steps) == (16, 20 * 1000 // 16)
    assert (many.batch_size, many.steps) == (32, 250_000 // 32)
    for config in (few, many, RECIPES["small"](1)):
        assert config.warmup < config.steps / 10
        assert 1 / (1 - config.ema) == pytest.approx(config.steps / 8, rel=0.01)
        assert config.steps // config.checkpoint_every in (10, 11)


def test_small_follows_the_steps_and_the_batch_that_are_given():
    """The rule: 1,000 epochs up to 250,000 images; 2 % of the steps are warmup, and 1 - EMA is 8 / steps."""
    for images, changes, steps in (
        (3068, {}, 250_000 // 32),
        (3068, {"batch_size": 64}, 250_000 // 64),
        (40, {"batch_size": 64}, 40_000 // 64),
        (3068, {"steps": 500}, 500),
        (3068, {"epochs": 10}, math.ceil(10 * 3068 / 32)),
        (3068, {"epochs": 10, "batch_size": 16}, math.ceil(10 * 3068 / 16)),
    ):
        config = resolve_recipe("small", images, changes)
        found = config.steps or math.ceil(config.epochs * images / config.batch_size)
        assert found == steps, changes
        assert config.warmup == steps // 50
        half_life = math.log(0.5) / math.log(config.ema)
        assert half_life == pytest.approx(0.087 * steps, rel=0.02), changes
    assert derived_settings("small", {"ema": 0.9}) == ["warmup", "weight_decay_on"]
    assert derived_settings("paper", {}) == []


def test_what_small_derives_from_the_steps_is_listed():
    """Whatever else changes with the steps could not keep its value when a run is extended."""
    short, long = (dataclasses.asdict(resolve_recipe("small", 3068, {"steps": n})) for n in (500, 1000))
    changed = {key for key in short if short[key] != long[key]}
    assert changed - {"steps"} - FREE == set(FROM_STEPS["small"])


def test_explicit_settings_override_the_recipe():
    config = resolve_recipe("google", 100, {"lr": 3e-4, "network": "maskgit", "loss_on": "all"})
    assert (config.lr, config.network, config.loss_on, config.beta2) == (3e-4, "maskgit", "all", 0.96)
    assert resolve_recipe("small", 100, {"epochs": 3}).steps is None
    assert resolve_recipe("small", 100, {"epochs": 3, "steps": 9}).steps == 9
    # Even where the explicit value is the default of another recipe.
    assert resolve_recipe("small", 100, {"lr": TrainConfig().lr}).lr == 1e-4


def test_a_models_network_and_size_replace_the_recipes():
    config = resolve_recipe("halton", 100, {}, from_model=True)
    assert (config.network, config.size) == (None, None)
    assert resolve_recipe("small", 100, {"size": "tiny"}, from_model=True).size == "tiny"


def test_an_unknown_recipe_is_an_error():
    with pytest.raises(ConfigError, match=r"--recipe fast: .*paper, halton, google, small"):
        resolve_recipe("fast", 100, {})


# --- the stage --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny_sizes")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_is_recorded(name, tokens, tmp_path):
    run = train(tokens, tmp_path / "run", FEW, recipe=name, device="cpu")
    record = record_of(run)
    wanted = resolve_recipe(name, 24, FEW)
    network = wanted.network or "maskgit"
    assert record["network"] == network
    assert TRANSFORMERS[network].key in record
    settings = record["settings"]
    assert settings["recipe"] == name
    for key in (
        "lr",
        "beta2",
        "weight_decay",
        "mask_schedule",
        "loss_on",
        "label_smoothing",
        "warmup",
        "ema",
    ):
        assert settings[key] == getattr(wanted, key)
    assert settings["drop_label"] == (0.0 if network == "google" else 0.1)
    assert "network" not in settings
    model = load_model(run)
    assert model.entry.name == network
    assert model.step == 2
    assert np.isfinite(metrics(run)[-1]["loss"])
    assert (run / "previews" / "step-00000002.png").exists()


@pytest.mark.usefixtures("tiny_sizes")
def test_the_recipe_is_only_a_name_when_resuming(tokens, tmp_path):
    """The settings decide: a record without the name, as older versions wrote, is resumed."""
    run = train(tokens, tmp_path / "run", FEW, device="cpu")
    record = record_of(run)
    del record["settings"]["recipe"]
    sign_record(run / "config.json", record)
    train(tokens, run, FEW | {"steps": 3}, device="cpu")
    assert load_model(run).step == 3
    assert record_of(run)["settings"]["recipe"] == "paper"


NEWER_SETTINGS = ("init", "weight_decay_on", "decay_start", "lr_schedule", "mask_count", "mask_min")


def as_older_versions_wrote(run, name):
    """Rewrite the record of a run that was trained with the earlier values of a recipe."""
    record = record_of(run)
    for key in NEWER_SETTINGS:
        del record["settings"][key]
    record["settings"]["recipe"] = name
    record["derived"] = [key for key in record["derived"] if key not in NEWER[name]] if name in NEWER else []
    sign_record(run / "config.json", record)


@pytest.mark.usefixtures("tiny_sizes")
@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_is_older_than_settings_keeps_its_values(name, tokens, tmp_path):
    """The same command extends it as it was started: all weights decay, masks are independent."""
    earlier = {"weight_decay_on": "all", "mask_count": "bernoulli"}
    earlier |= {"lr_floor": 1.0} if name == "halton" else {}
    run = train(tokens, tmp_path / "run", FEW | earlier, recipe=name, device="cpu")
    whole = train(tokens, tmp_path / "whole", FEW | earlier | {"steps": 3}, recipe=name, device="cpu")
    as_older_versions_wrote(run, name)
    train(tokens, run, FEW | {"steps": 3}, recipe=name, device="cpu")
    settings = record_of(run)["settings"]
    assert settings["weight_decay_on"] == "all"
    assert (settings["mask_count"], settings["mask_min"], settings["decay_start"]) == ("bernoulli", 0.0, 0.0)
    assert settings["lr_floor"] == (0.05 if name == "small" else 1.0)
    assert settings["init"] == TRANSFORMERS[record_of(run)["network"]].inits[0]
    if name != "small":  # whose warmup follows from the steps
        for file in (whole / "checkpoints" / "step-00000003").iterdir():
            assert (run / "checkpoints" / "step-00000003" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(OutputError, match="--weight-decay-on all, not matrices"):
        train(tokens, run, FEW | {"steps": 4, "weight_decay_on": "matrices"}, recipe=name, device="cpu")


# --- initial weights --------------------------------------------------------------------------------


def built(name, init, seed=0):
    entry = TRANSFORMERS[name]
    sizes = {"width": 96, "depth": 2, "heads": 4, "mlp_width": 384}
    sizes |= {"head_width": 24} if name == "halton" else {}
    torch.manual_seed(seed)
    config = entry.config(**sizes, codebook_size=1000, classes=20, grid=8)
    return InitialWeights(entry, config, init=init).build()


def test_published_weights_are_those_of_torchs_layers():
    """Standard deviations and ranges of PyTorch's documentation, for D inputs and as many outputs."""
    weights, d, hidden = built("maskgit", "published").state_dict(), 96, 384
    assert float(weights["embedding.weight"].std()) == pytest.approx(1, rel=0.01)
    assert float(weights["embedding.weight"].abs().max()) > 3.5, "not truncated"
    assert float(weights["positions"].std()) == pytest.approx(0.02, rel=0.05)
    for name, bound in (
        ("blocks.1.qkv.weight", (6 / (d + 3 * d)) ** 0.5),
        ("blocks.1.out.weight", d**-0.5),
        ("blocks.1.mlp.0.weight", d**-0.5),
        ("blocks.1.mlp.3.weight", hidden**-0.5),
        ("blocks.1.mlp.3.bias", hidden**-0.5),
        ("input_mlp.2.weight", d**-0.5),
        ("output_mlp.2.bias", d**-0.5),
    ):
        largest, std = float(weights[name].abs().max()), float(weights[name].std())
        assert 0.9 * bound < largest <= bound, name
        assert std == pytest.approx(bound / 3**0.5, rel=0.15), name
    for name in ("blocks.0.qkv.bias", "blocks.0.out.bias", "bias", "blocks.0.mlp_norm.bias"):
        assert not weights[name].any(), name
    assert weights["blocks.0.mlp_norm.weight"].eq(1).all()


def test_published_weights_begin_at_a_high_loss():
    """Logits have a deviation of about √D, where truncated ones are near those of a uniform guess."""
    tokens = torch.randint(0, 1001, (8, 8, 8), generator=torch.Generator().manual_seed(1))
    losses = {}
    for init in ("truncated", "published"):
        logits = built("maskgit", init).eval()(tokens, torch.arange(8)).flatten(0, 1)
        losses[init] = float(F.cross_entropy(logits, tokens.flatten()).detach())
    assert losses["truncated"] == pytest.approx(math.log(1001), rel=0.03)
    assert losses["published"] > 2 * losses["truncated"]


@pytest.mark.parametrize("name", ["halton", "google"])
def test_other_networks_have_their_published_weights_only(name, tokens, tmp_path):
    for default, named in zip(
        built(name, None).parameters(), built(name, "published").parameters(), strict=True
    ):
        assert torch.equal(default, named)
    with pytest.raises(ConfigError, match=f"--init truncated: .*--network {name}"):
        train(tokens, tmp_path / "run", {"network": name, "init": "truncated"}, device="cpu")


@pytest.mark.usefixtures("tiny_sizes")
def test_initial_weights_are_a_setting_of_the_run(run, tokens, tmp_path):
    other = train(tokens, tmp_path / "other", FEW | {"init": "published"}, device="cpu")
    assert record_of(other)["settings"]["init"] == "published"
    with pytest.raises(OutputError, match="--init published, not truncated"):
        train(tokens, other, FEW | {"steps": 3}, device="cpu")
    with pytest.raises(ConfigError, match=r"--init published: .*--init-from"):
        train(tokens, tmp_path / "next", FEW | {"init": "published"}, init_from=run, device="cpu")
    tuned = train(tokens, tmp_path / "tuned", FEW, init_from=run, device="cpu")
    assert record_of(tuned)["settings"]["init"] is None


def test_a_shape_of_a_decay_without_one_is_refused(tokens, tmp_path):
    for changes in ({"decay_start": 0.5}, {"lr_schedule": "linear"}):
        option = "--" + next(iter(changes)).replace("_", "-")
        with pytest.raises(ConfigError, match=f"{option} .*--lr-floor"):
            train(tokens, tmp_path / "run", changes, device="cpu")
    assert resolve_recipe("halton", 100, {"lr_floor": 1.0}).decay_start == 0


@pytest.mark.usefixtures("tiny_sizes")
def test_settings_as_a_whole_replace_the_recipe(tokens, tmp_path):
    config = TrainConfig(**FEW, network="halton", lr=5e-4)
    run = train(tokens, tmp_path / "run", config, recipe="google", device="cpu")
    assert record_of(run)["network"] == "halton"
    assert record_of(run)["settings"]["lr"] == 5e-4
    assert record_of(run)["settings"]["recipe"] == "paper"


def test_a_size_of_another_network_is_refused(tokens, tmp_path):
    for network, size, known in (("google", "huge", "base"), ("maskgit", "large", "tiny, small, base, big")):
        with pytest.raises(ConfigError, match=f"--size {size}: .*{known}.*--network {network}"):
            train(tokens, tmp_path / "run", {"network": network, "size": size}, device="cpu")
    assert not (tmp_path / "run").exists()


def test_label_dropout_needs_a_null_class(tokens, tmp_path):
    with pytest.raises(ConfigError, match=r"--drop-label 0\.1: .*--network google"):
        train(tokens, tmp_path / "run", {"network": "google", "drop_label": 0.1}, device="cpu")


def test_a_network_without_a_null_class_needs_labels(tokenizer, tmp_path):
    labels = np.full(4, -1, np.int32)
    path = write_tokens(tmp_path / "t.h5", tokenizer, None, labels, class_names=NAMES)
    with pytest.raises(ConfigError, match=r"--network google: .*t\.h5"):
        train(path, tmp_path / "run", {"network": "google"}, tokenizer=tokenizer, device="cpu")


def test_another_network_than_the_models_is_refused(run, tokens, tmp_path):
    with pytest.raises(ConfigError, match="--network halton"):
        train(tokens, tmp_path / "run", {"network": "halton"}, init_from=run, device="cpu")


# --- the options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ([], {}),
        (["--recipe", "google"], {}),
        (["--lr", "1e-4", "--network", "halton"], {"lr": 1e-4, "network": "halton"}),
        (["--epochs", "300"], {"epochs": 300}),
    ],
)
def test_only_given_options_override_a_recipe(arguments, changes, monkeypatch, tmp_path):
    """Also one whose value is the default."""
    calls = []

    def spy(tokens, config, recipe, **options):
        calls.append((recipe, config))
        return tmp_path

    monkeypatch.setattr("maskgit_cli.training.transformer.train", spy)
    result = CliRunner().invoke(command, ["tokens.h5", *arguments])
    assert result.exit_code == 0, result.output
    assert calls == [("google" if "google" in arguments else "paper", changes)]


def test_the_command_trains_a_recipe(maskgit, tokens, tmp_path, monkeypatch, tiny_sizes):
    monkeypatch.chdir(tmp_path)
    few = ["--steps", 2, "--preview-every", 0, "--device", "cpu", "--quiet"]
    done = maskgit("train", tokens, "--recipe", "small", *few)
    assert (done.status, done.stdout) == (0, "runs/tokens-small-16\n"), done.stderr
    settings = record_of(tmp_path / "runs" / "tokens-small-16")["settings"]
    assert (settings["recipe"], settings["steps"], settings["batch_size"]) == ("small", 2, 16)


@pytest.mark.parametrize(
    "arguments", [["--recipe", "fast"], ["--network", "gpt"], ["--size", "giant"], ["--loss-on", "some"]]
)
def test_an_unknown_choice_is_a_usage_error(maskgit, tokens, arguments):
    done = maskgit("train", tokens, *arguments)
    assert done.status == 2
    assert arguments[0] in done.stderr
    assert arguments[1] in done.stderr


def test_every_setting_has_one_home():
    """A recipe changes settings of TrainConfig; it has none of its own."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    for recipe in RECIPES.values():
        assert dataclasses.asdict(recipe(100)).keys() == names
