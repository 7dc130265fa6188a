"""Records, archives, tables and weights that parsers choke on, each put in place of a good file."""

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
from resigned import sign_record, sign_weights

DEEP, DIGITS, HUGE = 10**6, "9" * 5000, 2**40


class Hostile(NamedTuple):
    """A hostile file, and the calls that read it.

    Attributes:
        path: of the file that is replaced, in a copy of the workshop.
        write: writes it, given the path of the good one.
        lines: the calls.
        named: what must be named.
    """

    path: str
    write: Callable[[Path], None]
    lines: tuple[str, ...]
    named: tuple[str, ...]


# --- JSON records -----------------------------------------------------------------------------------

FEATURES = "--features vqgan --tokenizer tokenizer"
RECORDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": ("model/config.json", ("info model", "sample model --n 1 --out new")),
    "tokenizer": ("tokenizer/config.json", ("info tokenizer", "decode tokens.h5 new --tokenizer tokenizer")),
    "run": ("run/config.json", ("info run", "export run new")),
    "samples": (
        "samples/settings.json",
        ("info samples", f"fid samples --ref stats.npz --out new.json {FEATURES}"),
    ),
    "sweep": ("sweep/sweep.json", ("info sweep",)),
    "scores": ("scores.json", ("info scores.json",)),
    "decoded": ("decoded/decoded.json", ("info decoded",)),
}


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text) and None


def _with_key(text: str) -> Callable[[Path], None]:
    """The good record, with one more key whose value is a text that JSON has a meaning for or not."""

    def write(path: Path) -> None:
        record = json.loads(path.read_text()) | {"record_sha256": None}
        path.write_text(json.dumps(record)[:-1] + f', "extra": {text}}}')

    return write


def _changed(keys: str, value: Any) -> Callable[[Path], None]:
    """The good record with another value at ``a.b``."""

    def write(path: Path) -> None:
        record = json.loads(path.read_text())
        *way, last = keys.split(".")
        inner = record
        for key in way:
            inner = inner[key]
        inner[last] = value
        sign_record(path, record)

    return write


# For every record.
ANY_RECORD: dict[str, Callable[[Path], None]] = {
    "deep": _text('{"a":' * DEEP),
    "deep-closed": _with_key("[" * DEEP + "]" * DEEP),
    "digits": _with_key(DIGITS),
    "large": lambda path: path.write_text(" " * (65 * 2**20) + path.read_text()) and None,
    "empty": _text(""),
    "list": _text("[]"),
    "null": _text("null"),
    "not-utf8": lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()) and None,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]) and None,
    "bare": lambda path: sign_record(
        path, {key: json.loads(path.read_text())[key] for key in ("format", "version")}
    ),
    "parents-number": _changed("parents", 5),
    "parents-numbers": _changed("parents", [5]),
    "parents-keys": _changed("parents", [{"kind": 1}]),
    "version-true": _changed("version", True),
    "version-float": _changed("version", 2.0),
    "format-list": _changed("format", ["maskgit-model"]),
}

_SIZES = {"null": None, "float": 2.5, "true": True, "list": [1], "text": "9", "huge": 10**30, "large": HUGE}
_OF_MODEL = {
    **{f"width-{name}": ("transformer.width", value) for name, value in _SIZES.items()},
    **{
        f"depth-{name}": ("transformer.depth", value)
        for name, value in {"million": 10**6, "huge": 10**30}.items()
    },
    **{f"{key}-large": (f"transformer.{key}", HUGE) for key in ("heads", "mlp_width", "classes", "grid")},
    "sizes-list": ("transformer", []),
    "network-list": ("network", ["maskgit"]),
    "network-object": ("network", {}),
    "class-numbers": ("class_names", [1, 2, 3]),
    "class-surrogate": ("class_names", ["\ud800", "dog", "owl"]),
    "resolution-text": ("resolution", "16"),
    "resolution-large": ("resolution", HUGE),
    "sampler-list": ("sampler", []),
    "sampler-nan": ("sampler.cfg", float("nan")),
    "sampler-steps": ("sampler.steps", 10**30),
}
_OF_TOKENIZER = {
    **{f"blocks-{name}": ("vqgan.residual_blocks", value) for name, value in _SIZES.items()},
    **{
        f"{key}-large": (f"vqgan.{key}", HUGE)
        for key in ("channels", "z_channels", "embed_dim", "resolution", "norm_groups")
    },
    "attention-text": ("vqgan.attention_resolutions", "16"),
    "multipliers-large": ("vqgan.channel_multipliers", [HUGE]),
    "multipliers-many": ("vqgan.channel_multipliers", [1] * 10**5),
    "multipliers-empty": ("vqgan.channel_multipliers", []),
}


