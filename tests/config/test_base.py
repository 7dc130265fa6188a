"""Settings check types and rules, and an error names the option and the value."""

import dataclasses
import typing
from dataclasses import dataclass, replace

import numpy as np
import pytest

from maskgit_cli.cli.options import choices_of, fields_of, type_of
from maskgit_cli.config import stages
from maskgit_cli.config.base import Settings, above, among, at_least, field_types, option, setting
from maskgit_cli.config.inpaint import Box, InpaintConfig
from maskgit_cli.config.samplers import SAMPLERS, ConfidenceConfig
from maskgit_cli.config.stages import SampleConfig, ScoreConfig
from maskgit_cli.config.training import TrainConfig, VQGANTrainConfig
from maskgit_cli.errors import ConfigError

STAGES = [kind for kind in vars(stages).values() if isinstance(kind, type) and issubclass(kind, Settings)]
CLASSES = [kind for kind in (*STAGES, InpaintConfig, *SAMPLERS.values()) if kind is not Settings]


@pytest.mark.parametrize(
    ("kind", "name", "value", "option"),
    [
        (TrainConfig, "steps", 8.5, "--steps"),
        (TrainConfig, "steps", 8.0, "--steps"),
        (TrainConfig, "steps", "8", "--steps"),
        (TrainConfig, "steps", True, "--steps"),
        (TrainConfig, "steps", [8], "--steps"),
        (TrainConfig, "lr", False, "--lr"),
        (TrainConfig, "lr", "1e-3", "--lr"),
        (TrainConfig, "lr", None, "--lr"),
        (TrainConfig, "lr", float("nan"), "--lr"),
        (TrainConfig, "lr", 10**400, "--lr"),
        (TrainConfig, "batch_size", 0, "--batch-size"),
        (TrainConfig, "loss_on", "some", "--loss-on"),
        (SampleConfig, "n", "7", "--n"),
        (SampleConfig, "n", None, "--n"),
        (SampleConfig, "labels", 3.5, "--labels"),
        (SampleConfig, "labels", [], "--labels"),
        (InpaintConfig, "label", ["cat"], "--label"),
        (VQGANTrainConfig, "flip", 1, "--flip"),
        (ScoreConfig, "metrics", "fid", "--metrics"),
        (ScoreConfig, "metrics", ("fid", 3), "--metrics"),
        (ScoreConfig, "metrics", ("fid", "lpips"), "--metrics"),
        (ScoreConfig, "kid_subset_size", 1, "--kid-subset-size"),
        (ScoreConfig, "curve", 1, "--curve"),
        (ConfidenceConfig, "cfg_interval", 0.5, "--cfg-interval"),
        (ConfidenceConfig, "cfg_interval", (0, 0.5, 1), "--cfg-interval"),
        (ConfidenceConfig, "cfg_interval", (0, "1"), "--cfg-interval"),
        (InpaintConfig, "box", ((1, 2, 3, 4),), "--box"),
        (InpaintConfig, "outpaint", "left:3", "--outpaint"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_option(kind, name, value, option):
    with pytest.raises(ConfigError) as error:
        kind(**{name: value})
    line = str(error.value)
    assert line.startswith(option)
    assert "\n" not in line
    if value != 10**400:
        assert str(value[-1] if isinstance(value, tuple) else value) in line


@pytest.mark.parametrize(
    ("kind", "name", "value", "stored"),
    [
        (TrainConfig, "steps", np.int64(8), 8),
        (TrainConfig, "steps", None, None),
        (TrainConfig, "lr", 1, 1.0),
        (TrainConfig, "lr", np.float64(0.5), 0.5),
        (ConfidenceConfig, "cfg_interval", (0, np.float32(1)), (0.0, 1.0)),
        (ScoreConfig, "metrics", ("is",), ("is",)),
        (InpaintConfig, "box", (Box(1, 2, 3, 4),), (Box(1, 2, 3, 4),)),
    ],
)
def test_values_are_stored_as_the_types_that_json_has(kind, name, value, stored):
    kept = getattr(kind(**{name: value}), name)
    assert kept == stored
    assert type(kept) is type(stored)
    if isinstance(stored, tuple):
        assert [type(item) for item in kept] == [type(item) for item in stored]


@dataclass(frozen=True)
class Toy(Settings):
    size: str = setting(rule=among("s", "l"))
    rate: float = setting(0.5, above(0, 1))
    count: int = setting(2, at_least(1))


def test_json_round_trip_and_its_errors():
    toy = Toy("s", 0.25, 3)
    assert Toy.from_json(toy.to_json()) == toy
    for values, name in (
        ({}, "size"),
        ({"size": "m"}, "size"),
        ({"size": "s", "sizes": 1}, "sizes"),
        ({"size": "s", "rate": 0}, "rate"),
        ({"size": "s", "count": 2.5}, "count"),
    ):
        with pytest.raises(ConfigError, match=name):
            Toy.from_json(values)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_option_of_a_field_is_presentable(kind):
    """A default satisfies its rule, or says in words what None means; choices become click's choices."""
    types = field_types(kind)
    for name, field in fields_of(kind).items():
        meta, default = field.metadata, field.default
        assert meta["help"].endswith("."), name
        assert default is not dataclasses.MISSING, name
        assert default is not None or meta["unset"], f"{name}: what None means is not shown"
        if meta.get("choices") and types[name] is str:
            assert tuple(type_of(types[name], meta).choices) == choices_of(meta)
        if typing.get_origin(types[name]) is not tuple and default is not None:
            assert isinstance(default, types[name]), name


@pytest.mark.parametrize("name", ScoreConfig.details)
def test_details_of_scores_are_not_of_sweeps(name):
    assert ScoreConfig().of_sweep().keys() == ScoreConfig().to_json().keys() - set(ScoreConfig.details)
    with pytest.raises(ConfigError, match=f"^{option(name)} yes: "):
        replace(ScoreConfig(), **{name: True}).of_sweep()
