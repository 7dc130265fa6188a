"""Stages `fid` and `fid-stats`: sources, names, warnings, refusals, and torch-fidelity's own numbers."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_inception import make_inception
from resigned import rewrite_record
from tiny_models import make_model, make_tokenizer

from maskgit_cli.cli import main
from maskgit_cli.config.features import EXTRACTORS, INCEPTION_SHA256, FeatureSpace
from maskgit_cli.config.metrics import METRICS
from maskgit_cli.config.samplers import ConfidenceConfig
from maskgit_cli.config.stages import SampleConfig, ScoreConfig
from maskgit_cli.data.images import read_image
from maskgit_cli.data.sources import open_source
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, OutputError, WeightsError
from maskgit_cli.formats.atomic import read_json, sha256_file
from maskgit_cli.formats.feature_statistics import (
    Statistics,
    moments_of,
    read_statistics,
    write_statistics,
)
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.runtime.distributed import World
from maskgit_cli.runtime.progress import SILENT
from maskgit_cli.sampling.images import sample
from maskgit_cli.scoring import extraction
from maskgit_cli.scoring.extraction import extract
from maskgit_cli.scoring.features import Features, inception
from maskgit_cli.scoring.features.tokenizer import TokenizerExtractor
from maskgit_cli.scoring.metrics.frechet import frechet_distance
from maskgit_cli.scoring.preparation import stretch
from maskgit_cli.scoring.sources import newest_samples, scores_path
from maskgit_cli.scoring.stages import fid_stats, score

INCEPTION = EXTRACTORS["inception"].space
VQGAN = ScoreConfig(features="vqgan")


class Listener:
    """A reporter that records messages."""

    def __init__(self):
        self.messages, self.warnings = [], []
        self.info, self.warn, self.task = self.messages.append, self.warnings.append, SILENT.task


def make_images(path: Path, n: int, seed: int = 0, side: int = 16, start: int = 0) -> Path:
    """Smooth colored images; image i depends on (seed, i) only."""
    path.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + n):
        rng = np.random.default_rng((seed, i))
        small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(path / f"{i:03d}.png")
    return path


def as_npz(folder: Path, path: Path) -> Path:
    images = [np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]
    np.savez(path, np.stack(images))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("scoring")


@pytest.fixture(scope="module")
def tokenizer(place):
    return make_tokenizer(place / "tokenizer")


@pytest.fixture(scope="module")
def real(place):
    return make_images(place / "real", 30, seed=1)


@pytest.fixture(scope="module")
def fake(place):
    return make_images(place / "fake", 24, seed=2)


@pytest.fixture(scope="module")
def inception_file(place):
    return make_inception(place / "random.pth")


@pytest.fixture(scope="module")
def sampled(place):
    """A sample directory, and its model."""
    model = make_model(place / "model")
    return sample(
        model, place / "sampled", SampleConfig(n=12), ConfidenceConfig(steps=2), device="cpu"
    ).path, model


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- Inception --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # torch-fidelity starts more workers than this machine may have cores
def test_scores_are_torch_fidelitys_own(here, inception_file):
    """The same PNGs, the same random weights: through a folder, and through stored statistics."""
    from torch_fidelity import calculate_metrics

    a, b = make_images(here / "a", 8, seed=3, side=24), make_images(here / "b", 10, seed=4, side=24)
    expected = calculate_metrics(
        input1=str(a),
        input2=str(b),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        cuda=False,
        fid=True,
        isc=True,
        prc=True,
        kid=True,
        kid_subsets=20,
        kid_subset_size=6,
        isc_splits=2,
        samples_shuffle=False,
        batch_size=5,
        cache=False,
        verbose=False,
    )
    listener = Listener()
    shared = {"weights": inception_file, "device": "cpu", "reporter": listener}
    ref = fid_stats([b], here / "ref.npz", with_features=True, **shared)
    config = ScoreConfig(splits=2, kid_subsets=20, kid_subset_size=6)
    record = score(a, ref, config, batch_size=3, **shared).record

    ending = "inception_" + sha256_file(inception_file)[:8]
    found = record["metrics"]
    published = {
        f"frechet_{ending}": "frechet_inception_distance",
        f"classifier_score_{ending}": "inception_score_mean",
        f"classifier_score_std_{ending}": "inception_score_std",
        f"kernel_distance_{ending}": "kernel_inception_distance_mean",
        f"kernel_distance_std_{ending}": "kernel_inception_distance_std",
        f"precision_{ending}": "precision",
        f"recall_{ending}": "recall",
    }
    assert found.keys() - {f"spatial_frechet_{ending}"} == published.keys() | {
        f"density_{ending}",
        f"coverage_{ending}",
    }
    for ours, theirs in published.items():
        assert found[ours] == pytest.approx(expected[theirs], rel=1e-4), ours
    assert expected["inception_score_mean"] > 1.05
    assert not any("fid" in name for name in found)
    assert record["features"] == {
        "space": INCEPTION,
        "sha256": sha256_file(inception_file),
        "dimension": 2048,
    }
    assert any(INCEPTION_SHA256 in text for text in listener.warnings)
    assert any("8 samples for 2048 features" in text for text in record["warnings"])
    assert any("10 reference images for 2048 features" in text for text in record["warnings"])
    assert record["warnings"] == [text for text in listener.warnings if INCEPTION_SHA256 not in text]


def test_without_weights_it_fails_in_one_line(here, real, fake, monkeypatch, capsys):
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(here / "hub"))
    with pytest.raises(WeightsError):
        score(fake, real, out=here / "s.json")
    with pytest.raises(SystemExit) as status:
        main(["fid", str(fake), "--ref", str(real), "--out", "s.json"])
    assert status.value.code == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1
    assert INCEPTION_SHA256 in shown.err
    assert list(here.iterdir()) == []


def statistics_of(vectors, **changes):
    moments = moments_of(vectors)
    known = {"n": moments.n, "space": INCEPTION, "space_sha256": INCEPTION_SHA256, "resolution": 16}
    return Statistics(moments.mean, moments.covariance(), **{**known, **changes})


def published(monkeypatch):
    """Give the published features 4 dimensions, so that the tests stay small."""
    monkeypatch.setitem(EXTRACTORS, "inception", replace(EXTRACTORS["inception"], dimension=4))


def test_statistics_are_compared_without_weights(here, monkeypatch):
    """Two files need no network at all; the published features' distance is called FID."""
    published(monkeypatch)
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 4)).astype(np.float32) for n in (40, 50))
    logits = rng.normal(size=(40, 9)).astype(np.float32)
    write_statistics(here / "a.npz", statistics_of(a, features=a, logits=logits))
    write_statistics(here / "b.npz", statistics_of(b, features=b))
    record = score(here / "a.npz", here / "b.npz", ScoreConfig(kid_subset_size=40)).record
    assert set(record["metrics"]) == {
        "fid",
        "kid",
        "kid_std",
        "inception_score",
        "inception_score_std",
        "precision",
        "recall",
        "density",
        "coverage",
    }
    expected = frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert record["metrics"]["fid"] == pytest.approx(expected, rel=1e-4)
    assert (record["n"], record["n_ref"], set(record["left_out"])) == (40, 50, {"sfid", "cmmd"})
    known = ("50,000", "splits", "precision")
    assert [next(w for w in known if w in text) for text in record["warnings"]] == [*known]


