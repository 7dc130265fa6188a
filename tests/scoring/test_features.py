"""Feature extractors: what they compute, and which weights they accept."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from random_inception import make_inception
from tiny_models import RESOLUTION, make_tokenizer

from maskgit_cli.config.features import EXTRACTORS, INCEPTION_SHA256, ExtractorEntry
from maskgit_cli.errors import WeightsError
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.scoring import features
from maskgit_cli.scoring.features import Resources, load_extractor
from maskgit_cli.scoring.features.inception import InceptionExtractor
from maskgit_cli.scoring.features.tokenizer import TokenizerExtractor


def random_images(n, side=RESOLUTION, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), generator=generator, dtype=torch.uint8)


# --- the registry -----------------------------------------------------------------------------------


def test_every_entry_has_a_file_and_every_file_an_entry():
    modules = {entry.load.split(":")[0] for entry in EXTRACTORS.values()}
    files = {path.stem for path in Path(features.__file__).parent.glob("*.py")}
    assert modules == files - {"__init__"}


def test_an_extractor_has_the_dimension_of_its_entry(monkeypatch, tmp_path):
    path = make_tokenizer(tmp_path / "t")
    assert load_extractor("vqgan", Resources(tokenizer=path)).dimension == 8
    wrong = ExtractorEntry("wrong", "", "wrong", "tokenizer:load", dimension=9)
    monkeypatch.setitem(EXTRACTORS, "wrong", wrong)
    with pytest.raises(AssertionError):
        load_extractor("wrong", Resources(tokenizer=path))


# --- the tokenizer's encoder ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "t"))


def test_tokenizer_features_are_mean_and_deviation_of_latents(tokenizer):
    images = random_images(5)
    extractor = TokenizerExtractor(tokenizer)
    latents = tokenizer.network.latents(to_model(images)).double().numpy()  # (5, 4, 4, 4)
    expected = np.concatenate([latents.mean(axis=(2, 3)), latents.std(axis=(2, 3))], axis=1)
    result = extractor(images)
    assert result.logits is None
    assert result.features.shape == (5, extractor.dimension) == (5, 8)
    assert result.features.dtype == np.float32
    np.testing.assert_allclose(result.features, expected, atol=1e-5)
    assert extractor.sha256 == tokenizer.sha256


def test_features_are_batch_invariant(tokenizer):
    images = random_images(7)
    extractor = TokenizerExtractor(tokenizer)
    one_by_one = np.concatenate([extractor(image[None]).features for image in images])
    assert np.array_equal(extractor(images).features, one_by_one)


def test_floats_are_refused(tokenizer):
    with pytest.raises(AssertionError):
        TokenizerExtractor(tokenizer)(random_images(2).float())


# --- Inception --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return InceptionExtractor(make_inception(tmp_path_factory.mktemp("inception") / "random.pth"))


def test_spatial_features_are_the_first_channels_of_mixed_6d(inception):
    """Convolution, batch normalization and ReLU of the 1×1 branch, in the order y, x, channel."""
    images = random_images(2, 24)
    network, seen = inception.network, []
    hook = network.Mixed_6c.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    found = inception(images)
    hook.remove()
    branch = network.Mixed_6d.branch1x1
    x = torch.cat(seen).double()  # (2, 768, 17, 17)
    x = torch.einsum("oi,bihw->bhwo", branch.conv.weight[:, :, 0, 0].double(), x)
    x = (x - branch.bn.running_mean) / (
        branch.bn.running_var + 0.001
    ).sqrt() * branch.bn.weight + branch.bn.bias
    expected = x[..., :7].clamp(min=0).numpy().reshape(2, 2023)
    assert found.spatial.shape == (2, 2023)
    assert found.spatial.dtype == np.float32
    assert 0.2 < (expected == 0).mean() < 0.8
    np.testing.assert_allclose(found.spatial, expected, atol=1e-4)
    assert [found.features.shape, found.logits.shape] == [(2, 2048), (2, 1008)]


def test_images_resized_by_the_protocol_enter_behind_inceptions_own_resize(inception):
    """Of 299×299, where its resize changes nothing; floats are not rounded."""
    images = random_images(2, 299)
    expected, found = inception(images), inception(images.float())
    for name in ("features", "logits", "spatial"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert not np.array_equal(inception(images * 0.999).features, expected.features)
    assert np.array_equal(inception(images).features, expected.features)
    with pytest.raises(AssertionError):
        inception(random_images(2, 24).float())


def test_all_outputs_of_inception_are_batch_invariant(inception):
    """On several threads, each of which has its own spatial features."""
    images = random_images(4, 24)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = inception(images)
    finally:
        torch.set_num_threads(threads)
    alone = [inception(image[None]) for image in images]
    for name in ("features", "logits", "spatial"):
        whole = getattr(together, name)
        assert whole.base is None  # what is kept keeps nothing else in memory
        assert np.array_equal(whole, np.concatenate([getattr(one, name) for one in alone]))
        assert not np.array_equal(whole[0], whole[1])


def test_entries_name_what_the_extractors_give(inception, tokenizer):
    for entry, result in (
        (EXTRACTORS["inception"], inception(random_images(1, 24))),
        (EXTRACTORS["vqgan"], TokenizerExtractor(tokenizer)(random_images(1))),
    ):
        assert entry.logits == (result.logits is not None)
        assert entry.spatial == (result.spatial is not None)


# --- Inception's weights ----------------------------------------------------------------------------


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_hidden_in_weights_does_not_run(tmp_path):
    trap, sprung = tmp_path / "trap.pth", tmp_path / "sprung"
    torch.save({"fc.weight": _Trap(str(sprung))}, trap)
    with pytest.raises(WeightsError, match=r"trap\.pth"):
        InceptionExtractor(trap)
    trap.write_bytes(pickle.dumps(_Trap(str(sprung)), protocol=2))
    with pytest.raises(WeightsError, match=r"trap\.pth"):
        InceptionExtractor(trap)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not found</html>",
        b"\x80\x02h\x05.",
        b"\x80\x02X\x02\0\0\0\xff\xfe.",
        b"\x80\x02t.",
        b"\x80\x02G\0.",
    ],
)
def test_files_that_are_not_weights(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.pth") as error:
        InceptionExtractor(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [None, {"fc.weight": torch.full((3,), torch.nan)}, {"fc.weight": torch.zeros(3)}, [torch.zeros(3)]],
)
def test_unusable_weights(tmp_path, content):
    path = tmp_path / "w.pth"
    if content is not None:
        torch.save(content, path)
        assert sha256_file(path) != INCEPTION_SHA256
    with pytest.raises(WeightsError, match=r"w\.pth") as error:
        InceptionExtractor(path)
    assert len(str(error.value)) < 400
