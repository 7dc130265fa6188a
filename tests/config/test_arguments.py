"""Arguments of the public functions: every one is checked by its annotation, and a wrong one is named."""

import inspect
import os
import typing
from pathlib import Path

import numpy as np
import pytest

import maskgit_cli
from maskgit_cli import ImageModel, MaskGITError
from maskgit_cli.config.arguments import checked, labels_text, optional_path, path_list, split_labels
from maskgit_cli.errors import ConfigError

PUBLIC = [getattr(maskgit_cli, name) for name in maskgit_cli.__all__]
FUNCTIONS = [found for found in PUBLIC if inspect.isfunction(found)]
METHODS = [f for name, f in vars(ImageModel).items() if inspect.isfunction(f) and not name.startswith("_")]
PARAMETERS = [
    (function, parameter.name)
    for function in [*FUNCTIONS, *METHODS]
    for parameter in inspect.signature(function).parameters.values()
    if parameter.name != "self" and parameter.kind is not parameter.VAR_KEYWORD
]


class Nothing:
    """Of no type that anything takes, and shown on two lines."""

    def __repr__(self):
        return "nothing\nat all"


@pytest.mark.parametrize(("function", "name"), PARAMETERS, ids=[f"{f.__name__}-{n}" for f, n in PARAMETERS])
def test_a_wrong_type_is_one_line_that_names_the_argument(function, name):
    with pytest.raises(MaskGITError) as error:
        function(**{name: Nothing()})
    assert f"{function.__name__}: {name} " in str(error.value)
    assert "\n" not in str(error.value)
    assert "Nothing" in str(error.value)


def test_the_whole_interface_is_covered():
    names = {function.__name__ for function in FUNCTIONS}
    assert names >= {
        "load",
        "sample",
        "inpaint",
        "score",
        "tokenize",
        "train",
        "pull",
        "open_tokens",
        "bench",
    }
    assert {f.__name__ for f in METHODS} >= {"sample", "inpaint", "encode", "decode"}
    assert len(PARAMETERS) > 150


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_paths_are_text_or_pathlike_and_never_empty(function):
    hints = typing.get_type_hints(function)
    for name, kind in hints.items():
        members = typing.get_args(kind)
        assert kind is not Path or name == "return", f"{name} takes pathlib.Path only"
        if os.PathLike[str] in members:
            with pytest.raises(ConfigError, match=f"{name}: the path is empty"):
                function(**{name: ""})


@checked
def example(
    path: str | os.PathLike[str] | None,
    number: float = 0.0,
    count: int = 0,
    flag: bool = False,
    names: "typing.Sequence[str]" = (),
    pair: tuple[int, int] = (0, 0),
) -> tuple:
    return optional_path(path), number, count, flag, tuple(names), pair


def test_what_fits_is_passed_on():
    assert example("a", 1, np.int64(2), True, ["b"], (1, 2)) == (Path("a"), 1, 2, True, ("b",), (1, 2))
    assert example(None, np.float32(0.5), names=("c",))[:2] == (None, 0.5)
    with os.scandir(Path(__file__).parent) as entries:
        assert example(next(entries))[0].parent == Path(__file__).parent


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"path": b"bytes"}, "path"),
        ({"path": 3}, "path"),
        ({"path": None, "number": "1"}, "number"),
        ({"path": None, "count": 1.0}, "count"),
        ({"path": None, "count": True}, "count"),
        ({"path": None, "number": False}, "number"),
        ({"path": None, "flag": 1}, "flag"),
        ({"path": None, "names": "abc"}, "names"),  # not a list of letters
        ({"path": None, "names": ["a", 1]}, "names"),
        ({"path": None, "pair": (1, 2, 3)}, "pair"),
        ({"path": None, "pair": (1, "2")}, "pair"),
    ],
)
def test_what_does_not_fit(arguments, name):
    with pytest.raises(ConfigError, match=f"^example: {name} is "):
        example(**arguments)


def test_python_itself_refuses_unknown_and_missing_arguments():
    with pytest.raises(TypeError, match="nmber"):
        example("a", nmber=1)
    with pytest.raises(TypeError, match="path"):
        example()


def test_path_list():
    assert path_list("a") == path_list(Path("a")) == path_list(["a"]) == [Path("a")]
    assert path_list(("a", Path("b"))) == [Path("a"), Path("b")]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ("all", "all"),
        ("cat,dog", "cat,dog"),
        (3, "3"),
        (["cat"], "cat"),
        (["cat", 3, "dog"], "cat,3,dog"),
        ((np.int64(1), 2), "1,2"),
        (["tench, Tinca tinca", "gold"], '"tench, Tinca tinca",gold'),
    ],
)
def test_labels_are_those_of_the_command_line(labels, text):
    assert labels_text(labels) == text


@pytest.mark.parametrize("names", [["a, b", "c"], ['6" nail', "c"], ["a"], ["x y", "-1"]])
def test_split_labels_is_the_inverse(names):
    assert split_labels(labels_text(names)) == names


@pytest.mark.parametrize("labels", [[], [1.5], [None], True, 2.5, None, [b"cat"]])
def test_labels_that_are_none(labels):
    with pytest.raises(ConfigError, match="--labels"):
        labels_text(labels, "--labels")