def test_intervals_and_the_curve_are_in_the_record(here, monkeypatch):
    published(monkeypatch)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 4)).astype(np.float32) for n in (40, 50))
    write_statistics(here / "a.npz", statistics_of(a, features=a))
    write_statistics(here / "b.npz", statistics_of(b))
    config = ScoreConfig(metrics=("fid", "kid"), interval=True, per_class=True, curve=True)
    record = score(here / "a.npz", here / "b.npz", config, out=here / "s.json").record
    assert record == read_json(here / "s.json", "scores")
    low, high = record["intervals"]["fid"]
    assert record["intervals"].keys() == {"fid"}
    assert low < record["metrics"]["fid"] < high
    assert record["curve"][-1] == [40, pytest.approx(record["metrics"]["fid"])]
    assert record["fid_infinity"] < record["metrics"]["fid"]
    assert set(record["left_out"]) == {"kid", "per_class"}
    plain = score(here / "a.npz", here / "b.npz", ScoreConfig(metrics=("fid",)), out=here / "p.json").record
    assert not plain.keys() & {"intervals", "curve", "fid_infinity", "per_class"}
    assert plain["metrics"]["fid"] == record["metrics"]["fid"]


def test_the_command_shows_intervals_and_plots_the_curve(here, monkeypatch, capsys):
    published(monkeypatch)
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 4)).astype(np.float32)
    write_statistics(here / "a.npz", statistics_of(a, features=a))
    words = ("fid", "a.npz", "--ref", "a.npz", "--out", "s.json", "--metrics", "fid", "--interval", "--curve")
    code, out, err = run(capsys, *words)
    assert (code, out.strip()) == (0, "s.json")
    low, high = read_json(here / "s.json", "scores")["intervals"]["fid"]
    assert f"({low:.6g} to {high:.6g})" in err
    assert "fid_infinity" in err
    assert "s-curve.png" in err
    assert Image.open(here / "s-curve.png").format == "PNG"
    assert run(capsys, *words[:-2], "--overwrite")[0] == 0
    assert "curve" not in read_json(here / "s.json", "scores")


def test_without_moments_of_spatial_features_sfid_is_left_out(here, monkeypatch, fake, real, tokenizer):
    published(monkeypatch)
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 4)).astype(np.float32)
    write_statistics(here / "a.npz", statistics_of(a))
    config = ScoreConfig(metrics=("fid", "sfid"))
    assert "spatial" in score(here / "a.npz", here / "a.npz", config).record["left_out"]["sfid"]
    config = replace(config, features="vqgan")
    record = score(fake, real, config, tokenizer=tokenizer, out=here / "s.json").record
    assert "vqgan" in record["left_out"]["sfid"]