def _alone(write: Callable[[Path], None]) -> Callable[[Path], None]:
    """Write a checkpoint's record, and remove the other checkpoints: a training would resume from those."""

    def inner(path: Path) -> None:
        for other in path.parent.parent.iterdir():
            if other != path.parent:
                shutil.rmtree(other)
        write(path)

    return inner


def _records() -> dict[str, Hostile]:
    found = {}
    for kind, (path, lines) in RECORDS.items():
        named = (path, Path(path).parts[0])
        for name, write in ANY_RECORD.items():
            found[f"{kind}-{name}"] = Hostile(path, write, lines, named)
    for kind, changes in (("model", _OF_MODEL), ("tokenizer", _OF_TOKENIZER)):
        path, lines = RECORDS[kind]
        for name, (keys, value) in changes.items():
            found[f"{kind}-{name}"] = Hostile(path, _changed(keys, value), lines[1:], (path, kind))
    state = "run/checkpoints/step-00000004/state.json"
    resume = (
        "train tokens.h5 --out run --steps 5 --checkpoint-every 2 --preview-every 4 --size tiny "
        "--batch-size 8 "
        "--warmup 1 --log-every 1 --tokenizer tokenizer"
    )
    for key, values in {
        "sha256": {"zero": 0, "null": None, "list": []},
        "step": {"null": None, "text": "x"},
    }.items():
        for name, value in values.items():
            found[f"state-{key}-{name}"] = Hostile(
                state, _alone(_changed(key, value)), (resume,), (state, "step-00000004")
            )
    return found


# --- archives of arrays -----------------------------------------------------------------------------


def _npy(shape: tuple[int, ...], kind: str = "<f8", data: bytes = b"", order: bool = False) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": order, "shape": shape})
    return out.getvalue() + data


def _npz(**members: Any) -> Callable[[Path], None]:
    """Members replaced or added, arrays or raw bytes; None takes one away."""

    def write(path: Path) -> None:
        with np.load(path) as good:
            arrays = {name: good[name] for name in good.files}
        with zipfile.ZipFile(path, "w") as archive:
            for name, value in {**arrays, **members}.items():
                if isinstance(value, bytes):
                    archive.writestr(f"{name}.npy", value)
                elif value is not None:
                    out = io.BytesIO()
                    np.lib.format.write_array(out, np.asarray(value), allow_pickle=True)
                    archive.writestr(f"{name}.npy", out.getvalue())

    return write


def _bytes_at(pattern: bytes, offset: int, value: bytes) -> Callable[[Path], None]:
    """Overwrite bytes behind every place where a pattern is."""

    def write(path: Path) -> None:
        data, at = bytearray(path.read_bytes()), -1
        while (at := data.find(pattern, at + 1)) >= 0:
            data[at + offset : at + offset + len(value)] = value
        path.write_bytes(data)

    return write


