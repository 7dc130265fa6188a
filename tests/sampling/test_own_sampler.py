"""A model's own sampling settings: `export` stores them, and all commands that sample use them."""

import json
import shlex

import pytest
from documents import ROOT
from hypothesis import given
from hypothesis import strategies as st
from resigned import sign_record

from maskgit_cli.cli import cmd_export
from maskgit_cli.cli.sampler_options import chosen
from maskgit_cli.config.inpaint import Box, InpaintConfig
from maskgit_cli.config.samplers import (
    PRESETS,
    SAMPLERS,
    ConfidenceConfig,
    HaltonSamplerConfig,
    RasterConfig,
    SamplerConfig,
    changed,
    recorded_sampler,
)
from maskgit_cli.config.stages import SampleConfig, ScoreConfig, SweepConfig
from maskgit_cli.errors import ArtifactError, ConfigError
from maskgit_cli.formats.models import builtin_model
from maskgit_cli.networks.loading import load_model
from maskgit_cli.reports.sweeping import sweep
from maskgit_cli.sampling.images import sample
from maskgit_cli.sampling.inpaint.inpainting import inpaint
from maskgit_cli.sampling.model import choose_sampler
from maskgit_cli.weights.exporting import export
from maskgit_cli.weights.upload import model_card

OWN = ConfidenceConfig(steps=5, cfg=0.5, ramp="constant", sm_temp=1.5, gumbel_temp=9.0)


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    return export(run, tmp_path_factory.mktemp("own") / "own", sampler=OWN)


def record_of(path):
    return json.loads((path / "config.json").read_text())


def put(path, **changes):
    sign_record(path / "config.json", record_of(path) | changes)


# --- writing ----------------------------------------------------------------------------------------


def test_export_writes_all_settings(run, tmp_path, maskgit):
    """Options change the preset that the model would have had; without options nothing is stored."""
    out = tmp_path / "out"
    assert maskgit("export", run, out, "--cfg", "2", "--gumbel", "7").status == 0
    preset = PRESETS["small-64"].describe()
    assert record_of(out)["sampler"] == preset | {"cfg": 2.0, "gumbel_temp": 7.0}
    assert maskgit("export", run, out, "--preset", "halton", "--steps", "4", "--overwrite").status == 0
    assert record_of(out)["sampler"] == PRESETS["halton"].describe() | {"steps": 4}
    assert maskgit("export", run, out, "--overwrite").status == 0
    assert "sampler" not in record_of(out)


def test_exporting_again(model, tmp_path):
    """A model's own settings are kept, and options change them."""
    again = export(model, tmp_path / "again", half=True)
    assert record_of(again)["sampler"] == OWN.describe()
    other = export(again, tmp_path / "changed", sampler={"steps": 7})
    assert record_of(other)["sampler"] == OWN.describe() | {"steps": 7}
    assert record_of(model)["sampler"] == OWN.describe()


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("--steps 17", "--steps 17"),
        ("--sampler halton --gumbel-temp 1", "--gumbel-temp"),
        ("--sm-temp 0", "--sm-temp 0.0"),
        ("--to v1 --steps 4", "v1"),
    ],
)
def test_settings_that_do_not_fit_are_not_stored(options, shown, model, tmp_path, maskgit):
    outcome = maskgit("export", model, tmp_path / "out", *options.split())
    assert outcome.status == 1
    assert shown in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_has_none(tokenizer, tmp_path, maskgit):
    outcome = maskgit("export", tokenizer, tmp_path / "out", "--cfg", "2")
    assert outcome.status == 1
    assert "tokenizer" in outcome.stderr
    assert not list(tmp_path.iterdir())


def test_its_card_shows_them(model):
    assert "| `gumbel_temp` | `9.0` |" in str(model_card(model, "user/own", "mit"))


# --- sampling ---------------------------------------------------------------------------------------


def test_sample_uses_them(model, tmp_path):
    own = sample(model, tmp_path / "s", SampleConfig(n=3), device="cpu")
    given = sample(model, tmp_path / "t", SampleConfig(n=3), OWN, device="cpu")
    assert own.settings["sampler"] == OWN.describe()
    for name in ("tokens.h5", "images/000002.png", "settings.json"):
        assert (own.path / name).read_bytes() == (given.path / name).read_bytes()