def test_enough_images_are_not_warned_about(here, monkeypatch):
    published(monkeypatch)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 4)).astype(np.float32) for n in (50_000, 10_001))
    logits = rng.normal(size=(50_000, 9)).astype(np.float32)
    write_statistics(here / "a.npz", statistics_of(a, features=a, logits=logits))
    write_statistics(here / "b.npz", statistics_of(b))
    assert score(here / "a.npz", here / "b.npz").record["warnings"] == []


@pytest.mark.parametrize(("n", "name"), [(49_999, "fid"), (50_000, "fid_50k"), (50_001, "fid")])
def test_fid_50k_means_fifty_thousand(here, monkeypatch, n, name):
    published(monkeypatch)
    features = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float32)
    write_statistics(here / "a.npz", statistics_of(features))
    write_statistics(here / "b.npz", statistics_of(features[:100]))
    config = ScoreConfig(metrics=("fid",))
    assert list(score(here / "a.npz", here / "b.npz", config).record["metrics"]) == [name]


def test_other_projects_statistics_need_the_name_of_their_space(here, monkeypatch):
    published(monkeypatch)
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    write_statistics(here / "a.npz", statistics_of(features))
    np.savez(here / "adm.npz", mu=np.zeros(4), sigma=np.eye(4), mu_s=np.zeros(2), sigma_s=np.eye(2))
    listener = Listener()
    with pytest.raises(ArtifactError, match=r"adm\.npz.*--features"):
        score(here / "a.npz", here / "adm.npz")
    record = score(here / "a.npz", here / "adm.npz", ScoreConfig("inception"), reporter=listener).record
    assert "fid" in record["metrics"]
    assert record["n_ref"] is None
    assert set(record["left_out"]) == {"sfid", "kid", "is", "prdc", "cmmd"}
    assert any("adm.npz" in text for text in record["warnings"])
    assert any(f"({name})" in text for name in ("is", "prdc") for text in listener.messages)