_FID = f"fid samples --ref stats.npz --out new.json {FEATURES}"
_ARCHIVES: dict[str, Callable[[Path], None]] = {
    "zip-version": _bytes_at(b"PK\x01\x02", 6, b"\xff\xff"),
    "zip-method": _bytes_at(b"PK\x01\x02", 10, b"\x63\x00"),
    "zip-encrypted": _bytes_at(b"PK\x01\x02", 8, b"\x01\x00"),
    "npy-header": _bytes_at(b"'descr'", 0, b"'descr("),
    "npy-version": _bytes_at(b"\x93NUMPY", 6, b"\x09\x09"),
    "npy-nested": _npz(mu=b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535),
    "mu-huge": _npz(mu=_npy((2**45,))),
    "mu-negative": _npz(mu=_npy((-1,), data=b"\0" * 8)),
    "mu-cut": _npz(mu=_npy((10**8,))),
    "mu-objects": _npz(mu=np.array([{}, []], dtype=object)),
    "mu-complex": _npz(mu=np.zeros(32, complex)),
    "mu-none": _npz(mu=None),
    "sigma-nan": _npz(sigma=np.full((32, 32), np.nan)),
    "sigma-negative": _npz(sigma=-np.eye(32)),
    "n-huge": _npz(n=np.float64(1e300)),
    "n-negative": _npz(n=np.int64(-4)),
    "meta-deep": _npz(meta=np.array("[" * 200_000)),
    "meta-digits": _npz(meta=np.array('{"n": ' + DIGITS + "}")),
    "meta-number": _npz(meta=np.array("5")),
    "features-huge": _npz(features=_npy((2**40, 32), "<f4")),
    "images-empty": lambda path: np.savez(path, arr_0=np.zeros((3, 0, 0, 3), np.uint8)),
    "images-huge": lambda path: _replace(path, "arr_0", _npy((10**12, 256, 256, 3), "|u1")),
    "images-cut": lambda path: _replace(path, "arr_0", _npy((1000, 64, 64, 3), "|u1")),
    "images-objects": lambda path: np.savez(path, arr_0=np.array([{}], dtype=object)),
    "nothing": lambda path: _replace(path, "x/../../y", b""),
}


def _lines_for(archive: str) -> tuple[str, ...]:
    """`info` does not read images, nor what only a distance shows."""
    unread = archive.startswith("images-") or archive in ("nothing", "mu-none", "sigma-negative")
    return (_FID,) if unread else ("info stats.npz", _FID)


