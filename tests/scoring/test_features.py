"""Feature spaces: what they compute, how their scores are named, and where weights come from."""

import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from tiny_models import RESOLUTION, make_tokenizer

from maskgit_cli.errors import WeightsError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.scoring import features
from maskgit_cli.scoring.features import (
    INCEPTION_BYTES,
    INCEPTION_FILE,
    INCEPTION_SHA256,
    PUBLISHED,
    Identity,
    InceptionSpace,
    TokenizerSpace,
    check_weights,
    fetch_weights,
    inception_weights,
    metric_name,
)


def random_images(n, side=RESOLUTION, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), generator=generator, dtype=torch.uint8)


# --- the tokenizer's space --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "t"))


def test_tokenizer_space_is_mean_and_deviation_of_latents(tokenizer):
    images = random_images(5)
    space = TokenizerSpace(tokenizer)
    latents = tokenizer.network.latents(to_model(images)).double().numpy()  # (5, 4, 4, 4)
    expected = np.concatenate([latents.mean(axis=(2, 3)), latents.std(axis=(2, 3))], axis=1)
    result = space(images)
    assert result.logits is None
    assert result.features.shape == (5, space.dimension) == (5, 8)
    assert result.features.dtype == np.float32
    np.testing.assert_allclose(result.features, expected, atol=1e-5)
    assert space.sha256 == tokenizer.sha256


def test_an_images_features_do_not_depend_on_its_batch(tokenizer):
    images = random_images(7)
    space = TokenizerSpace(tokenizer)
    one_by_one = np.concatenate([space(image[None]).features for image in images])
    assert np.array_equal(space(images).features, one_by_one)


def test_floats_are_refused(tokenizer):
    with pytest.raises(AssertionError):
        TokenizerSpace(tokenizer)(random_images(2).float())


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "n", "name"),
    [
        (PUBLISHED, 50_000, "fid_50k"),
        (PUBLISHED, 49_999, "fid"),
        (PUBLISHED, 50_001, "fid"),
        (PUBLISHED, None, "fid"),
        (PUBLISHED._replace(protocol="legacy-v1"), 50_000, "fid_legacy_v1"),
        (PUBLISHED._replace(sha256="12345678" + "0" * 56), 50_000, "frechet_inception_12345678"),
        (Identity("vqgan", INCEPTION_SHA256, 2048, "standard"), 50_000, "frechet_vqgan"),
    ],
)
def test_only_the_published_protocol_is_called_fid(identity, n, name):
    assert metric_name("fid", identity, n) == name


def test_other_metrics_take_the_same_endings():
    assert metric_name("precision", PUBLISHED, 50_000) == "precision"
    assert metric_name("precision", PUBLISHED._replace(space="vqgan"), 50_000) == "precision_vqgan"


# --- weights ----------------------------------------------------------------------------------------


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


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_hidden_in_weights_does_not_run(tmp_path):
    trap, sprung = tmp_path / "trap.pth", tmp_path / "sprung"
    torch.save({"fc.weight": _Trap(str(sprung))}, trap)
    with pytest.raises(WeightsError, match="tensors and nothing else"):
        InceptionSpace(trap)
    trap.write_bytes(pickle.dumps(_Trap(str(sprung)), protocol=2))
    with pytest.raises(WeightsError, match="tensors and nothing else"):
        InceptionSpace(trap)
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_files_that_are_no_weights(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        InceptionSpace(path)
    assert "\n" not in str(error.value)


def test_unusable_weights(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        InceptionSpace(tmp_path / "none.pth")
    path = tmp_path / "w.pth"
    torch.save({"fc.weight": torch.full((3,), torch.nan)}, path)
    with pytest.raises(WeightsError, match="NaN"):
        InceptionSpace(path)
    torch.save({"fc.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="not the weights") as error:
        InceptionSpace(path)
    assert len(str(error.value)) < 400
    torch.save([torch.zeros(3)], path)
    with pytest.raises(WeightsError, match="not the weights"):
        InceptionSpace(path)
    assert sha256_file(path) != INCEPTION_SHA256