def test_statistics_of_another_space_are_refused(here, real, fake, tokenizer):
    other = make_tokenizer(here / "other", seed=1)
    ref = fid_stats([real], here / "ref.npz", VQGAN, tokenizer=other)
    with pytest.raises(ArtifactError, match=r"ref\.npz.*--tokenizer"):
        score(fake, ref, VQGAN, tokenizer=tokenizer, out=here / "s.json")
    np.savez(here / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(ArtifactError, match=r"adm\.npz.*2048"):  # taken as vqgan, as --features says
        score(fake, here / "adm.npz", VQGAN, tokenizer=tokenizer, out=here / "s.json")
    assert not (here / "s.json").exists()


def test_statistics_of_an_unknown_space_are_refused(here):
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    write_statistics(here / "a.npz", statistics_of(features, space="nonsense"))
    with pytest.raises(ArtifactError, match=r"a\.npz.*nonsense"):
        score(here / "a.npz", here / "a.npz")


def test_statistics_that_cannot_be_merged_are_refused_before_extraction(here, real, tokenizer, monkeypatch):
    np.savez(here / "adm.npz", mu=np.zeros(8), sigma=np.eye(8))
    monkeypatch.setattr(TokenizerExtractor, "__call__", None)
    with pytest.raises(InputError, match=r"adm\.npz"):
        fid_stats([real, here / "adm.npz"], here / "out.npz", VQGAN, tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"adm\.npz"):
        fid_stats([here / "adm.npz"], here / "out.npz")


# --- the paper's own evaluator ---------------------------------------------------------------------


def test_stretch_is_the_papers():
    image = torch.tensor([[[50, 100]], [[60, 70]], [[50, 150]]], dtype=torch.uint8)
    # (x - 50) / 100 · 255, truncated
    assert stretch(image).flatten().tolist() == [0, 127, 25, 51, 0, 255]
    assert stretch(torch.full((3, 2, 2), 7, dtype=torch.uint8)).unique().tolist() == [0]


def test_legacy_protocol_stretches_and_is_recorded(here, monkeypatch):
    seen = []

    class Watching:
        sha256, dimension, side = "ab" * 32, 3, None

        def __init__(self, weights, device):
            assert weights == here / "w.pth"

        def __call__(self, images):
            seen.append(images)
            return Features(images.float().mean(dim=(2, 3)).numpy(), None)

    monkeypatch.setattr(inception, "InceptionExtractor", Watching)
    monkeypatch.setitem(EXTRACTORS, "inception", replace(EXTRACTORS["inception"], dimension=3))
    dull = here / "dull"
    for i, file in enumerate(sorted(make_images(here / "bright", 4).iterdir())):
        dull.mkdir(exist_ok=True)
        Image.fromarray(np.asarray(Image.open(file)) // 2 + 10 * i).save(dull / file.name)
    config = ScoreConfig(protocol="legacy-v1", metrics=("fid",))
    record = score(dull, here / "bright", config, weights=here / "w.pth", out=here / "s.json").record
    assert all(int(image.min()) == 0 and int(image.max()) == 255 for batch in seen for image in batch)
    assert record["protocol"] == "legacy-v1"
    assert list(record["metrics"]) == ["frechet_inception_abababab_legacy_v1"]
    with pytest.raises(ConfigError, match=r"--protocol legacy-v1.*--features inception"):
        score(dull, dull, ScoreConfig(features="vqgan", protocol="legacy-v1"), out=here / "t.json")


# --- sources ----------------------------------------------------------------------------------------


def test_every_container_of_the_same_pixels_scores_the_same(here, fake, real, tokenizer):
    as_npz(fake, here / "fake.npz")
    packed = here / "packed.npz"
    np.savez_compressed(packed, np.load(here / "fake.npz")["arr_0"])
    rows = "".join(f"{file},{i % 2}\n" for i, file in enumerate(sorted(fake.iterdir())))
    (here / "fake.csv").write_text(rows)
    for i, file in enumerate(sorted(fake.iterdir())):
        (here / "classes" / str(i // 12)).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, here / "classes" / str(i // 12))
    fid_stats([fake], here / "stats.npz", VQGAN, tokenizer=tokenizer, with_features=True)
    ref = fid_stats([real], here / "ref.npz", VQGAN, tokenizer=tokenizer, with_features=True)
    results = [
        score(source, ref, VQGAN, tokenizer=used, out=here / f"{i}.json", batch_size=size).record
        for i, (source, size, used) in enumerate(
            [
                (fake, 32, tokenizer),
                (fake, 1, tokenizer),
                (here / "fake.npz", 5, tokenizer),
                (packed, 7, tokenizer),
                (here / "fake.csv", 3, tokenizer),
                (here / "classes", 4, tokenizer),
                (here / "stats.npz", 1, None),
            ]
        )
    ]
    assert set(results[0]["metrics"]) == {f"{name}_vqgan" for name in ("frechet", *PRDC_NAMES)}
    assert results[0]["metrics"]["frechet_vqgan"] > 0
    for other in results[1:]:
        assert other["metrics"] == results[0]["metrics"]
    digests = {record["samples"].get("pixels_sha256") for record in results[:-1]}
    assert len(digests) == 1
    assert list(results[0]["left_out"]) == ["sfid", "kid", "is", "cmmd"]
    assert "--kid-subset-size 1000: must be 24 or less" in results[0]["left_out"]["kid"]


PRDC_NAMES = ("precision", "recall", "density", "coverage")


def test_samples_their_tokens_and_their_pngs_are_the_same_images(here, sampled, real):
    path, model = sampled
    digests = set()
    for i, source in enumerate((path, path / "tokens.h5", path / "images")):
        record = score(source, real, VQGAN, tokenizer=model, out=here / f"{i}.json").record
        digests.add((record["samples"]["pixels_sha256"], record["metrics"]["frechet_vqgan"]))
        assert record["n"] == 12
    assert len(digests) == 1
    assert score(path, real, VQGAN, tokenizer=model, out=here / "3.json").record["samples"] == {
        "kind": "samples",
        "name": "sampled",
        "sha256": sha256_file(path / "tokens.h5"),
        "pixels_sha256": digests.pop()[0],
        "n": 12,
    }


def test_scores_record_the_sampling_settings_and_are_in_the_sample_directory(sampled, real):
    path, model = sampled
    try:
        result = score(path, real, VQGAN, tokenizer=model)
        assert result.path == path / "scores.json"
        assert read_json(result.path, "scores") == result.record
        settings = json.loads((path / "settings.json").read_text())["settings"]
        assert result.record["sample_settings"] == settings
        assert result.record["settings"] == VQGAN.to_json()
        assert score(path, real, VQGAN, tokenizer=model).record == result.record
        with pytest.raises(OutputError, match=r"--neighbors 3, not 4.*--overwrite"):
            score(path, real, replace(VQGAN, neighbors=4), tokenizer=model)
        score(path, real, VQGAN, tokenizer=model, overwrite=True)
    finally:
        (path / "scores.json").unlink(missing_ok=True)


def test_scores_never_go_among_images(here, fake, monkeypatch):
    assert scores_path(fake) == fake.parent / "fake.scores.json"
    assert scores_path(Path("x/a.npz")) == Path("x/a.scores.json")
    (here / "pics").mkdir()
    assert scores_path(Path("pics")) == Path("pics.scores.json")  # as it was typed
    monkeypatch.chdir("pics")
    assert scores_path(Path()) == here / "pics.scores.json"


def test_the_newest_samples_are_scored_when_none_are_named(here, sampled, real):
    path, model = sampled
    with pytest.raises(InputError, match="samples/"):
        newest_samples()
    shutil.copytree(path, here / "samples" / "old")
    shutil.copytree(path, here / "samples" / "new")
    (here / "samples" / "new" / "tokens.h5").touch()
    inpainted = shutil.copytree(path, here / "samples" / "inpainted")
    rewrite_record(inpainted / "settings.json", stage="inpaint")
    (inpainted / "tokens.h5").touch()
    listener = Listener()
    result = score(None, real, VQGAN, tokenizer=model, reporter=listener)
    assert result.path == Path("samples/new/scores.json")
    assert "samples/new" in listener.messages[0]


def test_token_files_among_sample_directories_are_not_samples(here, sampled):
    """Such as one tokenized or copied to ``samples/``, or to a directory of its own there."""
    path, _ = sampled
    shutil.copytree(path, here / "samples" / "mine")
    (here / "samples" / "tokens").mkdir()
    for place in ("samples", "samples/tokens"):
        shutil.copy(path / "tokens.h5", here / place / "tokens.h5")
    assert newest_samples() == Path("samples/mine")
    shutil.rmtree(here / "samples" / "mine")
    with pytest.raises(InputError, match="samples/"):
        newest_samples()


def test_the_tokenizer_is_found_by_its_digest(here, sampled, real):
    path, model = sampled
    with pytest.raises(ArtifactError):
        score(path / "tokens.h5", real, VQGAN, out=here / "s.json")
    (here / "runs").mkdir()
    shutil.copytree(model / "tokenizer", here / "runs" / "mine" / "tokenizer")
    record = score(path / "tokens.h5", real, VQGAN, out=here / "s.json").record
    assert record["features"]["sha256"] == load_tokenizer(model).sha256


def test_another_tokenizer_is_refused(here, sampled, real):
    other = make_tokenizer(here / "other", seed=9)
    with pytest.raises(ArtifactError, match="other"):
        score(sampled[0] / "tokens.h5", real, VQGAN, tokenizer=other, out=here / "s.json")


def test_samples_with_a_missing_png_are_refused(here, sampled, real):
    path, model = sampled
    shutil.copytree(path, here / "copy")
    (here / "copy" / "images" / "000003.png").unlink()
    with pytest.raises(ArtifactError, match="11 images, not 12"):
        score(here / "copy", real, VQGAN, tokenizer=model)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_image_that_cannot_be_read_stops_the_scoring(here, fake, real, tokenizer, content):
    shutil.copytree(fake, here / "fake")
    bad = here / "fake" / "007.png"
    bad.write_bytes(bad.read_bytes()[:60] if content is None else content)
    with pytest.raises(InputError, match=r"007\.png"):
        score(here / "fake", real, VQGAN, tokenizer=tokenizer)
    assert not (here / "fake.scores.json").exists()


def test_bad_sources(here, real, tokenizer):
    (here / "empty").mkdir()
    (here / "text.h5").write_text("x")
    np.savez(here / "floats.npz", np.zeros((3, 4, 4, 3)))
    np.savez(here / "named.npz", pictures=np.zeros((3, 4, 4, 3), np.uint8))
    make_images(here / "one", 1)
    np.savez(here / "cut.npz", np.zeros((9, 16, 16, 3), np.uint8))
    (here / "cut.npz").write_bytes((here / "cut.npz").read_bytes()[:-300])
    for name, reason in {
        "nothing": "no such",
        "empty": "no image",
        "text.h5": "text.h5",
        "floats.npz": "float64",
        "named.npz": "arr_0",
        "one": "one image",
        "cut.npz": "cut.npz",
    }.items():
        with pytest.raises((InputError, ArtifactError), match=reason):
            score(here / name, real, VQGAN, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="--batch-size 0"):
        score(real, real, VQGAN, tokenizer=tokenizer, batch_size=0)


def test_images_of_several_sizes(here, fake, real, tokenizer):
    mixed = make_images(here / "mixed", 4, side=20)
    make_images(mixed, 4, start=4, side=24)
    with pytest.raises(InputError, match=r"20×20 and 24×24.*--res"):
        score(mixed, real, VQGAN, tokenizer=tokenizer)
    record = score(mixed, real, replace(VQGAN, res=20), tokenizer=tokenizer).record
    assert record["resolution"] == 20
    assert any(text.startswith("4 of 8 samples were resized") for text in record["warnings"])
    assert any(
        text.startswith("30 of 30 reference images have a side below 20") for text in record["warnings"]
    )
    large = make_images(here / "large", 4, side=32)
    record = score(fake, large, VQGAN, tokenizer=tokenizer, out=here / "s.json").record
    assert record["resolution"] == 16
    assert not any("resized" in text or "enlarged" in text for text in record["warnings"])

    class Recording:
        side, dimension, sha256 = None, 3, ""

        def __init__(self):
            self.shapes = []

        def __call__(self, images):
            self.shapes.append(tuple(images.shape))
            return Features(images.float().mean(dim=(2, 3)).numpy(), None)

    # An extractor that takes any size receives images as they are, one call per size, in order.
    extractor = Recording()
    found = extract(open_source(mixed), extractor, FeatureSpace("", "", 3), keep={"features"}, batch_size=6)
    assert extractor.shapes == [(4, 3, 20, 20), (2, 3, 24, 24), (2, 3, 24, 24)]
    means = [read_image(file).float().mean(dim=(1, 2)).numpy() for file in sorted(mixed.iterdir())]
    np.testing.assert_allclose(found.features, np.stack(means), rtol=1e-5)


def test_few_images_are_warned_about_with_the_number(here, real, tokenizer):
    few = make_images(here / "few", 8)
    listener = Listener()
    record = score(few, real, VQGAN, tokenizer=tokenizer, reporter=listener).record
    (warning,) = [text for text in record["warnings"] if "singular" in text]
    assert warning.startswith("8 samples for 8 features")
    assert warning in listener.warnings
    tiny = make_images(here / "tiny", 3)
    record = score(tiny, real, VQGAN, tokenizer=tokenizer).record
    assert "--neighbors 3: must be less than 3" in record["left_out"]["prdc"]
    assert list(record["metrics"]) == ["frechet_vqgan"]


def test_scoring_images_against_themselves_is_warned_about(here, real, tokenizer):
    record = score(real, real, VQGAN, tokenizer=tokenizer, out=here / "s.json").record
    assert record["metrics"]["frechet_vqgan"] == pytest.approx(0, abs=1e-12)
    assert any("same" in text for text in record["warnings"])


def test_what_a_tokenizers_features_cannot_tell_is_said(here, fake, real, tokenizer):
    listener = Listener()
    record = score(fake, real, VQGAN, tokenizer=tokenizer, out=here / "s.json", reporter=listener).record
    (warning,) = [text for text in record["warnings"] if "unrecognizable" in text]
    assert warning in listener.warnings
    again = Listener()  # a finished score has its warnings, too
    score(fake, real, VQGAN, tokenizer=tokenizer, out=here / "s.json", reporter=again)
    assert again.warnings == record["warnings"]


def test_tokens_of_another_tokenizer_are_said(here, sampled, real, tokenizer):
    """Samples with images do not need their tokenizer, so that of the features may be another one."""
    samples, model = sampled
    other = make_tokenizer(here / "other", seed=1)
    record = score(samples, real, VQGAN, tokenizer=other, out=here / "a.json").record
    (warning,) = [text for text in record["warnings"] if "decoded by tokenizer" in text]
    assert warning.startswith("the samples were")
    assert sha256_file(other / "model.safetensors")[:12] in warning
    record = score(samples, real, VQGAN, tokenizer=model, out=here / "b.json").record
    assert not any("decoded by tokenizer" in text for text in record["warnings"])


def test_images_that_occur_twice_are_said(here, real, fake, tokenizer):
    copies = here / "copies"
    copies.mkdir()
    for i, image in enumerate(sorted(fake.iterdir())[:4]):
        for name in ("a", "b")[: 1 + (i < 3)]:
            shutil.copy(image, copies / f"{i}{name}.png")
    shutil.copy(min(real.iterdir()), copies / "real.png")
    record = score(copies, real, VQGAN, tokenizer=tokenizer).record
    assert "3 of 8 samples repeat another one pixel for pixel" in record["warnings"]
    assert "1 of 8 samples are, pixel for pixel, reference images" in record["warnings"]


def test_missing_classes_are_said(here, fake, tokenizer):
    for folder, classes in (("all", "abcde"), ("some", "ab")):
        for kind in classes:
            (here / folder / kind).mkdir(parents=True)
            for i, image in enumerate(sorted(fake.iterdir())[:3]):
                shutil.copy(image, here / folder / kind / f"{i}.png")
    record = score(here / "some", here / "all", VQGAN, tokenizer=tokenizer).record
    assert "the samples have no image of 3 of the other side's 5 classes: c, d, e" in record["warnings"]
    record = score(here / "all", here / "some", VQGAN, tokenizer=tokenizer).record
    assert any(text.startswith("the reference images have no image of 3") for text in record["warnings"])


# --- reference statistics ---------------------------------------------------------------------------


def test_statistics_of_halves_merge_into_those_of_the_whole(here, tokenizer):
    """From images, whatever the batch size. Images and files may be pooled in one call."""
    a, b = make_images(here / "a", 9, side=20), make_images(here / "b", 6, start=9, side=20)
    whole = make_images(here / "whole", 15, side=20)
    options = {"tokenizer": tokenizer, "with_features": True}
    fid_stats([a], here / "a.npz", VQGAN, batch_size=2, **options)
    fid_stats([b], here / "b.npz", VQGAN, batch_size=32, **options)
    fid_stats([whole], here / "whole.npz", VQGAN, batch_size=4, **options)
    fid_stats([here / "a.npz", here / "b.npz"], here / "merged.npz")
    fid_stats([a, here / "b.npz"], here / "pooled.npz", VQGAN, **options)
    expected = read_statistics(here / "whole.npz")
    assert expected.n == 15
    for name in ("merged.npz", "pooled.npz"):
        found = read_statistics(here / name)
        for key in ("n", "space", "space_sha256", "protocol"):
            assert getattr(found, key) == getattr(expected, key)
        assert np.array_equal(found.features, expected.features)
        for key in ("mu", "sigma"):
            scale = np.abs(getattr(expected, key)).max()
            np.testing.assert_allclose(getattr(found, key), getattr(expected, key), atol=1e-12 * scale)
    assert [parent["kind"] for parent in read_statistics(here / "pooled.npz").parents] == [
        "images",
        "statistics",
    ]


def test_statistics_without_features(here, real, fake, tokenizer):
    ref = fid_stats([real], here / "ref.npz", VQGAN, tokenizer=tokenizer)
    assert read_statistics(ref).features is None
    record = score(fake, ref, VQGAN, tokenizer=tokenizer, out=here / "s.json").record
    assert list(record["metrics"]) == ["frechet_vqgan"]
    assert "--with-features" in record["left_out"]["prdc"]
    listener = Listener()
    fid_stats(
        [ref, fake], here / "all.npz", VQGAN, tokenizer=tokenizer, with_features=True, reporter=listener
    )
    assert any("no features" in text for text in listener.warnings)
    assert fid_stats([real], ref, VQGAN, tokenizer=tokenizer) == ref
    with pytest.raises(OutputError, match=r"--with-features False, not True.*--overwrite"):
        fid_stats([real], ref, VQGAN, tokenizer=tokenizer, with_features=True)
    with pytest.raises(OutputError, match=r"images [0-9a-f]{12}, not.*--overwrite"):
        fid_stats([fake], ref, VQGAN, tokenizer=tokenizer)
    with pytest.raises(InputError, match="no source"):
        fid_stats([], here / "none.npz")


class Gathered(Exception):
    """Carries the value that a rank hands to the others."""


class Counter:
    """A reporter that counts one rank's progress."""

    done = 0

    def task(self, description, total, done=0, unit="images"):
        return contextlib.nullcontext(self)

    def advance(self, n=1, **stats):
        self.done += n


def test_processes_share_images_and_agree(real, tokenizer, monkeypatch):
    """Three ranks gather what one computes: sums, order of features, digest."""
    monkeypatch.setattr(extraction, "UNIT", 4)
    images, extractor = open_source(real), TokenizerExtractor(load_tokenizer(tokenizer))
    space = FeatureSpace("vqgan", extractor.sha256, extractor.dimension, resolution=16)
    alone = extract(images, extractor, space, keep={"features"})

    def hand_over(share):
        raise Gathered(share)

    shares = []
    monkeypatch.setattr(extraction, "gather_objects", hand_over)
    for rank in range(3):
        monkeypatch.setattr(extraction, "world", lambda rank=rank: World(rank, 3))
        counter = Counter()
        with pytest.raises(Gathered) as gathered:
            extract(images, extractor, space, keep={"features"}, batch_size=3, reporter=counter)
        shares.append(gathered.value.args[0])
        assert counter.done >= 24  # of 30: a rank counts for all
    assert [sum(len(chunk.digests) for chunk in share.chunks) for share in shares] == [12, 10, 8]
    monkeypatch.setattr(extraction, "gather_objects", lambda share: shares)
    together = extract(images, extractor, space, keep={"features"})
    assert together.sha256 == alone.sha256
    assert together.sizes == alone.sizes
    assert np.array_equal(together.features, alone.features)
    assert together.moments.n == 30
    np.testing.assert_allclose(together.moments.scatter, alone.moments.scatter, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 30])
def test_statistics_do_not_depend_on_the_batch_size(real, tokenizer, monkeypatch, batch_size):
    """Not in their last bits either: the chunks of the sums are the same."""
    monkeypatch.setattr(extraction, "UNIT", 4)
    images, extractor = open_source(real), TokenizerExtractor(load_tokenizer(tokenizer))
    space = FeatureSpace("vqgan", extractor.sha256, extractor.dimension, resolution=16)
    found = extract(images, extractor, space, batch_size=batch_size).moments
    expected = extract(images, extractor, space, batch_size=4).moments
    assert np.array_equal(found.mean, expected.mean)
    assert np.array_equal(found.scatter, expected.scatter)


def test_an_npz_is_streamed_to_any_share(here, real):
    images = open_source(as_npz(real, here / "real.npz"))
    assert len(images) == 30
    (batch,) = images.batches([2, 3, 29], 5)
    files = sorted(real.iterdir())
    for image, index in zip(batch, (2, 3, 29), strict=True):
        assert torch.equal(image, read_image(files[index]))


# --- the commands -----------------------------------------------------------------------------------


def run(capsys, *words):
    with pytest.raises(SystemExit) as status:
        main([str(word) for word in words])
    shown = capsys.readouterr()
    return status.value.code, shown.out, shown.err


def test_commands(here, real, fake, tokenizer, capsys):
    shared = ("--features", "vqgan", "--tokenizer", tokenizer)
    code, out, _ = run(capsys, "fid-stats", real, "ref.npz", *shared, "--with-features")
    assert (code, out) == (0, "ref.npz\n")
    code, out, err = run(capsys, "fid", fake, "--ref", "ref.npz", "--out", "s.json", *shared)
    assert (code, out) == (0, "s.json\n")
    assert "frechet_vqgan" in err
    words = ("fid", fake, "--ref", "ref.npz", "--out", "s.json", *shared, "--metrics", "fid, prdc", "--quiet")
    code, out, err = run(capsys, *words)
    assert (code, out) == (1, "")
    assert "--overwrite" in err
    code, out, err = run(capsys, *words, "--overwrite", "--json")
    record = json.loads(out)
    assert (code, record["path"]) == (0, "s.json")
    assert err == "".join(f"warning: {text}\n" for text in record["warnings"])  # not silenced by --quiet
    assert record["metrics"] == json.loads((here / "s.json").read_text())["metrics"]
    assert record["settings"]["metrics"] == ["fid", "prdc"]


@pytest.mark.parametrize(
    ("words", "statuses", "named"),
    [
        (["fid", "x"], {2}, ["--ref"]),
        (["fid-stats", "ref.npz"], {2}, ["SOURCE"]),
        (["fid", "x", "--ref", "y", "--metrics", "nonsense"], {1, 2}, ["--metrics", "nonsense", *METRICS]),
        (
            ["fid", "x", "--ref", "y", "--features", "nonsense"],
            {1, 2},
            ["--features", "nonsense", *EXTRACTORS],
        ),
        (["fid", "x", "--ref", "y", "--batch-size", "0"], {1}, ["--batch-size 0"]),
        (["fid", "x", "--ref", "y"], {1}, ["x: "]),
        (["fid", "--ref", "y"], {1}, ["samples/"]),
        (["fid-stats", "x", "ref.npz"], {1}, ["x: "]),
    ],
)
def test_usage_errors_and_missing_sources(here, capsys, words, statuses, named):
    code, out, err = run(capsys, *words)
    assert code in statuses
    assert out == ""
    assert all(text in err for text in named), err
    if code == 1:
        assert len(err.strip().splitlines()) == 1


def test_help_lists_every_metric_and_extractor(capsys):
    _, out, _ = run(capsys, "fid", "--help")
    assert all(name in out for name in (*METRICS, *EXTRACTORS))


# --- images in memory -------------------------------------------------------------------------------


def test_images_in_memory_have_the_scores_of_their_files(real, fake, tokenizer, here):
    settings = {"config": ScoreConfig(features="vqgan"), "tokenizer": tokenizer, "device": "cpu"}
    expected = score(fake, real, out=here / "files.json", **settings).record
    tensors = [read_image(path) for path in sorted(fake.iterdir())]
    pictures = [Image.open(path) for path in sorted(fake.iterdir())]
    for samples in (pictures, tensors, [str(path) for path in sorted(fake.iterdir())]):
        found = score(samples, real, **settings)
        assert found.path is None
        assert found.metrics == expected["metrics"]
        assert found.record["samples"]["pixels_sha256"] == expected["samples"]["pixels_sha256"]
    assert (
        score(pictures, [Image.open(path) for path in sorted(real.iterdir())], **settings).metrics
        == (expected["metrics"])
    )
    assert [path.name for path in here.iterdir()] == ["files.json"], "nothing else was written"


def test_stacked_images_in_memory(here, tokenizer):
    settings = {"config": ScoreConfig(features="vqgan", metrics=["fid"]), "tokenizer": tokenizer}
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 3, 16, 16), np.uint8))
    array = pixels.permute(0, 2, 3, 1).numpy()
    np.savez(here / "images.npz", arr_0=array)
    expected = score(here / "images.npz", pixels[:6], device="cpu", **settings).metrics
    assert score(array, pixels[:6], device="cpu", **settings).metrics == expected
    assert score(pixels, array[:6], device="cpu", **settings).metrics == expected
    assert fid_stats([array[:6], pixels[6:]], here / "two.npz", **settings) == here / "two.npz"
    fid_stats([here / "images.npz"], here / "one.npz", **settings)
    one, two = (read_statistics(here / f"{name}.npz") for name in ("one", "two"))
    assert np.allclose(one.mu, two.mu)
    assert np.allclose(one.sigma, two.sigma)
    assert two.n == 12


