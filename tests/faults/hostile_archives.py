"""Archives made to do harm: paths outside them, links, devices, bombs, false sizes, endless headers."""

import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image


def _picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return data.getvalue()


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def _zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)


OUTSIDE = ("../up.png", "/root.png", "a/../../b.png", "C:\\x.png")


def _links(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
        for kind in kinds:
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname, info.devmajor, info.devminor = kind, "/dev/zero", 1, 5
            file.addfile(info)


def _zip_link(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        info = zipfile.ZipInfo("link.png")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        file.writestr(info, "/dev/zero")


def _cut(write: Callable[[Path, dict[str, bytes]], None]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path, {f"{i}.png": _picture() for i in range(50)})
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2 + 7])

    return make


def _long_header(path: Path) -> None:
    """An extended header of 8 GB, in a sparse file."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8**11 - 1
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT))
    os.truncate(path, 8**11 + 4096)


def _nested_headers(path: Path) -> None:
    """Each extended header is for another one."""
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) * 50_000)


def _backward(path: Path) -> None:
    """A member of negative size, after which the next one is itself."""
    info = tarfile.TarInfo("x.png")
    info.pax_headers = {"size": "-2048"}
    path.write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(4096))


def _bad_label(path: Path) -> None:
    _tar(path, {"x.png": _picture(), "x.json": b"[" * 900_000})


def _bomb(path: Path) -> None:
    """300 MB in 300 kB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("x.png", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))


def member_entry(name: bytes, size: int, stored: int, crc: int, offset: int = 0, extra: bytes = b"") -> bytes:
    """An entry of the table of contents of a zip, of a deflated member."""
    lengths = (len(name), len(extra), 0, 0, 0)
    numbers = (20, 20, 0, 8, 0, 0, crc, stored, size, *lengths, 0, offset)
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *numbers) + name + extra


def zip_of(entries: bytes, count: int, data: bytes, name: bytes = b"x.png") -> bytes:
    """A zip whose entries all are for one member."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, 0, 0, len(name), 0) + name + data
    ends = (0, 0, count % 2**16, count % 2**16, len(entries), len(local), 0)
    return local + entries + struct.pack("<4s4H2IH", b"PK\5\6", *ends)


def _false_size(path: Path) -> None:
    """A member that claims to have 2^60 bytes."""
    data = zlib.compress(bytes(1000))[2:-4]
    extra = struct.pack("<HHQ", 1, 8, 2**60)
    path.write_bytes(zip_of(member_entry(b"x.png", 2**32 - 1, len(data), 0, extra=extra), 1, data))


def _false_table(path: Path) -> None:
    """A table of contents of 4 GB, in a sparse file."""
    with path.open("wb") as file:
        file.truncate(2**33)
        file.seek(2**33)
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 2**32 - 2, 0, 0))


def make_many(path: Path, count: int) -> None:
    """Members that all are the same kilobyte."""
    picture = _picture()
    data, crc = zlib.compress(picture)[2:-4], zlib.crc32(picture)
    names = (b"%02d/%08d.png" % (i % 50, i) for i in range(count))
    entries = b"".join(member_entry(name, len(picture), len(data), crc) for name in names)
    path.write_bytes(zip_of(entries, count, data))


# Archives from which nothing can be read: one line says why.
REFUSED: dict[str, Callable[[Path], object]] = {
    "outside.tar": lambda path: _tar(path, dict.fromkeys(OUTSIDE, _picture())),
    "outside.zip": lambda path: _zip(path, dict.fromkeys(OUTSIDE, _picture())),
    "links.tar": _links,
    "link.zip": _zip_link,
    "cut.tar": _cut(_tar),
    "cut.zip": _cut(_zip),
    "empty.tar": Path.touch,
    "empty.zip": Path.touch,
    "header.tar": _long_header,
    "nested.tar": _nested_headers,
    "backward.tar": _backward,
    "label.tar": _bad_label,
    "bomb.zip": _bomb,
    "size.zip": _false_size,
    "table.zip": _false_table,
    "gzip.tar": lambda path: path.write_bytes(gzip.compress(bytes(10**7))),
    "x.tar.gz": lambda path: path.write_bytes(gzip.compress(bytes(10**7))),
    "text.zip": lambda path: path.write_text("PK\3\4"),
    "pipe.tar": os.mkfifo,
    "pipe.zip": os.mkfifo,
    "device.tar": lambda path: path.symlink_to("/dev/zero"),
    "device.zip": lambda path: path.symlink_to("/dev/zero"),
}


def make_mixed(folder: Path) -> None:
    """A tar and a zip with one image each among members that are none."""
    others = dict.fromkeys(OUTSIDE, _picture()) | {"a/\x1b[2J.png": b"x", "a/empty.png": b""}
    _tar(folder / "mixed.tar", {**others, "a/ok.png": _picture()})
    _zip(folder / "mixed.zip", {**others, "a/ok.png": _picture()})
