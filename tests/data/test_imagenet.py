"""ImageNet's classes: the data file, and classes of a model by number, WordNet id, name and synonym."""

import re

import numpy as np
import pytest
from tiny_models import make_model
from torchvision.models._meta import _IMAGENET_CATEGORIES

from maskgit_cli.data.classes import find_label, labels_for
from maskgit_cli.data.imagenet import imagenet_classes, imagenet_meanings, imagenet_names, same_classes
from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.tokens import open_tokens

NAMES = imagenet_names()
IDS = [c.wordnet_id for c in imagenet_classes()]


def test_the_thousand_classes():
    """Names are compared with torchvision's list; ids are sorted by class."""
    assert list(_IMAGENET_CATEGORIES) == NAMES
    assert [c.number for c in imagenet_classes()] == list(range(1000))
    assert all(re.fullmatch(r"n\d{8}", word) for word in IDS)
    assert sorted(set(IDS)) == IDS
    assert len(set(NAMES)) == 1000
    assert all(word == word.strip() and word for c in imagenet_classes() for word in (c.name, *c.synonyms))


@pytest.mark.parametrize(
    ("number", "wordnet_id", "name"),
    [
        (0, "n01440764", "tench"),
        (1, "n01443537", "goldfish"),
        (7, "n01514668", "cock"),
        (207, "n02099601", "golden retriever"),
        (388, "n02510455", "giant panda"),
        (999, "n15075141", "toilet tissue"),
    ],
)
@pytest.mark.parametrize("class_names", [NAMES, IDS], ids=["names", "ids"])
def test_number_id_and_name_select_the_class(number, wordnet_id, name, class_names):
    for word in (str(number), wordnet_id, wordnet_id.upper(), name, name.title()):
        assert find_label(word, 1000, class_names) == number


def test_synonyms():
    assert find_label("Carassius auratus", 1000, NAMES) == 1
    assert find_label("killer whale", 1000, NAMES) == find_label("ORCA", 1000, IDS) == 148
    assert labels_for("toilet paper,n01443537,2", np.arange(3), 1000, NAMES, 0).tolist() == [999, 1, 2]


def test_a_name_takes_precedence_over_a_synonym():
    """Panther is a synonym of two classes; gong is a class, and a synonym of chime."""
    assert find_label("gong", 1000, NAMES) == NAMES.index("gong")
    assert "gong" in imagenet_classes()[494].synonyms
    assert find_label("gong", 1000, IDS) == NAMES.index("gong")
    assert [find_label(word, 1000, IDS) for word in ("Cardigan", "cardigan")] == [264, 474]
    with pytest.raises(ConfigError) as caught:
        find_label("panther", 1000, NAMES)
    assert str(caught.value).startswith("--label panther: ")
    assert "cougar (286) or jaguar (290)" in str(caught.value)


def test_a_model_of_some_of_the_classes():
    some = ["n02510455", "goldfish", "my cat"]
    assert find_label("giant panda", 3, some) == 0
    assert find_label("n01443537", 3, some) == 1
    assert find_label("panda", 3, some) == 0  # the lesser panda is not in this model
    with pytest.raises(ConfigError, match="--label tench: "):
        find_label("tench", 3, some)


def test_a_model_of_other_classes_has_none_of_imagenet():
    with pytest.raises(ConfigError, match=r"--label goldfish: .*flags, objects"):
        find_label("goldfish", 2, ["flags", "objects"])
    with pytest.raises(ConfigError, match=r"--label goldfish: .*0 to 999"):
        find_label("goldfish", 1000, [])


def test_suggestions_are_names_not_ids():
    with pytest.raises(ConfigError, match=r"--label goldfisch: .*goldfish\?"):
        find_label("goldfisch", 1000, IDS)
    with pytest.raises(ConfigError, match=r"tench, goldfish"):
        find_label("$$$$", 1000, IDS)


def test_meanings():
    assert [c.number for c in imagenet_meanings("crane")] == [517]
    assert [c.number for c in imagenet_meanings("panda")] == [387, 388]
    assert imagenet_meanings("no such thing") == ()


def test_same_classes():
    assert same_classes(NAMES, IDS)
    assert same_classes(["mine", "tench"], ["mine", "n01440764"])
    assert not same_classes(["tench", "mine"], ["mine", "tench"])
    assert not same_classes(NAMES, NAMES[:-1])
    assert not same_classes(["panda"], ["Panda"]), "two bears"


@pytest.mark.parametrize("spelling", ["--label", "--labels"])
@pytest.mark.parametrize("word", ["goldfish", "n01443537", "1", "Carassius auratus"])
def test_sample_accepts_a_class_by_number_id_name_and_synonym(tmp_path, maskgit, spelling, word):
    model = make_model(tmp_path / "model", NAMES, classes=1000)
    options = ["--n", 2, "--steps", 1, "--format", "tokens", "--out", tmp_path / "samples"]
    outcome = maskgit("sample", model, spelling, word, *options)
    assert outcome.status == 0, outcome.stderr
    assert open_tokens(tmp_path / "samples/tokens.h5").labels.tolist() == [1, 1]