def test_scores_of_images_in_memory_are_written_where_asked(here, real, fake, tokenizer):
    settings = {"config": ScoreConfig(features="vqgan"), "tokenizer": tokenizer, "device": "cpu"}
    pictures = [Image.open(path) for path in sorted(fake.iterdir())]
    done = score(pictures, real, out="scores.json", **settings)
    assert read_json(here / "scores.json", "scores")["metrics"] == done.metrics
    assert score(pictures, real, out="scores.json", **settings).record == done.record  # complete already
    with pytest.raises(OutputError):
        score(pictures[1:], real, out="scores.json", **settings)


def test_a_notebook_shows_scores_as_a_table(here, real, fake, tokenizer):
    pictures = [Image.open(path) for path in sorted(fake.iterdir())]
    done = score(pictures, real, ScoreConfig(features="vqgan"), tokenizer=tokenizer, device="cpu")
    text = done._repr_html_()
    for name, value in done.metrics.items():
        assert f"<td>{name}</td><td>{value:.6g}</td>" in text
    assert "24 samples, 30 reference images" in text


def test_images_in_memory_that_cannot_be_scored(real):
    settings = ScoreConfig(features="vqgan")
    with pytest.raises(ConfigError, match="samples: an empty list"):
        score([], real, settings)
    with pytest.raises(ConfigError, match=r"ref\[0\]: its type is float32"):
        score(real, [torch.zeros(3, 8, 8)], settings, out="x.json")
    with pytest.raises(InputError, match="one image"):
        score([torch.zeros(3, 8, 8, dtype=torch.uint8)], real, settings)
    with pytest.raises(InputError, match=r"absent\.png"):
        score(["absent.png", "absent.png"], real, settings)
