"""Where images lie, and that they come out as people see them."""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_cli.data import images as data
from maskgit_cli.data import loading, sources
from maskgit_cli.errors import InputError
from maskgit_cli.networks.pixels import to_model, to_pixels

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def save(path, color=RED, size=(4, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def pixel(path, x=0, y=0):
    return tuple(data.read_image(path)[:, y, x].tolist())


# --- sources ----------------------------------------------------------------------------------------


def test_folder_a_class(tmp_path):
    save(tmp_path / "dog/b.png")
    save(tmp_path / "dog/deep/a.JPG")
    save(tmp_path / "cat/x.webp")
    save(tmp_path / "cat/.hidden.png")
    save(tmp_path / ".thumbnails/x.png")
    (tmp_path / "cat/notes.txt").write_text("no image")
    source = sources.list_images(tmp_path)
    assert source.names == ["cat/x.webp", "dog/b.png", "dog/deep/a.JPG"]
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [0, 1, 1]
    assert source.labels.dtype == np.int32
    assert source.paths == [tmp_path / name for name in source.names]


def test_flat_folder_has_no_labels(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.gif")
    source = sources.list_images(tmp_path)
    assert source.names == ["a.gif", "b.png"]
    assert source.labels.tolist() == [-1, -1]
    assert source.class_names == []


def test_classes_can_be_numbered_by_a_list(tmp_path):
    save(tmp_path / "cat/x.png")
    assert sources.list_images(tmp_path, ["dog", "cat"]).labels.tolist() == [1]
    with pytest.raises(InputError, match="class 'cat' is not one of the 1 known"):
        sources.list_images(tmp_path, ["dog"])


@pytest.mark.parametrize("root", [".", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC/train"])
def test_imagenet_layout(tmp_path, root):
    save(tmp_path / "ILSVRC/Data/CLS-LOC/train/n02/n02_1.JPEG", format="JPEG")
    save(tmp_path / "ILSVRC/Data/CLS-LOC/val/v_1.JPEG", format="JPEG")
    source = sources.list_images(tmp_path / root)
    assert source.names == ["n02/n02_1.JPEG"]
    assert source.class_names == ["n02"]


def test_folders_of_splits_are_not_classes(tmp_path):
    save(tmp_path / "train/cat/x.png")
    save(tmp_path / "val/cat/x.png")
    with pytest.raises(InputError, match=r"splits, not classes; give .*train instead"):
        sources.list_images(tmp_path)


def test_folders_of_samples_are_not_classes(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name / "images" / "000000.png")
        save(tmp_path / name / "grid.png")
        (tmp_path / name / "settings.json").write_text("{}")
    with pytest.raises(InputError, match=r"sample directories, no classes; give .*a instead"):
        sources.list_images(tmp_path)
    assert sources.list_images(tmp_path / "a" / "images").names == ["000000.png"]


def test_images_beside_class_folders_are_an_error(tmp_path):
    save(tmp_path / "cat/x.png")
    save(tmp_path / "grid.png")
    with pytest.raises(InputError, match=r"beside class folders \(grid.png\)"):
        sources.list_images(tmp_path)


def test_a_link_to_itself_is_one_unreadable_image(tmp_path):
    save(tmp_path / "cat/x.png")
    (tmp_path / "cat/self.png").symlink_to("self.png")
    (tmp_path / "cat/self").symlink_to("self")
    source = sources.list_images(tmp_path)
    assert source.names == ["cat/self.png", "cat/x.png"]
    with pytest.raises(InputError, match="symbolic link"):
        data.read_image(source.paths[0])


def test_loop_of_links_ends(tmp_path):
    save(tmp_path / "cat/x.png")
    os.symlink(tmp_path / "cat", tmp_path / "cat/again")
    assert sources.list_images(tmp_path).names == ["cat/x.png"]


@pytest.mark.parametrize("heading", ["", "path,label\n", "\ufeffpath,label\n"])
def test_csv_with_names(tmp_path, heading):
    (tmp_path / "list.csv").write_text(heading + "z.png,dog\n\nsub/a.png, cat\nn.png,\n", encoding="utf-8")
    source = sources.list_images(tmp_path / "list.csv")
    assert source.names == ["z.png", "sub/a.png", "n.png"]
    assert source.paths[1] == tmp_path / "sub/a.png"
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [1, 0, -1]


def test_csv_with_numbers(tmp_path):
    (tmp_path / "list.csv").write_text("label,width,path\n2,64,a.png\n0,64,/b.png\n")
    source = sources.list_images(tmp_path / "list.csv")
    assert source.labels.tolist() == [2, 0]
    assert source.class_names == ["0", "1", "2"]
    assert str(source.paths[1]) == "/b.png"
    with pytest.raises(InputError, match=r"label 2 is outside 0\.\.1"):
        sources.list_images(tmp_path / "list.csv", ["x", "y"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no image"),
        (b"a.png\n", "line 1 is not path,label"),
        (b"a.png,-2\n", "label -2 is outside"),
        (b"a.png,20231122\n", "right column"),
        (b"\xff\xfe\x00,1\n", "not a readable CSV"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(InputError, match=message):
        sources.list_images(tmp_path / "list.csv")


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="no such folder or file"):
        sources.list_images(tmp_path / "absent")
    with pytest.raises(InputError, match="no image in it"):
        sources.list_images(tmp_path)
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(InputError, match="neither a folder"):
        sources.list_images(tmp_path / "list.json")


def test_digest_says_which_images(tmp_path):
    save(tmp_path / "cat/x.png")
    before = sources.list_images(tmp_path)
    save(tmp_path / "cat/y.png")
    after = sources.list_images(tmp_path)
    assert sources.source_digest(before) != sources.source_digest(after)
    assert sources.source_digest(after) == sources.source_digest(sources.list_images(tmp_path))


# --- files to pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, ending):
    # A picture whose first pixel as people see it is red, stored the way each orientation asks for.
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0, 0] = RED
    stored = Image.fromarray(upright)
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    undo |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    if orientation in undo:
        stored = stored.transpose(getattr(Image.Transpose, undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{ending}", exif=exif, **({"lossless": True} if ending == "webp" else {}))
    image = data.read_image(tmp_path / f"a.{ending}")
    assert torch.equal(image, torch.from_numpy(upright).permute(2, 0, 1))


def test_exif_that_is_not_exif_does_not_lose_the_picture(tmp_path):
    save(tmp_path / "a.png", exif=b"Exif\0\0not a header at all")
    assert data.read_image(tmp_path / "a.png").shape == (3, 4, 4)


def test_orientation_counts_though_another_field_is_damaged(tmp_path):
    # Little endian, two fields: Artist with its text beyond the end, and Orientation 6.
    fields = struct.pack("<HHII", 0x013B, 2, 99, 9999) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + fields + bytes(4)
    save(tmp_path / "a.jpg", size=(6, 4), exif=exif)
    assert data.read_image(tmp_path / "a.jpg").shape == (3, 6, 4)


@pytest.mark.parametrize("ending", ["png", "gif", "webp", "tif"])
def test_transparency_becomes_white(tmp_path, ending):
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    assert pixel(tmp_path / f"a.{ending}") == RED
    assert pixel(tmp_path / f"a.{ending}", 1) == WHITE


def test_half_transparent_grey(tmp_path):
    Image.new("LA", (1, 1), (0, 128)).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == (127, 127, 127)


def test_palette_with_transparent_color(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    image.save(tmp_path / "half.png", transparency=bytes([255, 128]))
    assert pixel(tmp_path / "opaque.png", 1) == GREEN
    assert pixel(tmp_path / "clear.png", 0) == RED
    assert pixel(tmp_path / "clear.png", 1) == WHITE
    assert pixel(tmp_path / "half.png", 1) == (127, 255, 127)


@pytest.mark.parametrize(("mode", "color", "clear"), [("RGB", GREEN, GREEN), ("L", 7, 7), ("1", 1, 1)])
def test_one_transparent_color(tmp_path, mode, color, clear):
    Image.new(mode, (1, 1), color).save(tmp_path / "a.png", transparency=clear)
    assert pixel(tmp_path / "a.png") == WHITE


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = data.read_image(tmp_path / "a.jpg")[:, 0, 0].int()
    assert (red - torch.tensor(RED)).abs().max() <= 3


@pytest.mark.parametrize(("mode", "value", "seen"), [("L", 77, 77), ("1", 1, 255), ("1", 0, 0)])
def test_grey_and_bits(tmp_path, mode, value, seen):
    Image.new(mode, (3, 2), value).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == (seen,) * 3


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, ending):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    if ending == "pgm":
        (tmp_path / "a.pgm").write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / f"a.{ending}")
    assert data.read_image(tmp_path / f"a.{ending}")[0].tolist() == [[0, 1, 128, 255]]


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    Image.fromarray(np.array([[0, 257]], np.uint16)).save(tmp_path / "a.png", transparency=257)
    assert data.read_image(tmp_path / "a.png")[0].tolist() == [[0, 255]]


def png_16_bit_rgb(*values):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", *values)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_16_bit_color(tmp_path):
    (tmp_path / "a.png").write_bytes(png_16_bit_rgb(0, 32896, 65535))
    assert pixel(tmp_path / "a.png") == (0, 128, 255)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (2, 2), color) for color in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(tmp_path / "a.gif") == RED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
    ],
)
def test_files_that_are_no_images(tmp_path, content, reason):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        data.read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_images(tmp_path, ending, part):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{ending}")
    whole = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"a.{ending}").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError):
        data.read_image(tmp_path / f"a.{ending}")


def test_float_pixels_have_no_white(tmp_path):
    Image.new("F", (1, 1), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="nobody knows what is white"):
        data.read_image(tmp_path / "a.tif")


def test_missing_files_folders_and_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in {"absent.png": "no such file", ".": "not a file", "pipe.png": "not a file"}.items():
        with pytest.raises(InputError, match=reason):
            data.read_image(tmp_path / name)


def test_size_limit(tmp_path, monkeypatch):
    save(tmp_path / "a.png", size=(20, 10))
    monkeypatch.setattr(data, "MAX_PIXELS", 199)
    with pytest.raises(InputError, match="20×10 pixels, more than"):
        data.read_image(tmp_path / "a.png")


def test_decompression_bomb_is_one_line_and_100_megapixels_no_warning(tmp_path, monkeypatch, capfd):
    save(tmp_path / "a.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)  # PIL warns above it and fails above its double
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.read_image(tmp_path / "a.png").shape == (3, 100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="megapixels"):
        data.read_image(tmp_path / "a.png")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_far_larger_images_shrink_while_read(tmp_path, ending):
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (512, 1))] * 3, -1)).save(tmp_path / f"a.{ending}")
    whole = data.read_image(tmp_path / f"a.{ending}")
    shrunk = data.read_image(tmp_path / f"a.{ending}", side=32)
    assert whole.shape == (3, 512, 512)
    assert shrunk.shape == (3, 128, 128)
    difference = data.fit_square(whole, 32).int() - data.fit_square(shrunk, 32).int()
    assert difference.abs().max() <= 2
    assert data.read_image(tmp_path / f"a.{ending}", side=512).shape == (3, 512, 512)


