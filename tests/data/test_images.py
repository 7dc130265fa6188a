"""Decoding of images as viewers show them, and the views that are tokenized."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_cli.data import images as data
from maskgit_cli.errors import InputError
from maskgit_cli.networks.pixels import to_model, to_pixels

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def save(path, color=RED, size=(4, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


def pixel(path, x=0, y=0):
    return tuple(data.read_image(path)[:, y, x].tolist())


# --- files to pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, ending):
    # An image whose first pixel is red, stored in each orientation.
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


def test_unreadable_exif_is_ignored(tmp_path):
    save(tmp_path / "a.png", exif=b"Exif\0\0not a header at all")
    assert data.read_image(tmp_path / "a.png").shape == (3, 4, 4)


def test_orientation_is_applied_although_another_field_is_damaged(tmp_path):
    # Little endian, two fields: Artist with its text beyond the end, and Orientation 6.
    fields = struct.pack("<HHII", 0x013B, 2, 99, 9999) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + fields + bytes(4)
    save(tmp_path / "a.jpg", size=(6, 4), exif=exif)
    assert data.read_image(tmp_path / "a.jpg").shape == (3, 6, 4)


@pytest.mark.parametrize("orientation", [6, 300, 0])
def test_damaged_exif_never_loses_an_image(tmp_path, orientation):
    """Changes random bytes: whatever PIL raises, the image is decoded, turned or as it is."""
    exif = Image.Exif()
    exif[0x0112], exif[0x013B], exif[0x8769] = orientation, "artist", {0x829A: (1, 3)}
    whole, generator = exif.tobytes(), np.random.default_rng(orientation)
    for _ in range(200):
        damaged = bytearray(whole)
        for place in generator.integers(6, len(whole), 3):
            damaged[place] = generator.integers(256)
        save(tmp_path / "a.png", size=(6, 4), exif=bytes(damaged))
        assert data.read_image(tmp_path / "a.png").shape in ((3, 4, 6), (3, 6, 4))


def test_an_open_file_is_decoded_and_named_in_errors(tmp_path):
    content = save(tmp_path / "a.png").read_bytes()
    assert torch.equal(data.decode_image(io.BytesIO(content), "x"), data.read_image(tmp_path / "a.png"))
    with pytest.raises(InputError, match=r"^archive: member: "):
        data.decode_image(io.BytesIO(content[:40]), "archive: member")
    with pytest.raises(InputError, match=r"^archive: member: empty"):
        data.decode_image(io.BytesIO(b""), "archive: member")


@pytest.mark.parametrize("ending", ["png", "gif", "webp", "tif"])
def test_transparent_pixels_become_white(tmp_path, ending):
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    assert pixel(tmp_path / f"a.{ending}") == RED
    assert pixel(tmp_path / f"a.{ending}", 1) == WHITE


def test_half_transparent_gray(tmp_path):
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
def test_gray_and_bilevel(tmp_path, mode, value, seen):
    Image.new(mode, (3, 2), value).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == (seen,) * 3


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_gray_is_scaled_not_clipped(tmp_path, ending):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    if ending == "pgm":
        (tmp_path / "a.pgm").write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / f"a.{ending}")
    assert data.read_image(tmp_path / f"a.{ending}")[0].tolist() == [[0, 1, 128, 255]]


def test_16_bit_gray_with_a_transparent_value(tmp_path):
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
def test_files_that_are_not_images(tmp_path, content, reason):
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


def test_floating_point_images_are_not_supported(tmp_path):
    Image.new("F", (1, 1), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: .*not supported"):
        data.read_image(tmp_path / "a.tif")


def test_missing_files_folders_and_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in {"absent.png": "no such file", ".": "directory", "pipe.png": "a pipe"}.items():
        with pytest.raises(InputError, match=reason):
            data.read_image(tmp_path / name)


def test_size_limit(tmp_path, monkeypatch):
    save(tmp_path / "a.png", size=(20, 10))
    monkeypatch.setattr(data, "MAX_PIXELS", 199)
    with pytest.raises(InputError, match="20×10"):
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
def test_far_larger_images_are_shrunk_while_decoding(tmp_path, ending):
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (512, 1))] * 3, -1)).save(tmp_path / f"a.{ending}")
    whole = data.read_image(tmp_path / f"a.{ending}")
    shrunk = data.read_image(tmp_path / f"a.{ending}", side=32)
    assert whole.shape == (3, 512, 512)
    assert shrunk.shape == (3, 128, 128)
    difference = data.fit_square(whole, 32).int() - data.fit_square(shrunk, 32).int()
    assert difference.abs().max() <= 2
    assert data.read_image(tmp_path / f"a.{ending}", side=512).shape == (3, 512, 512)


def test_large_jpegs_are_decoded_at_reduced_size(tmp_path, monkeypatch):
    save(tmp_path / "a.jpg", size=(512, 512))
    monkeypatch.delattr(Image.Image, "reduce")  # it would shrink an image after decoding
    assert data.read_image(tmp_path / "a.jpg", side=32).shape == (3, 128, 128)


# --- pixels to views --------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(30, 50), (50, 30), (16, 16), (1, 1), (7, 7), (1, 50)])
def test_fit_square(height, width):
    image = torch.full((3, height, width), 9, dtype=torch.uint8)
    assert torch.equal(data.fit_square(image, 16), torch.full((3, 16, 16), 9, dtype=torch.uint8))


def test_fit_square_crops_the_center_without_resizing_if_it_fits():
    image = torch.arange(3 * 4 * 8, dtype=torch.uint8).view(3, 4, 8)
    assert torch.equal(data.fit_square(image, 4), image[:, :, 2:6])


def test_fit_square_antialiases():
    checks = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8).expand(3, -1, -1)
    inner = data.fit_square(checks, 8)[:, 1:-1, 1:-1].int()
    assert (inner - 127).abs().max() <= 8


def test_extreme_aspect_ratios_are_refused():
    with pytest.raises(InputError, match=r"51×1 pixels.* 50"):
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


@pytest.mark.parametrize("tall", [False, True])
def test_random_views_are_crops_and_their_mirror_images(tall):
    """Every column, or row, has a value of its own, so that a crop tells its place."""
    columns = torch.arange(24, dtype=torch.uint8).expand(3, 8, 24)
    image = columns.transpose(1, 2) if tall else columns
    crops = data.views(image, 8, "random:300", seed=3, index=7)
    assert crops.shape == (300, 3, 8, 8)
    flipped = crops[:, 0, 0, 0] > crops[:, 0, 0, -1]
    places = crops[:, 0].flatten(1).min(1).values.int()
    for crop, flip, place in zip(crops, flipped, places.tolist(), strict=True):
        whole = image[:, place : place + 8] if tall else image[..., place : place + 8]
        assert torch.equal(crop, whole.flip(-1) if flip else whole)
    counts = places.bincount(minlength=17)
    assert len(counts) == 17
    assert counts.min() >= 5  # 18 on average
    assert tall or flipped.double().mean() == pytest.approx(0.5, abs=0.1)


def test_random_views_fit_the_shorter_side():
    image = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8)
    square = data.fit_square(image, 8)
    for view in data.views(image, 8, "random:9"):
        assert torch.equal(view, square) or torch.equal(view, square.flip(-1))


def test_random_views_are_functions_of_seed_and_number():
    image = torch.randint(0, 256, (3, 8, 40), dtype=torch.uint8)
    first = data.views(image, 8, "random:8", 2**64 - 1, 5)
    assert torch.equal(data.views(image, 8, "random:3", 2**64 - 1, 5), first[:3])
    assert not torch.equal(data.views(image, 8, "random:8", 2**64 - 1, 6), first)
    assert not torch.equal(data.views(image, 8, "random:8", 0, 5), first)


def test_a_seed_of_random_views_keeps_its_meaning():
    wide = torch.arange(40, dtype=torch.uint8).expand(3, 8, 40)
    views = data.views(wide, 8, "random:6", seed=1, index=2)
    assert views[:, 0, 0, 0].tolist() == [17, 7, 8, 15, 21, 22]


def test_every_pixel_survives_the_model_range():
    pixels = torch.arange(256, dtype=torch.uint8)
    floats = to_model(pixels)
    assert floats.dtype == torch.float32
    assert floats.min() == -1
    assert floats.max() == 1
    assert torch.equal(to_pixels(floats), pixels)
    assert to_pixels(torch.tensor([-3.0, 2.0])).tolist() == [0, 255]
