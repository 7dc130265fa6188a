"""Points of a sweep: values as they are typed, and their combinations."""

import dataclasses
from typing import ClassVar

import pytest

from maskgit_cli.config.base import at_least, setting
from maskgit_cli.config.samplers import SAMPLERS, SamplerConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.reports import sweep_points
from maskgit_cli.reports.sweep_points import MOST_POINTS, parse_values, points_of, show_value, swept_kinds


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("steps", "4,8,12", [4, 8, 12]),
        ("steps", "4:16:4", [4, 8, 12, 16]),
        ("steps", "1, 4:8:2 ,32", [1, 4, 6, 8, 32]),
        ("cfg", "0:6:1", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ("cfg", "0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("cfg", "1:2:0.4", [1.0, 1.4, 1.8]),
        ("cfg", "3", [3.0]),
        ("gumbel_temp", "4.5:4.5:1", [4.5]),
        ("schedule", "arccos,pow3", ["arccos", "pow3"]),
        ("sampler", "halton,raster", ["halton", "raster"]),
        ("preset", "paper-256", ["paper-256"]),
        ("roll", "yes,No", [True, False]),
        ("cfg_interval", "0:1,0.2:0.8", [(0.0, 1.0), (0.2, 0.8)]),
    ],
)
def test_values(name, text, values):
    found = parse_values(name, text)
    assert found == values
    assert [type(x) for x in found] == [type(x) for x in values] or name == "cfg"
    assert ",".join(map(show_value, parse_values(name, ",".join(map(show_value, found))))) == ",".join(
        map(show_value, found)
    )


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("steps", "4,,8", "--steps '4,,8'"),
        ("steps", "4,eight", "--steps eight"),
        ("steps", "4:8", "--steps 4:8"),
        ("steps", "4:8:2:1", "--steps 4:8:2:1"),
        ("steps", "8:4:1", "--steps 8:4:1"),
        ("steps", "4:8:0", "--steps 4:8:0"),
        ("steps", "4.5", "--steps 4.5"),
        ("steps", "1:2:0.5", "--steps 1:2:0.5"),
        ("cfg", "nan", "--cfg nan"),
        ("cfg", "0:inf:1", "--cfg 0:inf:1"),
        ("cfg", "0:1:0.0001", str(MOST_POINTS)),
        ("cfg", "3,1:4:1", "--cfg 3,1:4:1: 3"),
        ("sampler", "halton,best", "--sampler best"),
        ("preset", "report", "--preset report"),
        ("roll", "maybe", "--roll maybe"),
        ("cfg_interval", "0.2", "--cfg-interval 0.2"),
    ],
)
def test_invalid_values(name, text, named):
    with pytest.raises(ConfigError) as error:
        parse_values(name, text)
    assert named in str(error.value)


def test_every_setting_of_every_sampler_can_be_swept():
    fields = {field.name for kind in SAMPLERS.values() for field in dataclasses.fields(kind)}
    assert swept_kinds().keys() == fields | {"sampler", "preset"}


def test_a_sampler_without_steps_can_be_swept(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Stepless(SamplerConfig):
        method: ClassVar[str] = "stepless"
        depth: int = setting(2, at_least(1))

    monkeypatch.setattr(sweep_points, "SAMPLERS", {"stepless": Stepless})
    assert "steps" not in swept_kinds()
    assert parse_values("depth", "1,2") == [1, 2]
    assert [point.name for point in points_of({"depth": [1, 2]})] == ["depth=1", "depth=2"]


def test_every_combination_occurs_once_and_the_last_setting_varies_fastest():
    points = points_of({"steps": [4, 8], "schedule": ["root", "pow3"], "cfg": [3.0]})
    assert [(point.values["steps"], point.values["schedule"]) for point in points] == [
        (4, "root"), (4, "pow3"), (8, "root"), (8, "pow3")
    ]  # fmt: skip
    assert all(point.values["cfg"] == 3.0 for point in points)
    assert [point.name for point in points] == [
        "steps=4,schedule=root", "steps=4,schedule=pow3", "steps=8,schedule=root", "steps=8,schedule=pow3"
    ]  # fmt: skip
    assert [point.name for point in points_of({"gumbel_temp": [4.5]})] == ["gumbel-temp=4.5"]


def test_values_are_shown_exactly():
    near = [0.1, 0.1 + 2**-50, 3.0, 3.0000000000004, 1e-12, 12345678901.5]
    shown = [show_value(value) for value in near]
    assert [float(text) for text in shown] == near
    assert (shown[0], shown[2]) == ("0.1", "3")
    assert len({point.name for point in points_of({"cfg": near})}) == 6


def test_names_are_safe_and_unique():
    swept = {"model": ["runs/a", "runs-a", "a b"], "cfg_interval": [(0.0, 1.0), (0.25, 0.5)]}
    names = [point.name for point in points_of(swept)]
    assert len(set(names)) == 6
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789=,.-") for name in names)
    assert names[2] == "model=runs-a,cfg-interval=0-1"
    long = points_of({"model": ["x" * 300, "x" * 299 + "y"]})
    assert len({point.name for point in long}) == 2
    assert max(len(point.name) for point in long) <= 100


@pytest.mark.parametrize(
    ("swept", "named"),
    [
        ({}, "no parameter to sweep"),
        ({"preset": ["halton"], "sampler": ["halton"]}, "--sampler and --preset"),
        ({"steps": list(range(1, 101)), "cfg": list(range(11))}, str(MOST_POINTS)),
    ],
)
def test_invalid_sweeps(swept, named):
    with pytest.raises(ConfigError, match=named):
        points_of(swept)
