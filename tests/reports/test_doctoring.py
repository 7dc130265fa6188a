"""`maskgit doctor`: numbers of known tokens, originals where they are, and what is warned of."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_cli.config.stages import DoctorConfig, SampleConfig, TokenizeConfig
from maskgit_cli.data.decoding import decode
from maskgit_cli.data.images import read_image, views
from maskgit_cli.data.tokenizing import tokenize
from maskgit_cli.errors import InputError, OutputError, WeightsError
from maskgit_cli.figures.sheets import captioned_sheet
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.formats.tokens import TokenMeta, open_tokens
from maskgit_cli.networks.pixels import psnr, ssim
from maskgit_cli.reports.doctoring import diagnose
from maskgit_cli.sampling.images import sample
from maskgit_cli.scoring import perceptual


def write(path, codes, labels, names, tokenizer, *, views="none", classes=("cat", "dog", "owl")):
    """A token file of these tokens (N, V, 4, 4)."""
    sha256 = json.loads((tokenizer / "config.json").read_text())["weights_sha256"]
    meta = TokenMeta(12, 4, 16, views, list(classes), "tokenizer", sha256, {"res": 16, "views": views}, [])
    writer = TokenWriter.create_or_resume(path, meta, names, np.array(labels, np.int32))
    writer.write(np.arange(len(codes)), np.asarray(codes, np.uint16))
    writer.finish([])
    return path


@pytest.fixture
def made(images, tokenizer, tmp_path, monkeypatch):
    """A folder with images of three classes and their tokens."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, "images")
    tokenize("images", "tokens.h5", tokenizer, workers=0, device="cpu")
    return tmp_path


def test_usage_entropy_duplicates_and_balance_of_known_tokens(tokenizer, tmp_path):
    codes = np.zeros((5, 1, 4, 4), np.uint16)
    codes[1, 0, :2] = 3  # rows 0, 2 and 4 are all zeros
    codes[3, 0, 2:] = 3
    path = write(tmp_path / "t.h5", codes, [0, 0, 1, -1, 0], list("abcde"), tokenizer)
    found = diagnose(path, tokenizer=tokenizer, device="cpu")
    p = np.array([64, 16]) / 80
    assert found.path == tmp_path / "t-doctor.png"
    assert (found.images, found.views, found.grid, found.codebook_size) == (5, 1, 4, 12)
    assert found.usage == round(2 / 12, 4)
    assert found.entropy_bits == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-4)
    assert found.perplexity == pytest.approx(2**found.entropy_bits, abs=1e-2)
    assert found.most_common == 0.8
    assert (found.duplicates, found.duplicate_names) == (2, [("c", "a"), ("e", "a")])
    assert (found.classes, found.unlabeled) == ({"cat": 3, "dog": 1, "owl": 0}, 1)
    assert (found.psnr, found.measured) == (None, 0)
    text = " ".join(found.warnings)
    for culprit in ("4×4 tokens", "80%", "2 of 5 images repeat", "owl", "1 image without a class"):
        assert culprit in text
    assert "codebook" not in text  # 80 tokens are too few to tell


def test_a_codebook_of_which_most_is_idle_is_warned_of(tokenizer, tmp_path):
    codes = np.random.default_rng(0).integers(0, 2, (20, 1, 4, 4))
    path = write(tmp_path / "t.h5", codes, [0] * 19 + [1], [f"{i}" for i in range(20)], tokenizer)
    text = " ".join(diagnose(path, tokenizer=tokenizer, device="cpu").warnings)
    assert "16.7% of the codebook" in text
    assert "19 times" in text


def test_originals_stand_above_their_reconstructions(made, tokenizer):
    found = diagnose("tokens.h5", config=DoctorConfig(shown=3), tokenizer=tokenizer, device="cpu")
    decode("tokens.h5", "decoded", tokenizer, device="cpu")
    tokens = open_tokens("tokens.h5")
    originals = [views(read_image(made / "images" / name), 16, "none")[0] for name in tokens.names]
    decoded = [read_image(made / "decoded" / name) for name in tokens.names]
    assert found.measured == 12
    assert found.psnr == round(float(psnr(torch.stack(decoded), torch.stack(originals)).mean()), 2)
    rows = [0, 6, 11]
    expected = captioned_sheet(
        torch.stack([*(originals[i] for i in rows), *(decoded[i] for i in rows)]),
        3,
        headers=["cat 0.png", "dog 2.png", "owl 3.png"],
        row_names=["original", "decoded"],
    )
    assert np.array_equal(np.array(Image.open(found.path)), expected.permute(1, 2, 0).numpy())


