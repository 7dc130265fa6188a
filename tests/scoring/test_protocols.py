"""Protocols: what happens to pixels, the resolution as part of the identity, reference batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import make_tokenizer

from maskgit_cli.config.features import EXTRACTORS
from maskgit_cli.config.protocols import PROTOCOLS
from maskgit_cli.config.stages import ScoreConfig
from maskgit_cli.data.images import fit_square
from maskgit_cli.errors import ArtifactError, ConfigError, InputError
from maskgit_cli.formats.feature_statistics import read_statistics, write_statistics
from maskgit_cli.scoring.features import Features, inception
from maskgit_cli.scoring.preparation import clean_resize, crop_adm, prepare, stretch
from maskgit_cli.scoring.stages import fid_stats, score

VQGAN = ScoreConfig(features="vqgan")
ADM_CROPS = Path(__file__).parent.parent / "data" / "metrics" / "adm_crops.npz"


def photograph(height, width, seed=0):
    """A smooth uint8 image (3, H, W) with some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height), 3)
    noisy = np.asarray(small).astype(int) + rng.integers(-20, 21, (height, width, 3))
    return torch.from_numpy(noisy.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def save(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("protocols") / "tokenizer")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recording(monkeypatch, here):
    """Inception with three features, the mean colors, that records its input."""
    seen = []

    class Recording:
        sha256, dimension, side = "ab" * 32, 3, None

        def __init__(self, weights, device):
            pass

        def __call__(self, images):
            seen.append(images)
            return Features(images.float().mean(dim=(2, 3)).numpy())

    monkeypatch.setattr(inception, "InceptionExtractor", Recording)
    monkeypatch.setitem(EXTRACTORS, "inception", replace(EXTRACTORS["inception"], dimension=3))
    (here / "w.pth").touch()
    return seen


# --- pixels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["70x50", "64x64", "40x90", "16x33", "10x12", "131x75"])
def test_crop_is_adms(shape):
    """Crops to 16 px by ``center_crop_arr`` of ADM's published code (guided_diffusion/image_datasets.py)."""
    with np.load(ADM_CROPS) as golden:
        image, expected = golden[f"image_{shape}"], golden[f"crop_{shape}"]
    found = crop_adm(torch.from_numpy(image).permute(2, 0, 1), 16)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_an_image_of_the_resolution_is_not_touched():
    image = photograph(16, 16)
    for protocol, entry in PROTOCOLS.items():
        found = prepare(image, None, protocol, 16)
        if not entry.stretch and entry.resize == "network":
            assert torch.equal(found, image)
    assert torch.equal(crop_adm(image, 16), image)


def test_a_strip_is_refused():
    with pytest.raises(InputError, match="aspect ratio"):
        crop_adm(photograph(4, 400), 16)


def test_clean_resize_is_antialiased_and_not_rounded():
    constant = torch.full((3, 50, 40), 7, dtype=torch.uint8)
    assert torch.allclose(clean_resize(constant), torch.full((3, 299, 299), 7.0), atol=1e-4)
    fine = torch.zeros(3, 64, 64, dtype=torch.uint8)
    fine[:, ::2] = 255  # stripes finer than the result's pixels become gray, not stripes
    found = clean_resize(fine, 16)
    assert found.dtype == torch.float32
    assert (found[:, 2:-2] - 127.5).abs().max() < 2
    assert found.min() >= 0
    assert found.max() <= 255
    assert (found != found.round()).any()


def test_clean_resize_is_clean_fids():
    """Values of clean-fid 0.1.35 (`build_resizer("clean")`) on the diagonal."""
    image = torch.from_numpy((np.arange(48) * 5).astype(np.uint8).reshape(4, 4, 3)).permute(2, 0, 1)
    expected = {
        0: (0.0, 0.0, 0.6575),
        50: (8.2042, 13.2042, 18.2042),
        149: (112.5, 117.5, 122.5),
        200: (165.4976, 170.4976, 175.4976),
        298: (234.3425, 239.3425, 244.3425),
    }
    found = clean_resize(image)
    for place, values in expected.items():
        assert found[:, place, place].tolist() == pytest.approx(values, abs=1e-3)


def test_each_protocol_prepares_in_its_own_way(here, recording):
    photos = save(here / "photos", [photograph(40, 60, i) for i in range(4)])
    samples = save(here / "samples", [photograph(16, 16, 9 + i) for i in range(4)])
    images = [photograph(40, 60, i) for i in range(4)]
    expected = {
        "adm": [crop_adm(x, 16) for x in images],
        "clean": [clean_resize(crop_adm(x, 16)) for x in images],
        "legacy-v1": [stretch(fit_square(x, 16)) for x in images],
    }
    assert expected.keys() == PROTOCOLS.keys()
    names = []
    for protocol, wanted in expected.items():
        recording.clear()
        config = ScoreConfig(protocol=protocol, metrics=("fid",))
        record = score(samples, photos, config, weights=here / "w.pth", out=here / f"{protocol}.json").record
        assert torch.equal(recording[1], torch.stack(wanted))
        assert (record["protocol"], record["resolution"]) == (protocol, 16)
        names += record["metrics"]
    assert [name.removeprefix("frechet_inception_abababab") for name in names] == ["", "_clean", "_legacy_v1"]


# --- resolution -------------------------------------------------------------------------------------


def test_statistics_of_photographs_need_a_resolution_and_record_it(here, recording):
    photos = save(here / "photos", [photograph(40, 60, i) for i in range(5)])
    samples = save(here / "samples", [photograph(16, 16, 9 + i) for i in range(4)])
    options = {"weights": here / "w.pth"}
    with pytest.raises(ConfigError, match=r"photos.*60×40.*--res"):
        fid_stats([photos], here / "ref.npz", **options)
    fid_stats([photos], here / "ref.npz", ScoreConfig(res=16), **options)
    assert read_statistics(here / "ref.npz").resolution == 16
    config = ScoreConfig(metrics=("fid",))
    direct = score(samples, photos, config, out=here / "direct.json", **options).metrics
    assert score(samples, here / "ref.npz", config, out=here / "s.json", **options).metrics == direct
    fid_stats([photos], here / "large.npz", ScoreConfig(res=32), **options)
    with pytest.raises(ArtifactError, match=r"large\.npz.*resolution is 32.*16.*fid-stats.*--res 16"):
        score(samples, here / "large.npz", config, out=here / "t.json", **options)
    fid_stats([photos], here / "v1.npz", ScoreConfig(res=16, protocol="legacy-v1"), **options)
    with pytest.raises(ArtifactError, match=r"v1\.npz.*protocol is legacy-v1.*adm"):
        score(samples, here / "v1.npz", config, out=here / "t.json", **options)
    assert not (here / "t.json").exists()
    # Photographs are cropped to the resolution of stored statistics.
    assert score(photos, here / "ref.npz", config, out=here / "p.json", **options).record["resolution"] == 16


def test_older_statistics_are_scored_with_a_warning(here, tokenizer):
    samples = save(here / "samples", [photograph(16, 16, i) for i in range(9)])
    fid_stats([samples], here / "new.npz", VQGAN, tokenizer=tokenizer)
    write_statistics(here / "old.npz", replace(read_statistics(here / "new.npz"), resolution=None))
    record = score(samples, here / "old.npz", VQGAN, tokenizer=tokenizer).record
    assert any("old.npz" in text and "resolution" in text for text in record["warnings"])


# --- ADM's reference batches ------------------------------------------------------------------------


def test_images_next_to_statistics_serve_metrics_that_need_features(here, tokenizer):
    samples = save(here / "samples", [photograph(16, 16, i) for i in range(12)])
    batch = [photograph(16, 16, 50 + i) for i in range(10)]
    everything = save(here / "all", batch + [photograph(16, 16, 90 + i) for i in range(10)])
    whole = read_statistics(fid_stats([everything], here / "all.npz", VQGAN, tokenizer=tokenizer))
    pixels = torch.stack(batch).permute(0, 2, 3, 1).numpy()
    np.savez(here / "adm.npz", arr_0=pixels, mu=whole.mu, sigma=whole.sigma)
    config = replace(VQGAN, metrics=("fid", "prdc"))
    record = score(samples, here / "adm.npz", config, tokenizer=tokenizer, out=here / "a.json").record
    fid = score(samples, everything, config, tokenizer=tokenizer, out=here / "b.json").metrics
    prdc = score(samples, pixels, config, tokenizer=tokenizer).metrics
    assert record["metrics"]["frechet_vqgan"] == pytest.approx(fid["frechet_vqgan"], rel=1e-9)
    for name in ("precision", "recall", "density", "coverage"):
        assert record["metrics"][f"{name}_vqgan"] == prdc[f"{name}_vqgan"]
    assert record["reference"]["n_images"] == 10
    assert record["n_ref"] is None
    with pytest.raises(ArtifactError, match=r"adm\.npz.*--features"):
        score(samples, here / "adm.npz", out=here / "c.json")


def test_float16_statistics_are_refused(here):
    np.savez(here / "half.npz", mu=np.zeros(3, np.float16), sigma=np.eye(3, dtype=np.float16))
    with pytest.raises(ArtifactError, match=r"half\.npz.*float16"):
        read_statistics(here / "half.npz")
