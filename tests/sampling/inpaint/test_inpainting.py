"""Stage `inpaint`: which tokens are sampled, and that no pixel outside of the region ever changes."""

import warnings

import numpy as np
import pytest
from PIL import Image
from published import GOOGLE
from tiny_models import CODES, make_model

from maskgit_cli.config.inpaint import Box, InpaintConfig, Outpaint
from maskgit_cli.config.samplers import ConfidenceConfig, GoogleSamplerConfig
from maskgit_cli.data.images import read_image
from maskgit_cli.errors import ConfigError, InputError, OutputError
from maskgit_cli.formats.samples import open_samples
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.networks.loading import load_model, load_tokenizer
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.sampling.inpaint import fill, inpainting
from maskgit_cli.sampling.inpaint.inpainting import inpaint
from maskgit_cli.sampling.inpaint.regions import grow
from maskgit_cli.sampling.inpaint.windows import Window
from maskgit_cli.weights.importing import import_weights

STEPS = ConfidenceConfig(steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photo(tmp_path):
    """Make an image of some size with random pixels."""

    def make(width, height, name="photo.png"):
        rng = np.random.default_rng(width * height)
        path = tmp_path / name
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        return path

    return make


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


class Recorder:
    """A reporter that records messages."""

    def __init__(self):
        self.messages = []

    def info(self, text):
        self.messages.append(text)

    def __getattr__(self, name):
        return getattr(inpainting.SILENT, name)


def edit(image, model, out, mask=None, sampler=STEPS, reporter=inpainting.SILENT, **config):
    return inpaint(image, model, out, mask, InpaintConfig(**config), sampler, device="cpu", reporter=reporter)


def test_variants_of_a_box(model, photo, tmp_path):
    image = photo(16, 16)
    result = edit(image, model, tmp_path / "s", box=(Box(4, 8, 6, 3),), n=3, label="dog")
    assert (result.images, result.tokens, result.windows) == (3, 2, [[Window(0, 0, 16)]])
    samples = open_samples(tmp_path / "s")
    assert samples.tokens.labels.tolist() == [1, 1, 1]
    assert [parent["kind"] for parent in samples.record["parents"]] == ["model", "tokenizer", "image"]
    before = pixels(image)
    inside = np.zeros((16, 16), bool)
    inside[8:11, 4:10] = True
    given = load_tokenizer(model).network.encode(to_model(read_image(image))[None])[0].numpy()
    cells = np.zeros((4, 4), bool)
    cells[2, 1:3] = True
    for i in range(3):
        after = pixels(tmp_path / "s" / "images" / f"{i:06d}.png")
        assert (after[~inside] == before[~inside]).all()
        assert (after[inside] != before[inside]).any()
        assert np.array_equal(samples.tokens.codes[i, 0][~cells], given[~cells])
    assert len({samples.tokens.codes[i].tobytes() for i in range(3)}) > 1


def test_a_large_image_of_any_shape(model, photo, tmp_path):
    image = photo(90, 50)
    result = edit(image, model, tmp_path / "s", box=(Box(70, 5, 10, 20),), feather=2)
    assert result.windows == [[Window(50, 0, 40)]]  # twice the longer side, moved inside the image
    before, after = pixels(image), pixels(tmp_path / "s" / "images" / "000000.png")
    changed = (before != after).any(2)
    assert changed[5:25, 70:80].mean() > 0.9
    changed[5:25, 70:80] = False
    assert not changed.any()


def test_pil_does_not_warn_of_large_images(model, photo, tmp_path, monkeypatch):
    image = photo(40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30 - 1)  # as 100 megapixels are: PIL warns of it
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        edit(image, model, tmp_path / "out", box=(Box(0, 0, 10, 10),), n=2)
    monkeypatch.undo()
    assert (pixels(tmp_path / "out/images/000001.png")[12:] == pixels(image)[12:]).all()


def test_an_image_of_one_pixel(model, photo, tmp_path):
    result = edit(photo(1, 1), model, tmp_path / "s", box=(Box(0, 0, 1, 1),))
    assert (result.windows, result.tokens) == ([[Window(0, 0, 1)]], 16)
    assert pixels(tmp_path / "s" / "images" / "000000.png").shape == (1, 1, 3)


def test_impossible_settings(model, photo, tmp_path):
    image, out = photo(16, 16), tmp_path / "s"
    cases = [
        ({}, "--mask, --box, --keep-box or --outpaint"),
        ({"box": (Box(0, 0, 0, 4),)}, "--box 0,0,0,4: "),
        ({"box": (Box(8, 8, 9, 4),)}, "--box 8,8,9,4: reaches beyond the image, which is 16×16"),
        ({"box": (Box(-1, 8, 4, 4),)}, "--box -1,8,4,4: reaches beyond"),
        ({"box": (Box(0, 0, 4, 4),), "label": "cow"}, "--label cow: "),
        ({"box": (Box(0, 0, 4, 4),), "label": "3"}, "--label 3: "),
        ({"box": (Box(0, 0, 4, 4, "cow"),), "label": "dog"}, "--box 0,0,4,4: cow: "),
        ({"box": (Box(0, 0, 4, 4, "dog"),), "label": "cow"}, "--label cow: "),
        ({"box": (Box(0, 0, 4, 4),), "sampler": {"cfg": 5.0}}, "--cfg 5: must be 0"),
        (
            {"box": (Box(0, 0, 16, 8),), "sampler": GoogleSamplerConfig(schedule="root")},
            "--steps 8: with --schedule root",
        ),
        ({"box": (Box(3, 3, 2, 2),), "mask_rule": "majority"}, "--mask-rule majority: no cell of the 4×4"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError) as caught:
            edit(image, model, out, **options)
        assert message in str(caught.value)
    assert not out.exists()


def test_arguments_in_the_wrong_order(model, photo, tmp_path):
    with pytest.raises(InputError, match=r"photo\.png is a file, not a run or model"):
        edit(model, photo(16, 16), tmp_path / "out", box=(Box(0, 0, 4, 4),))
    assert not (tmp_path / "out").exists()


def test_everything_may_be_masked(model, photo, tmp_path):
    result = edit(photo(16, 16), model, tmp_path / "s", box=(Box(0, 0, 16, 16),), label="1")
    assert result.tokens == 16
    assert open_samples(result.path).record["settings"]["sampler"]["cfg"] == STEPS.cfg


def test_more_steps_than_tokens_and_no_label(model, photo, tmp_path):
    reporter = Recorder()
    result = edit(
        photo(16, 16), model, tmp_path / "s", box=(Box(5, 5, 2, 5),), sampler={"steps": 9}, reporter=reporter
    )
    assert any("2 tokens" in text and "2 steps" in text for text in reporter.messages)
    assert result.settings["sampler"]["steps"] == 9
    assert result.settings["sampler"]["cfg"] == 0  # without a class guidance has no effect
    assert result.settings["label"] == -1


def test_the_same_call_resumes_and_another_is_refused(model, photo, tmp_path, monkeypatch):
    image = photo(16, 16)
    monkeypatch.chdir(tmp_path)
    first = edit(image, model, None, box=(Box(0, 0, 4, 4),))
    assert first.path.name.startswith("photo-")
    again = edit(image, model, None, box=(Box(0, 0, 4, 4),))
    assert again == first._replace(resumed=True)
    with pytest.raises(OutputError, match="--box 0,0,4,4, not 0,0,4,5"):
        edit(image, model, first.path, box=(Box(0, 0, 4, 5),))
    photo(16, 17)
    with pytest.raises(OutputError, match="image"):
        edit(image, model, first.path, box=(Box(0, 0, 4, 4),), n=1)


def test_a_variant_does_not_depend_on_how_many_there_are(model, photo, tmp_path):
    image = photo(16, 16)
    one = open_samples(edit(image, model, tmp_path / "one", box=(Box(2, 2, 9, 9),)).path).tokens.codes
    five = open_samples(edit(image, model, tmp_path / "five", box=(Box(2, 2, 9, 9),), n=5).path).tokens.codes
    assert np.array_equal(one[0], five[0])
    assert five.max() < CODES


def test_a_network_without_null_class_needs_a_class_for_everything(photo, tmp_path, maskgit):
    """Google's network was trained with a class for every image."""
    model = import_weights([GOOGLE.transformer], tmp_path / "google", tokenizer=GOOGLE.tokenizer)
    side = load_model(model).resolution
    image = photo(side, side)
    outcome = maskgit("inpaint", str(image), str(model), "--box", "0,0,3,3")
    assert outcome.status == 1
    assert outcome.stderr.startswith("maskgit: --label: ")
    assert len(outcome.stderr.splitlines()) == 1
    result = edit(image, model, tmp_path / "s", box=(Box(0, 0, 3, 3, "1"),), sampler=None)
    assert open_samples(result.path).tokens.labels.tolist() == [1]


# --- several windows --------------------------------------------------------------------------------


def test_two_boxes_at_both_ends_with_a_class_each(model, photo, tmp_path):
    image = photo(120, 40)
    boxes = Box(2, 10, 8, 8, "dog"), Box(100, 20, 8, 8, "owl")
    result = edit(image, model, tmp_path / "s", box=boxes, n=2)
    assert result.windows == [[Window(0, 6, 16), Window(96, 16, 16)]]
    samples = open_samples(result.path)
    assert samples.tokens.labels.tolist() == [1, 2, 1, 2]
    assert samples.tokens.names == ["000000 0", "000000 1", "000001 0", "000001 1"]
    assert samples.record["settings"]["box"] == "2,10,8,8=1; 100,20,8,8=2"
    before, after = pixels(image), pixels(tmp_path / "s" / "images" / "000001.png")
    changed = (before != after).any(2)
    for box in boxes:
        part = changed[box.y : box.y + 8, box.x : box.x + 8]
        assert part.mean() > 0.9
        part[:] = False
    assert not changed.any()
    # Each window has its own random numbers; those of a single window are those of the first one.
    alone = edit(image, model, tmp_path / "alone", box=boxes[:1])
    assert np.array_equal(open_samples(alone.path).tokens.codes[0], samples.tokens.codes[0])
    same = edit(image, model, tmp_path / "same", box=(Box(2, 10, 8, 8), Box(2, 30, 8, 8)), label="dog")
    assert len(same.windows[0]) == 2


def test_a_class_for_one_box_guides_only_that_one(model, photo, tmp_path):
    image, guided = photo(120, 40), ConfidenceConfig(steps=2, cfg=5.0)
    first, second = Box(100, 20, 8, 8), Box(2, 10, 8, 8, "owl")
    both = edit(image, model, tmp_path / "s", box=(first, second), sampler=guided)
    assert both.settings["sampler"]["cfg"] == 5
    assert open_samples(both.path).tokens.labels.tolist() == [-1, 2]
    alone = edit(image, model, tmp_path / "alone", box=(first,), sampler=guided)
    assert alone.settings["sampler"]["cfg"] == 0
    codes = [open_samples(x.path).tokens.codes[0] for x in (both, alone)]
    assert np.array_equal(*codes)


def test_outpainting_keeps_the_image_bit_for_bit(model, photo, tmp_path):
    image = photo(40, 24)
    config = {"outpaint": Outpaint(left=20, right=3, top=5), "feather": 2}
    result = edit(image, model, tmp_path / "s", n=2, **config)
    assert len(result.windows[0]) > 4
    before = pixels(image)
    first, second = (pixels(tmp_path / "s" / "images" / f"00000{i}.png") for i in range(2))
    assert first.shape == (29, 63, 3)
    for after in (first, second):
        assert (after[5:, 20:60] == before).all()
    assert (first != second).any()
    # No pixel of the border keeps the content with which it is filled at first.
    filler = np.pad(before, ((5, 0), (20, 3), (0, 0)), mode="edge")
    assert (first[8:, :16] != filler[8:, :16]).any(2).mean() > 0.9
    again = edit(image, model, tmp_path / "again", **config)
    assert (pixels(again.path / "images" / "000000.png") == first).all()


def test_a_window_sees_what_earlier_ones_filled(model, photo, tmp_path, monkeypatch):
    seen = []
    original = fill.sample_tokens

    def spy(predict, tokens, *rest):
        seen.append(tokens[0].clone())
        return original(predict, tokens, *rest)

    monkeypatch.setattr(fill, "sample_tokens", spy)
    result = edit(photo(16, 16), model, tmp_path / "s", outpaint=Outpaint(right=16))
    assert result.windows == [[Window(8, 0, 16), Window(16, 0, 16)]]
    samples = open_samples(result.path)
    assert (seen[1][:, :2] < CODES).all()
    assert (seen[1][:, 2:] == CODES).all()
    assert samples.tokens.codes.shape == (2, 1, 4, 4)
    # Not the tokens of the border's first content.
    filled, _ = grow(read_image(tmp_path / "photo.png"), Outpaint(right=16))
    before = load_tokenizer(model).network.encode(to_model(filled[:, :, 16:32])[None])[0]
    assert (seen[1][:, :2] != before[:, :2]).any()


def test_all_but_a_kept_box(model, photo, tmp_path):
    image = photo(30, 20)
    result = edit(image, model, tmp_path / "s", keep_box=(Box(10, 5, 6, 7),), label="cat")
    before, after = pixels(image), pixels(result.path / "images" / "000000.png")
    assert (after[5:12, 10:16] == before[5:12, 10:16]).all()
    assert (after != before).any(2).sum() > 0.9 * (30 * 20 - 42)


def test_the_window_can_be_chosen(model, photo, tmp_path):
    image, box = photo(40, 30), (Box(5, 5, 10, 10),)
    whole = edit(image, model, tmp_path / "whole", box=box, window=30)
    assert whole.windows == [[Window(0, 0, 30)]]
    small = edit(image, model, tmp_path / "small", box=box, window=8)
    assert len(small.windows[0]) == 9
    with pytest.raises(ConfigError, match="--window 31: must be 30 or less"):
        edit(image, model, tmp_path / "large", box=box, window=31)
    with pytest.raises(OutputError, match="--window 8, not 9"):
        edit(image, model, tmp_path / "small", box=box, window=9)


def test_a_threshold_applies_to_masks_and_needs_one(model, photo, tmp_path):
    image, gray = photo(20, 20), np.tile(np.arange(20, dtype=np.uint8) * 10, (20, 1))
    Image.fromarray(gray).save(tmp_path / "gray.png")
    with pytest.raises(InputError, match="--mask-threshold"):
        edit(image, model, tmp_path / "s", mask=tmp_path / "gray.png")
    done = edit(image, model, tmp_path / "s", mask=tmp_path / "gray.png", mask_threshold=100)
    assert done.settings["mask_threshold"] == 100
    before, after = (pixels(p) for p in (image, done.path / "images" / "000000.png"))
    changed = (before != after).any(2).any(0)
    assert not changed[:10].any()
    assert changed[10:].any()
    with pytest.raises(ConfigError, match="--mask-threshold 100: there is no mask"):
        edit(image, model, tmp_path / "t", box=(Box(0, 0, 4, 4),), mask_threshold=100)
    with pytest.raises(ConfigError, match="--mask-threshold 256: "):
        InpaintConfig(mask_threshold=256)


def test_an_impossible_batch_size_is_reported_first(model, tmp_path):
    reporter = Recorder()
    with pytest.raises(ConfigError, match="--batch-size 0"):
        inpaint(tmp_path / "absent.png", batch_size=0, reporter=reporter)
    assert reporter.messages == []


# --- manifests --------------------------------------------------------------------------------------


@pytest.fixture
def manifest(photo, tmp_path):
    """Three images of different sizes, two with two windows, one with a seed."""
    photo(16, 16, "one.png")
    photo(90, 30, "two.png")
    photo(20, 24, "three.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    path = tmp_path / "edits.csv"
    path.write_text(
        "image,mask,box,outpaint,label,seed\n"
        "one.png,mask.png,,,dog,7\n"
        'two.png,,"0,0,8,8; 80,20,8,8=owl",,,\n'
        'three.png,,,"left:6",cat,\n'
    )
    return path


def run(path, model, out, batch_size=16, **config):
    return inpaint(
        path, model, out, None, InpaintConfig(**config), STEPS, batch_size=batch_size, device="cpu"
    )


def contents(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_each_line_of_a_manifest_is_equivalent_to_a_separate_call(model, manifest, tmp_path):
    result = run(manifest, model, tmp_path / "all", n=2, seed=40)
    assert (result.images, [len(windows) for windows in result.windows]) == (6, [1, 2, 2])
    assert result.settings["edits"] == 3
    samples = open_samples(result.path)
    assert samples.tokens.names[:4] == ["000000 one", "000001 one", "000002 two 0", "000002 two 1"]
    assert samples.tokens.labels.tolist() == [1, 1, -1, 2, -1, 2, 0, 0, 0, 0]
    assert [p["kind"] for p in samples.record["parents"]] == ["model", "tokenizer", "manifest"]
    alone = [
        {"mask": tmp_path / "mask.png", "label": "dog", "seed": 7},
        {"box": (Box(0, 0, 8, 8), Box(80, 20, 8, 8, "owl")), "seed": 41},
        {"outpaint": Outpaint(left=6), "label": "cat", "seed": 42},
    ]
    for i, (name, options) in enumerate(zip(("one", "two", "three"), alone, strict=True)):
        own = edit(tmp_path / f"{name}.png", model, tmp_path / name, n=2, **options)
        for variant in range(2):
            together = (result.path / "images" / f"{2 * i + variant:06d}.png").read_bytes()
            assert together == (own.path / "images" / f"{variant:06d}.png").read_bytes()


def test_a_manifest_does_not_depend_on_the_batch_size(model, manifest, tmp_path):
    one = run(manifest, model, tmp_path / "one", batch_size=1, n=2)
    many = run(manifest, model, tmp_path / "many", batch_size=64, n=2)
    assert contents(one.path) == contents(many.path)


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5])
def test_a_manifest_resumes(model, manifest, tmp_path, monkeypatch, calls):
    whole = run(manifest, model, tmp_path / "whole", batch_size=1, n=2)
    left, original = [calls], TokenWriter.write

    def stop(self, indices, codes, trace, pixels):
        left[0] -= 1
        if left[0] < 0:
            # Killed between two rows of one image, where it has two.
            original(self, indices[:-1], codes[:-1], trace, pixels[:-1])
            raise KeyboardInterrupt
        original(self, indices, codes, trace, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(TokenWriter, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(manifest, model, tmp_path / "killed", batch_size=1, n=2)
    killed = run(manifest, model, tmp_path / "killed", batch_size=1, n=2)
    assert killed.resumed
    assert contents(killed.path) == contents(whole.path)


def test_a_manifest_whose_images_have_changed_is_refused(model, manifest, photo, tmp_path):
    run(manifest, model, tmp_path / "s")
    Image.new("RGB", (20, 24)).save(tmp_path / "three.png")
    with pytest.raises(OutputError, match="manifest"):
        run(manifest, model, tmp_path / "s")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("absent.png,mask.png,,,,", "absent.png"),
        ("one.png,absent.png,,,,", "absent.png"),
        ("two.png,mask.png,,,,", "16×16 pixels, the image 90×30"),
        ("one.png,,,,,", "--mask, --box"),
        ('one.png,,"9,9,9,9",,,', "--box 9,9,9,9: reaches beyond the image, which is 16×16"),
        ("one.png,mask.png,,,cow,", "--label cow: "),
        ('one.png,,"1,1,2,2=cow",,,', "--box 1,1,2,2: cow: "),
        ("one.png,mask.png,,,,x", "seed x: "),
    ],
)
def test_errors_name_the_line_before_anything_is_generated(model, manifest, tmp_path, line, shown):
    manifest.write_text(manifest.read_text() + "\n" + line + "\n")
    with pytest.raises(InputError) as caught:
        run(manifest, model, tmp_path / "s")
    assert f"{manifest}: line 6: " in str(caught.value)
    assert shown in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_manifest_has_no_options_for_one_image(model, manifest, tmp_path):
    for options in ({"box": (Box(0, 0, 1, 1),)}, {"outpaint": Outpaint(left=1)}):
        with pytest.raises(ConfigError, match=f"--{next(iter(options))}: .*column"):
            run(manifest, model, tmp_path / "s", **options)
    with pytest.raises(ConfigError, match=r"--mask: .*'mask'"):
        inpaint(manifest, model, tmp_path / "s", tmp_path / "mask.png", device="cpu")