def test_large_jpegs_are_decoded_small(tmp_path, monkeypatch):
    save(tmp_path / "a.jpg", size=(512, 512))
    monkeypatch.delattr(Image.Image, "reduce")  # what shrinks an image only after it is decoded
    assert data.read_image(tmp_path / "a.jpg", side=32).shape == (3, 128, 128)


# --- pixels to views --------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(30, 50), (50, 30), (16, 16), (1, 1), (7, 7), (1, 50)])
def test_fit_square(height, width):
    image = torch.full((3, height, width), 9, dtype=torch.uint8)
    assert torch.equal(data.fit_square(image, 16), torch.full((3, 16, 16), 9, dtype=torch.uint8))


def test_fit_square_takes_the_centre_and_keeps_pixels_that_fit():
    image = torch.arange(3 * 4 * 8, dtype=torch.uint8).view(3, 4, 8)
    assert torch.equal(data.fit_square(image, 4), image[:, :, 2:6])


def test_fit_square_antialiases():
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8).expand(3, -1, -1)
    inner = data.fit_square(checks, 8)[:, 1:-1, 1:-1].int()
    assert (inner - 127).abs().max() <= 8


def test_strips_are_refused():
    with pytest.raises(InputError, match="more than 50 times"):
        data.fit_square(torch.zeros(3, 1, 51, dtype=torch.uint8), 16)


