"""Traces of samplers: the steps in token files, and as strips and animations."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from resigned import rewrite_index
from test_sampling import contents
from tiny_models import RESOLUTION, make_model

from maskgit_cli.cli import main
from maskgit_cli.config.samplers import ConfidenceConfig, HaltonSamplerConfig, RasterConfig
from maskgit_cli.config.stages import SampleConfig
from maskgit_cli.errors import ArtifactError
from maskgit_cli.figures.animations import mask_images, shown_steps, trace_files
from maskgit_cli.figures.sheets import lay_out
from maskgit_cli.formats.samples import open_samples
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.sampling.images import sample
from maskgit_cli.sampling.samplers.confidence import tokens_per_step

STEPS = ConfidenceConfig(steps=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


def generate(model, out, sampler=STEPS, batch_size=2, **config):
    config = {"n": 3, "trace": "webp", **config}
    return sample(model, out, SampleConfig(**config), sampler, batch_size=batch_size, device="cpu").path


@pytest.fixture(scope="module")
def traced(model, tmp_path_factory):
    return generate(model, tmp_path_factory.mktemp("samples") / "s")


def test_the_token_file_holds_every_step(traced):
    tokens = open_samples(traced).tokens
    codes, confidences, masks = tokens.trace
    assert codes.shape == confidences.shape == masks.shape == (3, 5, 4, 4)
    assert (codes.dtype, confidences.dtype, masks.dtype) == (np.uint16, np.float32, np.bool_)
    assert np.array_equal(codes[:, -1], tokens.codes[:, 0])
    assert not masks[:, -1].any()
    kept = tokens_per_step(16, 5, "arccos")
    assert (16 - masks.sum((2, 3)) == np.cumsum(kept)).all()
    before = np.concatenate([np.ones((3, 1, 4, 4), bool), masks[:, :-1]], axis=1)
    assert np.array_equal(np.isfinite(confidences), before)
    stays = ~masks[:, :-1]  # a token that was kept never changes
    assert (codes[:, 1:][stays] == codes[:, :-1][stays]).all()
    # Of the masked tokens, a step keeps the most confident ones.
    for image, step in np.ndindex(3, 5):
        new = before[image, step] & ~masks[image, step]
        left = masks[image, step]
        if left.any():
            assert confidences[image, step][new].min() >= confidences[image, step][left].max()


def test_tracing_changes_no_image(model, traced, tmp_path):
    plain = generate(model, tmp_path / "plain", trace=None)
    assert np.array_equal(open_samples(plain).tokens.codes, open_samples(traced).tokens.codes)
    assert open_samples(plain).tokens.trace is None
    assert not (plain / "traces").exists()
    images = [{k: v for k, v in contents(x).items() if k.startswith("images")} for x in (plain, traced)]
    assert images[0] == images[1] != {}


@pytest.mark.parametrize(("sampler", "steps"), [(RasterConfig(), 16), (HaltonSamplerConfig(steps=3), 3)])
def test_traces_of_other_samplers(model, tmp_path, sampler, steps):
    tokens = open_samples(generate(model, tmp_path / "s", sampler, n=1, format="tokens")).tokens
    assert tokens.trace.masks.shape == (1, steps, 4, 4)
    if steps == 16:
        assert tokens.trace.masks[0].sum((1, 2)).tolist() == list(range(15, -1, -1))
    assert not (tmp_path / "s" / "traces").exists()  # --format tokens writes no images


def test_a_strip_shows_masks_above_and_images_below(traced):
    strip = np.array(Image.open(traced / "traces" / "000001.png"))
    titles = {"headers": [f"step {i}" for i in range(1, 6)], "title": "000001 dog"}
    layout = lay_out(10, RESOLUTION, RESOLUTION, 5, None, titles["headers"], None, titles["title"])
    assert strip.shape[:2] == (layout.height, layout.width)

    def at(i):
        left, top, width, height = layout.images[i]
        return strip[top : top + height : layout.scale, left : left + width : layout.scale]

    final = np.array(Image.open(traced / "images" / "000001.png"))
    assert np.array_equal(at(9), final)
    masks = open_samples(traced).tokens.trace.masks[1]
    cell = RESOLUTION // 4
    for step in range(5):
        inner = at(step)[cell // 2 :: cell, cell // 2 :: cell, 0]  # the middle of every cell
        assert np.array_equal(inner == 255, masks[step])
        assert set(np.unique(inner)) <= {0, 255}


def test_an_animation_has_a_frame_per_step(traced):
    with Image.open(traced / "traces" / "000000.webp") as moving:
        assert moving.n_frames == 5


def test_strips_of_many_steps():
    assert shown_steps(3) == [0, 1, 2]
    assert shown_steps(10) == list(range(10))
    many = shown_steps(1024)
    assert (len(many), many[0], many[-1]) == (10, 0, 1023)
    pixels, masks = torch.zeros(30, 3, 16, 16, dtype=torch.uint8), np.zeros((30, 4, 4), bool)
    files = trace_files(pixels, masks, "", "gif")
    assert files.keys() == {"png", "gif"}
    assert Image.open(io.BytesIO(files["png"])).size[0] == lay_out(20, 16, 16, 10, headers=["x"] * 10).width


def test_a_mask_has_a_frame():
    image = mask_images(np.ones((1, 2, 2), bool), 16)[0]
    assert (image[:, 1:-1, 1:-1] == 255).all()
    assert (image[:, 0] == 128).all()
    assert (image[:, :, -1] == 128).all()


def test_after_an_interruption_the_same_files(model, traced, tmp_path, monkeypatch):
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return trace_files(*arguments)

    monkeypatch.setattr("maskgit_cli.sampling.tracing.trace_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(model, tmp_path / "s")
    assert sorted(x.name for x in (tmp_path / "s" / "traces").iterdir()) == [
        "000000.png", "000000.webp", "000001.png", "000001.webp",
    ]  # fmt: skip
    monkeypatch.undo()
    assert contents(generate(model, tmp_path / "s", batch_size=1)) == contents(traced)


def test_overwriting_without_a_trace(model, tmp_path):
    generate(model, tmp_path / "s", n=1)
    sample(model, tmp_path / "s", SampleConfig(n=1), STEPS, device="cpu", overwrite=True)
    assert not list((tmp_path / "s").rglob("*.webp"))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("trace_codes", {"sha256": "0" * 64}, "trace_codes"),
        ("trace_masks", {"dtype": "|u1"}, "trace_masks"),
        ("trace_confidences", {"shape": [1, 4, 4, 4]}, "trace_confidences"),
        ("trace_masks", None, "trace_masks"),
    ],
)
def test_damaged_traces(model, tmp_path, name, values, message):
    path = generate(model, tmp_path / "s", n=1, format="tokens") / "tokens.h5"
    if values is None:
        rewrite_index(path, lambda index: index["datasets"].pop(name))
    else:
        rewrite_index(path, lambda index: index["datasets"][name].update(values))
    with pytest.raises(ArtifactError, match=message):
        open_tokens(path)


def test_an_animation_without_images_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["sample", "--trace-as", "gif", "--format", "tokens"])
    assert "--format tokens" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "suffix"), [(["--trace"], "webp"), (["--trace-as", "gif"], "gif")])
def test_the_command(model, tmp_path, options, suffix):
    words = f"sample {model} --n 1 --steps 4 --device cpu --out {tmp_path / 's'}".split()
    with pytest.raises(SystemExit, match="0"):
        main([*words, *options])
    assert (tmp_path / "s" / "traces" / f"000000.{suffix}").exists()