def test_random_views_and_parts_are_compared_with_the_same_crops(made, tokenizer):
    config = TokenizeConfig(views="random:2", seed=5, start=3, stop=9)
    tokenize("images", "part.h5", tokenizer, config, workers=0, device="cpu")
    found = diagnose("part.h5", config=DoctorConfig(n=6), tokenizer=tokenizer, device="cpu")
    tokens = open_tokens("part.h5")
    decode("part.h5", "decoded", tokenizer, device="cpu")
    originals = [
        views(read_image(made / "images" / name), 16, "random:2", 5, i)[0]
        for i, name in enumerate(tokens.names, 3)
    ]
    decoded = [read_image(made / "decoded" / name) for name in tokens.names]
    assert found.psnr == round(float(psnr(torch.stack(decoded), torch.stack(originals)).mean()), 2)
    assert found.duplicates is None


def test_images_that_have_moved_are_left_out_or_named(made, tokenizer, maskgit):
    (made / "images").rename(made / "elsewhere")
    done = maskgit("doctor", "tokens.h5", "--tokenizer", tokenizer, "--json")
    assert done.status == 0, done.stderr
    assert "--images" in done.stderr
    record = json.loads(done.stdout)
    assert (record["psnr"], record["path"]) == (None, "tokens-doctor.png")
    assert math.isclose(record["psnr_recorded"], open_tokens("tokens.h5").meta.psnr)
    words = ("--tokenizer", tokenizer, "--images", "elsewhere")
    again = maskgit("doctor", "tokens.h5", *words)
    assert again.status == 1  # another sheet
    assert "--overwrite" in again.stderr
    assert maskgit("doctor", "tokens.h5", *words, "--overwrite").status == 0
    assert "already" in maskgit("doctor", "tokens.h5", *words).stderr
    (made / "elsewhere" / "dog" / "1.png").unlink()
    with pytest.raises(InputError, match=r"dog/1\.png"):
        diagnose("tokens.h5", images="elsewhere", tokenizer=tokenizer)


def test_samples_have_no_originals(run, tokenizer, tmp_path):
    sample(run, tmp_path / "samples", SampleConfig(n=3), device="cpu")
    tokens = tmp_path / "samples" / "tokens.h5"
    found = diagnose(tokens, tmp_path / "x.png", tokenizer=tokenizer, device="cpu")
    assert (found.images, found.psnr) == (3, None)
    assert found.path.exists()
    with pytest.raises(OutputError):
        diagnose(tokens, tmp_path / "x.txt", tokenizer=tokenizer, device="cpu")


def test_measures_of_the_reconstructions(made, tokenizer, monkeypatch, maskgit):
    def loaded(device, reporter, download):
        asked.append(download)
        return lambda a, b: (a - b).abs().mean((1, 2, 3))

    asked = []
    for name in perceptual.NETWORKS:
        monkeypatch.setitem(perceptual.NETWORKS, name, perceptual._Network(loaded, 16))
    config = DoctorConfig(perceptual="st-lpips", features="vqgan")
    found = diagnose("tokens.h5", config=config, tokenizer=tokenizer, device="cpu", batch_size=5)
    decode("tokens.h5", "decoded", tokenizer, device="cpu")
    names = open_tokens("tokens.h5").names
    originals = torch.stack([views(read_image(made / "images" / name), 16, "none")[0] for name in names])
    decoded = torch.stack([read_image(made / "decoded" / name) for name in names])
    assert found.ssim == pytest.approx(float(ssim(originals, decoded).mean()), abs=1e-5)
    assert found.distances.keys() == {"st_lpips", "frechet_vqgan"}
    error = (originals.double() - decoded.double()).abs().mean() / 127.5
    assert found.distances["st_lpips"] == pytest.approx(float(error), abs=1e-5)
    assert found.distances["frechet_vqgan"] > 0
    record = found.record()
    assert record["st_lpips"] == found.distances["st_lpips"]
    assert {"SSIM", "ST-LPIPS", "Fréchet distance, vqgan"} <= found.lines().keys()
    # auto: the first network, and no download.
    words = ("--tokenizer", tokenizer, "--overwrite", "--json")
    record = json.loads(maskgit("doctor", "tokens.h5", *words).stdout)
    assert record["lpips"] == found.distances["st_lpips"]
    assert not {"st_lpips", "frechet_vqgan"} & record.keys()
    assert "lpips" not in json.loads(maskgit("doctor", "tokens.h5", *words, "--perceptual", "none").stdout)
    assert asked == [True, False]


def test_a_perceptual_distance_that_is_absent(made, tokenizer, monkeypatch, maskgit):
    def absent(device, reporter, download):
        raise WeightsError("its weights are absent")

    for name in perceptual.NETWORKS:
        monkeypatch.setitem(perceptual.NETWORKS, name, perceptual._Network(absent, 16))
    done = maskgit("doctor", "tokens.h5", "--tokenizer", tokenizer)
    assert done.status == 0
    assert "absent" in done.stderr
    assert maskgit("doctor", "tokens.h5", "--tokenizer", tokenizer, "--perceptual", "lpips").status == 1