def test_flip():
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert torch.equal(data.views(image, 8, "none"), image[None])
    assert torch.equal(data.views(image, 8, "flip"), torch.stack([image, image.flip(-1)]))


def test_ten_crop_order():
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    views = data.views(image, 7, "ten-crop")  # 7 · 8/7 = 8: nothing is resized
    corners = [image[:, :7, :7], image[:, :7, 1:], image[:, 1:, :7], image[:, 1:, 1:]]
    assert torch.equal(views[:4], torch.stack(corners))
    assert torch.equal(views[5:], views[:5].flip(-1))
    assert data.views(image, 16, "ten-crop").shape == (10, 3, 16, 16)


def test_every_pixel_survives_the_model_range():
    pixels = torch.arange(256, dtype=torch.uint8)
    floats = to_model(pixels)
    assert floats.dtype == torch.float32
    assert floats.min() == -1
    assert floats.max() == 1
    assert torch.equal(to_pixels(floats), pixels)
    assert to_pixels(torch.tensor([-3.0, 2.0])).tolist() == [0, 255]


def test_dataset_and_batches(tmp_path):
    save(tmp_path / "a.png", RED, (20, 10))
    (tmp_path / "b.png").write_bytes(b"")
    save(tmp_path / "c.png", GREEN)
    dataset = loading.ImageDataset(sources.list_images(tmp_path), 8, "flip")
    assert len(dataset) == 3
    batch = loading.collate_images([dataset[i] for i in range(3)])
    assert batch.indices.tolist() == [0, 2]
    assert batch.images.shape == (2, 2, 3, 8, 8)
    assert batch.images[1, 0, :, 0, 0].tolist() == list(GREEN)
    assert batch.skipped == [(1, "empty file")]
    assert loading.collate_images([dataset[1]]).images is None
