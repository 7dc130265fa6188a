"""Models in memory: the same pixels and tokens as the commands, images of every kind, and refusals."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import CODES, GRID, NAMES, RESOLUTION, make_model

from maskgit_cli.config.inpaint import Box, InpaintConfig, Outpaint
from maskgit_cli.config.samplers import ConfidenceConfig
from maskgit_cli.config.stages import SampleConfig, TokenizeConfig
from maskgit_cli.data.images import read_image
from maskgit_cli.data.tokenizing import tokenize
from maskgit_cli.errors import ConfigError, InputError, MaskGITError
from maskgit_cli.formats.samples import open_samples
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.sampling.images import sample
from maskgit_cli.sampling.inpaint.inpainting import inpaint
from maskgit_cli.sampling.opened import ImageModel, load


@pytest.fixture(scope="module")
def model(run) -> ImageModel:
    return load(run, device="cpu")


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 36, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def stored(folder) -> torch.Tensor:
    return torch.stack([read_image(path) for path in sorted((folder / "images").glob("*.png"))])


def assert_same(images, folder):
    """Pixels, tokens and grid are those of a sample directory."""
    assert torch.equal(images.pixels, stored(folder))
    tokens = open_samples(folder).tokens
    assert np.array_equal(images.tokens, tokens.codes[:, 0])
    assert np.array_equal(images.labels, tokens.labels)
    assert torch.equal(
        read_image(folder / "grid.png"), torch.from_numpy(np.array(images.grid())).permute(2, 0, 1)
    )
    assert images._repr_png_() == (folder / "grid.png").read_bytes()


# --- sample -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ([], {}),
        (["--labels", "dog,0"], {"labels": ["dog", 0]}),
        (["--label", "2"], {"labels": 2}),
        (["--labels", "uniform", "--seed", 9], {"labels": "uniform", "seed": 9}),
        (["--cfg", 1, "--steps", 3], {"cfg": 1, "steps": 3}),
        (["--sampler", "halton", "--steps", 5, "--top-k", 3], {"sampler": "halton", "steps": 5, "top_k": 3}),
        (["--steps", 3], {"sampler": ConfidenceConfig(**vars(ConfidenceConfig(steps=4))), "steps": 3}),
    ],
)
def test_sample_equals_the_command(model, run, tmp_path, maskgit, words, arguments):
    preset = ["--preset", "paper-256"] if "sampler" in arguments and arguments["sampler"] != "halton" else []
    command = ["sample", run, "--n", 5, "--out", tmp_path / "out", "--device", "cpu", *preset, *words]
    assert maskgit(*command).status == 0
    images = model.sample(n=5, batch_size=2, **arguments)
    assert_same(images, tmp_path / "out")


def test_sample_continues_and_traces_as_the_command(model, run, tmp_path, maskgit):
    out = tmp_path / "out"
    command = ["sample", run, "--n", 7, "--range", "3:7", "--trace", "--steps", 4, "--seed", 5]
    assert maskgit(*command, "--out", out, "--device", "cpu").status == 0
    images = model.sample(n=4, start=3, steps=4, seed=5, trace=True, batch_size=3)
    assert_same(images, out)
    expected = open_samples(out).tokens.trace
    for found, wanted in zip(images.trace, expected, strict=True):
        assert np.array_equal(found, wanted)
    # The steps are tokens, which can be decoded.
    assert torch.equal(model.decode(images.trace.codes[1]).pixels[-1], images.pixels[1])
    assert model.sample(n=1, steps=4).trace is None


def test_the_built_in_model_by_name(tmp_path, maskgit):
    words = ["builtin", "--label", "smileys", "--n", 2, "--steps", 4, "--seed", 0, "--device", "cpu"]
    assert maskgit("sample", *words, "--out", tmp_path / "out").status == 0
    model = load("builtin", device="cpu")
    assert model.class_names[6] == "smileys"
    assert model.resolution == 64
    assert_same(model.sample(labels=["smileys"], n=2, seed=0, steps=4), tmp_path / "out")


def test_the_result_is_a_sequence_of_pil_images(model):
    images = model.sample(n=3, steps=2)
    assert len(images) == 3
    assert [image.size for image in images] == [(RESOLUTION, RESOLUTION)] * 3
    assert np.array_equal(np.asarray(images[-1]), images.pixels[2].permute(1, 2, 0))
    assert [image.mode for image in images[:2]] == ["RGB", "RGB"]
    assert images.tokens.shape == (3, GRID, GRID)
    assert repr(images) == "<3 images of 16×16 pixels>"
    with pytest.raises(IndexError):
        images[3]


def test_a_run_has_ema_and_raw_weights(run, model, tmp_path):
    raw = load(run, weights="raw", device="cpu")
    assert not torch.equal(raw.sample(n=64, steps=2).tokens, model.sample(n=64, steps=2).tokens)
    sample(raw, tmp_path / "raw", SampleConfig(n=4, weights="raw"), {"steps": 2})
    assert_same(raw.sample(n=4, steps=2), tmp_path / "raw")


# --- inpaint ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["--box", "4,4,12,12"], {"box": (4, 4, 12, 12)}),
        (
            ["--box", "4,4,9,9=dog", "--label", "cat", "--n", 3],
            {"box": "4,4,9,9=dog", "label": "cat", "n": 3},
        ),
        (
            ["--box", "0,0,8,8", "--box", "20,9,8,8=2", "--seed", 4],
            {"box": [[0, 0, 8, 8], Box(20, 9, 8, 8, 2)], "seed": 4},
        ),
        (["--outpaint", "left:8,top:3", "--label", 1], {"outpaint": {"left": 8, "top": 3}, "label": 1}),
        (["--outpaint", "left:8", "--steps", 2], {"outpaint": Outpaint(left=8), "steps": 2}),
        (["--keep-box", "4,4,12,12", "--window", 20], {"keep_box": Box(4, 4, 12, 12), "window": 20}),
        (
            ["--box", "4,4,12,12", "--feather", 3, "--mask-rule", "majority", "--sampler", "halton"],
            {"box": (4, 4, 12, 12), "feather": 3, "mask_rule": "majority", "sampler": "halton"},
        ),
    ],
)
def test_inpaint_equals_the_command(model, run, photo, tmp_path, maskgit, words, arguments):
    assert maskgit("inpaint", photo, run, "--out", tmp_path / "out", "--device", "cpu", *words).status == 0
    with Image.open(photo) as image:
        assert_same(model.inpaint(image, batch_size=2, **arguments), tmp_path / "out")


def test_masks_of_every_kind(model, run, photo, tmp_path):
    masked = np.zeros((28, 36), np.bool_)
    masked[6:20, 9:30] = True
    layer = Image.new("RGBA", (36, 28), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (9, 6, 30, 20))
    Image.fromarray(masked).save(tmp_path / "mask.png")
    inpaint(photo, run, tmp_path / "out", tmp_path / "mask.png", InpaintConfig(label="cat"), device="cpu")
    masks = [
        masked,
        torch.from_numpy(masked),
        torch.from_numpy(masked)[None],
        masked.astype(np.uint8)[..., None] * 255,
        Image.fromarray(masked),
        layer,
        tmp_path / "mask.png",
        str(tmp_path / "mask.png"),
    ]
    for mask in masks:
        assert_same(model.inpaint(photo, mask, label="cat"), tmp_path / "out")


def test_images_of_every_kind_are_the_same_image(model, photo, images):
    pixels = read_image(photo)
    kinds = [photo, str(photo), Image.open(photo), pixels, pixels.permute(1, 2, 0).numpy()]
    tokens = [model.encode(kind) for kind in kinds]
    assert all(torch.equal(found, tokens[0]) for found in tokens)
    assert torch.equal(model.encode(kinds), torch.cat(tokens))
    assert torch.equal(model.encode(torch.stack([pixels, pixels])), torch.cat(tokens[:2]))
    edited = [model.inpaint(kind, box=(4, 4, 9, 9)).pixels for kind in kinds]
    assert all(torch.equal(found, edited[0]) for found in edited)


def test_an_image_in_memory_is_upright_and_stays_as_it_is(model, photo, tmp_path):
    image = Image.open(photo)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = Image.open(tmp_path / "turned.jpg")
    assert torch.equal(model.encode(turned), model.encode(tmp_path / "turned.jpg"))
    assert turned.size == (36, 28)
    assert dict(turned.getexif()) == {0x0112: 6}


# --- encode and decode ------------------------------------------------------------------------------


def test_encode_and_decode_equal_the_commands(model, run, images, tmp_path, maskgit):
    file = tokenize(images, tmp_path / "tokens.h5", run, TokenizeConfig(), workers=0, device="cpu")
    paths = sorted(images.glob("*/*.png"))
    tokens = model.encode(paths, batch_size=5)
    assert tokens.shape == (12, GRID, GRID)
    assert tokens.dtype == torch.int64
    assert np.array_equal(tokens, open_tokens(file.path).codes[:, 0])
    out = tmp_path / "decoded"
    assert maskgit("decode", file.path, out, "--tokenizer", run, "--device", "cpu").status == 0
    expected = torch.stack([read_image(path) for path in sorted(out.glob("*/*.png"))])
    for kind in (tokens, tokens.numpy().astype(np.uint16), tokens.tolist(), tokens.int()):
        assert torch.equal(model.decode(kind, batch_size=5).pixels, expected)
    assert torch.equal(model.decode(tokens[3]).pixels, expected[3:4])
    assert np.array_equal(model.decode(tokens).labels, [-1] * 12)


# --- an opened model as an argument -----------------------------------------------------------------


def test_functions_take_an_opened_model(model, run, photo, tmp_path):
    boxed = InpaintConfig(box=(Box(2, 2, 9, 9),))
    (tmp_path / "photos").mkdir()
    shutil.copy(photo, tmp_path / "photos")
    for given, name in ((model, "opened"), (str(run), "path")):
        sample(given, tmp_path / f"s-{name}", SampleConfig(n=3), {"steps": 2}, device="cpu")
        inpaint(photo, given, tmp_path / f"i-{name}", config=boxed, device="cpu")
        tokenize(str(tmp_path / "photos"), tmp_path / f"{name}.h5", given, workers=0, device="cpu")
    for kind in ("s", "i"):
        one, other = (tmp_path / f"{kind}-{name}" for name in ("opened", "path"))
        assert (one / "settings.json").read_bytes() == (other / "settings.json").read_bytes()
        assert torch.equal(stored(one), stored(other))
    assert (tmp_path / "opened.h5").read_bytes() == (tmp_path / "path.h5").read_bytes()
    assert load_tokenizer(model).sha256 == model.pipeline.tokenizer.sha256


def test_an_opened_model_is_not_read_again(tmp_path):
    path = make_model(tmp_path / "model")
    opened = load(path, device="cpu")
    before = opened.sample(n=2, steps=2).tokens
    shutil.rmtree(path)
    sample(opened, tmp_path / "out", SampleConfig(n=2), {"steps": 2})
    assert np.array_equal(open_samples(tmp_path / "out").tokens.codes[:, 0], before)


def test_settings_that_contradict_the_opened_model(model, run):
    with pytest.raises(ConfigError, match="--weights raw"):
        sample(model, config=SampleConfig(weights="raw"))
    with pytest.raises(ConfigError, match="--dtype bf16"):
        sample(model, dtype="bf16")
    with pytest.raises(ConfigError, match="--weights best"):
        load(run, weights="best")


def test_an_image_in_memory_in_a_sample_directory(model, photo, tmp_path):
    """Another image or mask in memory is another result; the same one is complete already."""
    image = Image.open(photo)
    mask = np.zeros((28, 36), np.bool_)
    mask[4:9, 4:9] = True
    first = inpaint(image, model, tmp_path / "out", mask)
    assert inpaint(read_image(photo), model, tmp_path / "out", mask).resumed
    record = open_samples(first.path).record
    assert [(p["kind"], p["name"]) for p in record["parents"][2:]] == [
        ("image", "memory"),
        ("mask", "memory"),
    ]
    assert torch.equal(stored(first.path), model.inpaint(photo, mask).pixels)
    assert first._repr_png_() == (first.path / "grid.png").read_bytes()
    other = image.rotate(180)
    for changed in ({"image": other, "mask": mask}, {"image": image, "mask": ~mask}):
        with pytest.raises(MaskGITError):
            inpaint(model=model, out=tmp_path / "out", **changed)
    layer = Image.new("RGBA", image.size, (255, 255, 255, 0))
    layers = [layer.copy(), layer.copy()]
    layers[0].putpixel((3, 3), (255, 255, 255, 255))
    layers[1].putpixel((9, 9), (255, 255, 255, 255))  # the same colors, another opacity
    inpaint(image, model, tmp_path / "layer", layers[0])
    with pytest.raises(MaskGITError):
        inpaint(image, model, tmp_path / "layer", layers[1])


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"labels": ["bat"]}, "bat"),
        ({"labels": [3]}, "3"),
        ({"labels": []}, "--labels"),
        ({"n": 0}, "--n"),
        ({"batch_size": 0}, "--batch-size"),
        ({"seed": -1}, "--seed"),
        ({"start": -1}, "--range"),
        ({"stepz": 3}, "--stepz"),
        ({"cfg": "3"}, "--cfg"),
        ({"sampler": "best"}, "best"),
        ({"sampler": "raster", "steps": 3}, "--steps"),
    ],
)
def test_sample_refuses(model, arguments, named):
    with pytest.raises(ConfigError, match=named):
        model.sample(**{"n": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "specify a region"),
        ({"box": (1, 2, 3)}, "--box"),
        ({"box": (1, 2, 3, 4.5)}, "box"),
        ({"box": [(1, 2, 3, 4), "x"]}, "--box"),
        ({"box": (30, 2, 30, 4)}, "--box"),
        ({"box": (1, 2, 3, 4), "label": "bat"}, "bat"),
        ({"keep_box": Box(1, 2, 3, 4, 1)}, "--keep-box"),
        ({"outpaint": {"up": 3}}, "up"),
        ({"outpaint": {"left": -3}}, "left"),
        ({"box": (1, 2, 3, 4), "batch_size": 0}, "--batch-size"),
        ({"mask": np.zeros((28, 36))}, "mask: its type is float64"),
        ({"mask": np.zeros((2, 28, 36), np.uint8)}, "mask: its shape is"),
        ({"mask": torch.zeros(28, 36, 3, dtype=torch.uint8)}, "mask: its shape is"),
    ],
)
def test_inpaint_refuses(model, photo, arguments, named):
    with pytest.raises(ConfigError, match=named):
        model.inpaint(photo, **arguments)


def test_images_that_cannot_be_used(model, photo, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        model.encode(tmp_path / "absent.png")
    with pytest.raises(InputError, match="the image in memory"):
        model.encode(Image.new("F", (8, 8)))
    with pytest.raises(InputError, match="nothing is masked"):
        model.inpaint(photo, np.zeros((28, 36), np.bool_))
    with pytest.raises(InputError, match="sizes must be equal"):
        model.inpaint(photo, np.ones((8, 8), np.bool_))
    with pytest.raises(ConfigError, match=r"images\[1\]: its type is float32; .*scale"):
        model.encode([photo, torch.zeros(3, 8, 8)])
    with pytest.raises(ConfigError, match="images: an empty list"):
        model.encode([])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (np.zeros((1, 4, 4)), "float64"),
        ([[0, 1], [2]], "integers"),
        ([], "tokens"),
        (np.zeros(4, np.int64), r"\(4,\)"),
        (np.full((1, 4, 4), CODES), f"{CODES}: must be between 0 and {CODES - 1}"),
        (np.full((1, 4, 4), -1), "-1"),
        (torch.zeros(0, 4, 4, dtype=torch.int64), r"\(0, 4, 4\)"),
    ],
)
def test_decode_refuses(model, given, named):
    with pytest.raises(ConfigError, match=named):
        model.decode(given)


def test_what_is_not_a_model(tmp_path):
    with pytest.raises(InputError, match="absent"):
        load(tmp_path / "absent")
    with pytest.raises(ConfigError, match="--device gpu"):
        load("builtin", device="gpu")


def test_names_and_resolution(model, run):
    assert model.class_names == NAMES
    assert model.resolution == RESOLUTION
    assert model.path == run
    assert repr(model) == "<model of 16 px, 3 classes>"
