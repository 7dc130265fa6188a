"""A folder of images and of what is none: bombs, broken headers, devices, odd names."""

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, data: bytes = b"", extra: bytes = b"", bits: int = 8, color: int = 2
) -> bytes:
    """A PNG that claims a size, with image data that is given, compressed."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    body = extra + _chunk(b"IDAT", zlib.compress(data, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def _bomb(path: Path) -> None:
    """30,000×30,000 pixels of one bit: 113 MB in 110 kB."""
    path.write_bytes(png(30_000, 30_000, bytes(30_000 * 3751), bits=1, color=0))


def _text_bomb(path: Path) -> None:
    text = b"Comment\0\0" + zlib.compress(bytes(200 * 2**20), 9)
    path.write_bytes(png(16, 16, bytes(16 * 49), _chunk(b"zTXt", text)))


def _profile_bomb(path: Path) -> None:
    profile = b"icc\0\0" + zlib.compress(bytes(200 * 2**20), 9)
    path.write_bytes(png(16, 16, bytes(16 * 49), _chunk(b"iCCP", profile)))


def _frames(path: Path) -> None:
    images = [Image.new("P", (16, 16), i) for i in range(50)]
    images[0].save(path, save_all=True, append_images=images[1:])


def _cut(suffix: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.effect_mandelbrot((64, 64), (-3, -2.5, 2, 2.5), 100).save(path, suffix)
        path.write_bytes(path.read_bytes()[:-200])

    return write


def _exif(path: Path) -> None:
    Image.new("RGB", (16, 16)).save(path, exif=b"Exif\0\0II*\0" + b"\xff" * 200)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


# Files that no image is read from; each is skipped with a reason, or not taken for one.
UNREADABLE: dict[str, Callable[[Path], None]] = {
    "bomb.png": _bomb,
    "text-bomb.png": _text_bomb,
    "profile-bomb.png": _profile_bomb,
    "sides.png": lambda path: path.write_bytes(png(2**31 - 1, 2**31 - 1)) and None,
    "wide.png": lambda path: path.write_bytes(png(2**31 - 1, 1)) and None,
    "nothing.png": lambda path: path.write_bytes(png(0, 0)) and None,
    "empty.png": lambda path: path.touch(),
    "text.png": lambda path: path.write_text("not an image") and None,
    "cut.jpg": _cut("JPEG"),
    "cut.png": _cut("PNG"),
    "eps.png": lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") and None,
    "huge.bmp": lambda path: (
        path.write_bytes(
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
        )
        and None
    ),
    "huge.gif": lambda path: (
        path.write_bytes(b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";") and None
    ),
    "pipe.png": lambda path: os.mkfifo(path),
    "device.png": lambda path: path.symlink_to("/dev/zero"),
    "socket.png": _socket,
    "self.png": lambda path: path.symlink_to(path.name),
    "nowhere.png": lambda path: path.symlink_to("nowhere-at-all.png"),
}
# Files that are images, whatever their names or frames.
READABLE: dict[str, Callable[[Path], None]] = {
    "dot.png": lambda path: Image.new("RGB", (1, 1)).save(path),
    "frames.gif": _frames,
    "exif.jpg": _exif,
    "new\nline.png": lambda path: Image.new("RGB", (16, 16)).save(path),
    "quote'\".png": lambda path: Image.new("RGB", (16, 16)).save(path),
    "\x1b[2Jescape.png": lambda path: Image.new("RGB", (16, 16)).save(path),
    "\u202etfel.png": lambda path: Image.new("RGB", (16, 16)).save(path),
    "x" * 250 + ".png": lambda path: Image.new("RGB", (16, 16)).save(path),
    os.fsdecode(b"not-utf8-\xff.png"): lambda path: Image.new("RGB", (16, 16)).save(path),
}


def make_folder(root: Path) -> Path:
    """Write all of them as one class, and a loop of folders as another."""
    (root / "class").mkdir(parents=True)
    for name, write in {**UNREADABLE, **READABLE}.items():
        write(root / "class" / name)
    (root / "loop").mkdir()
    (root / "loop" / "up").symlink_to(root / "loop")
    return root