def _replace(path: Path, name: str, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", data)


# --- tables -----------------------------------------------------------------------------------------

_TABLE, _EDITS = "labels.csv", "edits.csv"
_TOKENIZE, _INPAINT = (
    f"tokenize {_TABLE} new.h5 --tokenizer tokenizer --workers 0",
    f"inpaint {_EDITS} model --out new",
)
_TABLES: dict[str, tuple[str, str]] = {
    "label-digits": (_TABLE, f"images/cat/0.png,{DIGITS}\n"),
    "label-huge": (_TABLE, f"images/cat/0.png,{10**12}\n"),
    "label-negative": (_TABLE, "images/cat/0.png,-7\n"),
    "cell-long": (_TABLE, f"images/cat/0.png,{'x' * 200_000}\n"),
    "quote": (_TABLE, '"images/cat/0.png,cat\n' * 1000),
    "zeros": (_TABLE, "\0" * 1000),
    "missing": (_TABLE, "images/cat/none.png,cat\n"),
    "device": (_TABLE, "/dev/zero,cat\n"),
    "edit-digits": (_EDITS, f'image,box\npicture.png,"{DIGITS},1,1,1"\n'),
    "edit-seed": (_EDITS, f'image,box,seed\npicture.png,"1,1,2,2",{DIGITS}\n'),
    "edit-label": (_EDITS, f'image,box,label\npicture.png,"1,1,2,2",{DIGITS}\n'),
    "edit-window": (_EDITS, f'image,box,window\npicture.png,"1,1,2,2",{10**12}\n'),
    "edit-outpaint": (_EDITS, f"image,outpaint\npicture.png,left:{10**12}\n"),
    "edit-null": (_EDITS, 'image,box\npicture\0.png,"1,1,2,2"\n'),
    "edit-device": (_EDITS, 'image,box\n/dev/zero,"1,1,2,2"\n'),
    "edit-columns": (_EDITS, "image," + ",".join("box" for _ in range(10**4)) + "\n"),
}

# --- weights ----------------------------------------------------------------------------------------

_WEIGHTS = "model/model.safetensors"


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Safetensors whose header is changed; a text takes its place."""

    def write(path: Path) -> None:
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        changed = change(header)
        text = (changed if isinstance(changed, str) else json.dumps(header)).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        sign_weights(path.parent)

    return write


def _first(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[next(k for k in sorted(header) if k[0] != "_")].update(values)


_TENSORS: dict[str, Callable[[Path], None]] = {
    "size-huge": lambda path: path.write_bytes(struct.pack("<Q", 2**63) + path.read_bytes()[8:]) and None,
    "size-large": lambda path: (
        path.write_bytes(struct.pack("<Q", 99_000_000) + path.read_bytes()[8:]) and None
    ),
    "header-deep": _header(lambda _: '{"a":' * 100_000),
    "header-digits": _header(lambda _: f'{{"a": {DIGITS}}}'),
    "integers": _header(
        lambda header: [v.update(dtype="I32") for v in header.values() if v.get("dtype") == "F32"] and None
    ),
    "shape-huge": _header(_first(shape=[2**40, 2**40])),
    "shape-negative": _header(_first(shape=[-1])),
    "offsets-huge": _header(_first(data_offsets=[0, 2**62])),
    "offsets-backwards": _header(_first(data_offsets=[8, 0])),
    "type-unknown": _header(_first(dtype="X99")),
    "empty": lambda path: path.write_bytes(b"") and None,
}

_YAML = "published/model.yaml"
_IMPORT = (
    "import published/MaskGIT_tiny.pth new --tokenizer published/last.ckpt --tokenizer published/model.yaml"
)
_YAMLS: dict[str, str] = {
    "python": "!!python/object/apply:os.system ['touch owned']\n",
    "python-name": "model: !!python/name:os.system\n",
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9))
    + "model: *j\n",
    "deep": "[" * 20_000,
    "digits": f"model: {DIGITS}\n",
    "number": "5\n",
    "list": "- model\n",
}


def _packed(value: Any) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(value if isinstance(value, bytes) else msgpack.packb(value)) and None


_FLAX = "published/maskgit_imagenet_tiny_checkpoint"
_FLAX_LINE = f"import {_FLAX} new --tokenizer published/tokenizer_imagenet_tiny_checkpoint"
_FLAXES: dict[str, Any] = {
    "deep": b"\x91" * 100_000,
    "long-map": b"\xdf\xff\xff\xff\xff",
    "long-array": b"\xdd\xff\xff\xff\xff",
    "long-bytes": b"\xc6\xff\xff\xff\xff",
    "array-huge": {"params": {"a": msgpack.ExtType(1, msgpack.packb(((2**40, 2**40), "float32", b"")))}},
    "array-objects": {"params": {"a": msgpack.ExtType(1, msgpack.packb(((2,), "object", b"\0" * 16)))}},
    "array-kind": {"params": {"a": msgpack.ExtType(1, msgpack.packb(((2,), "no such", b"\0" * 16)))}},
    "array-pickle": {"params": {"a": msgpack.ExtType(1, b"\x80\x04K\x05.")}},
    "ext-unknown": {"params": {"a": msgpack.ExtType(99, b"")}},
    "number": 5,
}


def _csv(path: str, text: str) -> Hostile:
    return Hostile(path, _text(text), (_TOKENIZE if path == _TABLE else _INPAINT,), (path,))


HOSTILE: dict[str, Hostile] = {
    **_records(),
    **{
        f"npz-{name}": Hostile("stats.npz", write, _lines_for(name), ("stats.npz",))
        for name, write in _ARCHIVES.items()
    },
    **{f"csv-{name}": _csv(*table) for name, table in _TABLES.items()},
    **{
        f"tensors-{name}": Hostile(_WEIGHTS, write, ("sample model --n 1 --out new",), ("model.safetensors",))
        for name, write in _TENSORS.items()
    },
    **{
        f"yaml-{name}": Hostile(_YAML, _text(text), (_IMPORT,), ("model.yaml",))
        for name, text in _YAMLS.items()
    },
    **{
        f"flax-{name}": Hostile(_FLAX, _packed(value), (_FLAX_LINE,), ("tiny_checkpoint",))
        for name, value in _FLAXES.items()
    },
}