def test_options_override_them(model, tmp_path, maskgit):
    """An option changes one setting; another sampler or a preset replaces them all."""

    def used(*options):
        outcome = maskgit("sample", model, "--n", "1", "--format", "tokens", "--json", *options)
        return json.loads(outcome.stdout)["settings"]["sampler"]

    assert used("--out", tmp_path / "a", "--cfg", "3") == OWN.describe() | {"cfg": 3.0}
    preset = PRESETS["paper-256"].describe()
    assert used("--out", tmp_path / "b", "--preset", "paper-256") == preset
    assert used("--out", tmp_path / "c", "--sampler", "raster") == RasterConfig().describe()
    assert used("--out", tmp_path / "d", "--sampler", "confidence") == OWN.describe()


def test_inpaint_and_sweep_use_them(model, tmp_path):
    samples = sample(model, tmp_path / "s", SampleConfig(n=2), device="cpu")
    config = InpaintConfig(box=(Box(1, 1, 9, 9),), label="dog")
    done = inpaint(samples.path / "images" / "000000.png", model, tmp_path / "i", config=config, device="cpu")
    assert done.settings["sampler"] == OWN.describe()
    config = SweepConfig(n=2, keep="none")
    scoring = ScoreConfig(features="vqgan", metrics=("fid",))
    out = tmp_path / "w"
    swept = sweep([model], {"cfg": [0.25]}, samples.path, out, config, scoring=scoring, device="cpu")
    record = json.loads((swept.path / "sweep.json").read_text())
    assert record["points"][0]["sampler"] == OWN.describe() | {"cfg": 0.25}


def test_images_without_a_class(model):
    """Guidance is disabled then."""
    assert choose_sampler(None, load_model(model)).cfg == 0.5
    assert choose_sampler(None, load_model(model), guided=False).cfg == 0.0


# --- reading ----------------------------------------------------------------------------------------


@given(st.sampled_from(list(SAMPLERS.values())), st.integers(1, 99), st.floats(0, 99), st.booleans())
def test_records_are_read_as_they_were_written(kind, steps, cfg, roll):
    more = {"roll": roll} if kind is HaltonSamplerConfig else {}
    config = kind(cfg=cfg, cfg_interval=(0.25, 1.0), **more).limited(steps=steps)
    assert recorded_sampler(json.loads(json.dumps(config.describe()))) == config


def test_whole_numbers_are_numbers():
    """JSON does not distinguish 3 from 3.0, so the settings of samples must not either."""
    read = recorded_sampler({"method": "confidence", "cfg": 3})
    assert read == ConfidenceConfig(cfg=3.0)
    assert json.dumps(read.describe()["cfg"]) == "3.0"


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"method": "best"}, "--sampler best"),
        ({"method": ["halton"]}, "--sampler"),
        ({"steps": 8.5}, "--steps 8.5"),
        ({"steps": True}, "--steps True"),
        ({"cfg": "3"}, "--cfg '3'"),
        ({"cfg": float("nan")}, "--cfg nan"),
        ({"noise": "loud"}, "--noise loud"),
        ({"cfg_interval": [0, 0.5, 1]}, "--cfg-interval"),
        ({"cfg_interval": "0:1"}, "--cfg-interval"),
        ({"temperature": 1.0}, "'temperature'"),
    ],
)
def test_unusable_records(changes, shown, model, tmp_path):
    damaged = export(model, tmp_path / "damaged")
    put(damaged, sampler=OWN.describe() | changes)
    with pytest.raises(ArtifactError) as error:
        load_model(damaged)
    assert shown in str(error.value)
    put(damaged, sampler=[])
    with pytest.raises(ArtifactError, match=r"sampler is \[\]"):
        load_model(damaged)


def test_more_steps_than_tokens(model, tmp_path):
    """Only a record that was edited by hand can have them."""
    other = export(model, tmp_path / "changed")
    put(other, sampler=OWN.describe() | {"steps": 17})
    with pytest.raises(ConfigError, match=r"--steps 17: .* 16 tokens"):
        sample(other, tmp_path / "s", SampleConfig(n=1), device="cpu")
    assert not (tmp_path / "s").exists()


# --- the built-in model -----------------------------------------------------------------------------


def test_the_builtin_model_has_those_of_its_document():
    """The command in docs/builtin.md that exported it has its settings, and so has its script."""
    for file in ("docs/builtin.md", "examples/builtin.sh"):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        *_, line = [x for x in lines if x.startswith("maskgit export")]
        values = cmd_export.command.make_context("export", shlex.split(line)[2:]).params
        choice = chosen(values.pop("preset"), values)
        settings = choice if isinstance(choice, SamplerConfig) else changed(PRESETS["small-64"], choice)
        assert settings.describe() == record_of(builtin_model())["sampler"], file
        assert settings != PRESETS["small-64"]
