"""Parsing of `--labels` and `--label`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgit_cli.data.classes import find_label, labels_for
from maskgit_cli.errors import ConfigError, InputError

NAMES = ["activities", "animals & nature", "flags", "food, drink", "Objects", "3-7"]


def labels(spec, n=6, classes=6, names=NAMES, seed=0):
    return labels_for(spec, np.arange(n), classes, names, seed).tolist()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("2", [2] * 6),
        ("4,1", [4, 1, 4, 1, 4, 1]),
        ("1-3", [1, 2, 3, 1, 2, 3]),
        ("objects, 0,2-3", [4, 0, 2, 3, 4, 0]),
        ("FLAGS", [2] * 6),
        ("food, drink", [3] * 6),  # a name with a comma
        ("3-7", [5] * 6),  # a name that looks like a range
    ],
)
def test_lists(spec, expected):
    assert labels(spec) == expected


def test_a_file_has_one_class_per_line(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("2\n\nobjects\n  flags \n")
    assert labels(f"@{path}") == labels(str(path)) == [2, 4, 2, 2, 4, 2]


def test_a_long_list_and_a_file_named_like_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2").write_text("flags")
    assert labels("2", n=1) == [2]
    everything = ",".join(map(str, range(1000)))  # longer than any file name
    assert labels(everything, n=1000, classes=1000, names=[]) == list(range(1000))


def test_numbers_work_without_names():
    assert labels("7,8-9", classes=10, names=[]) == [7, 8, 9, 7, 8, 9]


def test_a_model_without_classes():
    assert labels("all", classes=0, names=[]) == [-1] * 6
    with pytest.raises(ConfigError, match="--labels 3: "):
        labels("3", classes=0, names=[])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flaggs", "flags?"),
        ("OBJECT", "Objects?"),
        ("xyzzy", "activities, animals"),
        ("6", "0 to 5"),
        ("-1", "0 to 5"),
        ("4-9", "0 to 5"),
        ("4-2", "2-4"),
        ("1,,2", "empty"),
        ("", "empty"),
    ],
)
def test_unknown_classes(spec, message):
    with pytest.raises(ConfigError) as caught:
        labels(spec)
    value = spec.split("-")[1] if spec == "4-9" else spec  # the bound that is out of range
    assert str(caught.value).startswith("--labels ")
    assert value in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["9" * 5000, "1-" + "9" * 5000, "-" + "9" * 5000])
def test_numbers_that_python_does_not_convert(spec):
    with pytest.raises(ConfigError, match=r"^--labels -?9{10,20}\.\.\.: .*0 to 5$"):
        labels(spec)


def test_names_where_classes_only_have_numbers():
    with pytest.raises(ConfigError, match=r"--labels flags: .*0 to 9"):
        labels("flags", classes=10, names=[])


def test_unusable_files(tmp_path):
    with pytest.raises(InputError, match=r"absent\.txt"):
        labels(f"@{tmp_path / 'absent.txt'}")
    empty, binary, wrong = tmp_path / "empty.txt", tmp_path / "binary.txt", tmp_path / "wrong.txt"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\x00\xd8")
    wrong.write_text("flags\nflag\n")
    with pytest.raises(InputError, match=r"empty\.txt"):
        labels(f"@{empty}")
    with pytest.raises(InputError, match=r"binary\.txt"):
        labels(f"@{binary}")
    with pytest.raises(ConfigError, match=r"wrong\.txt: flag: .*flags\?"):
        labels(f"@{wrong}")


@given(
    st.integers(0, 1000),
    st.integers(1, 50),
    st.sampled_from(["all", "uniform", "1,3", "2-4"]),
    st.integers(0, 9),
)
def test_a_label_depends_on_the_index_alone(start, n, spec, seed):
    whole = labels_for(spec, np.arange(1100), 6, [], seed)
    part = labels_for(spec, np.arange(start, start + n), 6, [], seed)
    assert np.array_equal(whole[start : start + n], part)


def test_uniform_draws_every_class_about_as_often_and_follows_the_seed():
    found = labels("uniform", n=6000)
    counts = np.bincount(found, minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 25  # 5 degrees of freedom: 0.01 % quantile is 25.7
    assert found != labels("uniform", n=6000, seed=1)


def test_find_label_prefers_the_exact_spelling():
    assert find_label("B", 2, ["b", "B"]) == 1
    assert find_label(" b ", 2, ["b", "B"]) == 0
    with pytest.raises(ConfigError, match=r"--label 2: .*0 to 1"):
        find_label("2", 2, ["b", "B"])


# --- names that are numbers -------------------------------------------------------------------------

# As a folder lists them: in the order of text.
FOLDERS = sorted(map(str, range(12)))


def test_a_number_is_the_class_of_that_name():
    assert FOLDERS.index("10") == 2
    for name in FOLDERS:
        assert FOLDERS[find_label(name, 12, FOLDERS)] == name
        assert find_label(f"index:{name}", 12, FOLDERS) == int(name)
    assert [FOLDERS[i] for i in labels("8-11,2", 5, 12, FOLDERS)] == ["8", "9", "10", "11", "2"]
    assert labels("index:8-11,index:2", 5, 12, FOLDERS) == [8, 9, 10, 11, 2]
    assert find_label("index:3", 6, NAMES) == 3
    assert find_label("index:3", 2, ["index:3", "b"]) == 0  # a name like any other


def test_a_file_of_labels_has_names_that_are_numbers(tmp_path):
    (tmp_path / "labels.txt").write_text("10\n8\nindex:10\n")
    found = labels(f"@{tmp_path / 'labels.txt'}", 3, 12, FOLDERS)
    assert [FOLDERS[i] for i in found] == ["10", "8", "8"]


@pytest.mark.parametrize(
    ("spec", "names", "hint"),
    [
        ("0", ["1", "2", "3"], "index:0"),
        ("1", ["01", "02"], "index:1"),
        ("2", ["7", "cat", "dog"], "dog, write index:2"),
        ("7-9", ["7", "9", "cat"], "8"),
        ("0-2", ["1", "2", "3"], "index:0"),
        ("5", ["1", "2", "3"], "are 1, 2, 3"),
        ("9" * 5000, ["1", "2", "3"], "are 1, 2, 3"),
        ("1-" + "9" * 5000, ["1", "2", "3"], "are 1, 2, 3"),
        ("index:3", ["1", "2", "3"], "0 to 2"),
        ("index:2-0", ["1", "2", "3"], "index:0-2"),
        ("Cat", ["cat", "CAT", "dog"], "index:1"),
    ],
)
def test_a_number_that_could_mean_two_classes_is_an_error(spec, names, hint):
    with pytest.raises(ConfigError, match=r"^--labels ") as caught:
        labels(spec, 1, len(names), names)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_names_of_indices_are_the_indices():
    names = [str(i) for i in range(12)]
    assert labels("10,2-4", 4, 12, names) == [10, 2, 3, 4]
    with pytest.raises(ConfigError, match=r"--labels 12: .*0 to 11"):
        labels("12", 1, 12, names)
