"""The file of Inception's weights: where it is looked for, and how it is downloaded."""

import hashlib

import pytest
import torch

from maskgit_cli.config.features import INCEPTION_SHA256
from maskgit_cli.errors import WeightsError
from maskgit_cli.scoring.features import weights as features
from maskgit_cli.scoring.features.weights import (
    INCEPTION_BYTES,
    INCEPTION_FILE,
    check_weights,
    fetch_weights,
    inception_weights,
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub folder, and no network."""
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("variable", ["MASKGIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_one_line_says_what_to_put_where(hub, monkeypatch, variable):
    monkeypatch.delenv("MASKGIT_OFFLINE")
    monkeypatch.setenv(variable, "1")

    def no_network(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(features.urllib.request, "urlopen", no_network)
    with pytest.raises(WeightsError) as error:
        inception_weights()
    text = str(error.value)
    assert "\n" not in text
    for needed in (INCEPTION_FILE, INCEPTION_SHA256, str(hub), "--weights", variable):
        assert needed in text


def test_an_unreachable_address_is_one_line(hub, monkeypatch):
    monkeypatch.delenv("MASKGIT_OFFLINE")

    def unreachable(*args, **kwargs):
        raise features.urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(features.urllib.request, "urlopen", unreachable)
    with pytest.raises(WeightsError, match="cannot be fetched") as error:
        inception_weights()
    assert "\n" not in str(error.value)
    assert INCEPTION_FILE in str(error.value)
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("name", [INCEPTION_FILE, "pt_inception-2015-12-05-6726825d.pth"])
def test_weights_that_are_there_are_checked(hub, monkeypatch, name):
    (hub / name).write_bytes(b"something else")
    with pytest.raises(WeightsError, match=f"{name}: not the published file"):
        inception_weights()
    monkeypatch.setattr(features, "INCEPTION_BYTES", 14)
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(b"something else").hexdigest())
    assert inception_weights() == hub / name


def test_a_given_file_is_taken_as_it_is(hub, tmp_path):
    assert inception_weights(tmp_path / "mine.pth") == tmp_path / "mine.pth"


def test_fetching_keeps_the_right_bytes_only(tmp_path):
    source, place = tmp_path / "source", tmp_path / "new" / "place.pth"
    source.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(WeightsError, match="other bytes"):
        fetch_weights(source.as_uri(), place, 7, "0" * 64)
    with pytest.raises(WeightsError, match="other bytes"):
        fetch_weights(source.as_uri(), place, 8, digest)
    assert list(place.parent.iterdir()) == []
    fetch_weights(source.as_uri(), place, 7, digest)
    assert place.read_bytes() == b"weights"
    assert [path.name for path in place.parent.iterdir()] == ["place.pth"]
    check_weights(place, 7, digest)


def test_the_published_file_is_the_designs():
    assert (INCEPTION_BYTES, INCEPTION_SHA256[:8]) == (95_628_359, "6726825d")
    assert INCEPTION_SHA256[:8] in INCEPTION_FILE
