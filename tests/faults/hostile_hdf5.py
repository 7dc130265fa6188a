"""Token files that are HDF5 but not what they claim: changes of a good one that a reader must refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Change = Callable[[h5py.File, Path], Any]

NUMBERS = ("codebook_size", "grid", "resolution")
TEXTS = ("views", "tokenizer", "tokenizer_sha256")
JSON = ("class_names", "settings", "parents")
ATTRIBUTES = (*NUMBERS, *TEXTS, *JSON, "format", "version", "complete")
DATASETS = ("codes", "labels", "names", "done", "skipped")

# Values of attributes that are no such value.
VALUES: dict[str, dict[str, Any]] = {
    "complete": {"no": "no", "empty": "", "two": 2, "list": [True, False], "nan": np.nan},
    "grid": {
        "half": 8.5,
        "text": "4",
        "wide": "４",
        "negative": -1,
        "zero": 0,
        "huge": 2**62,
        "list": [4, 4],
    },
    "resolution": {"zero": 0, "negative": -1, "other": 7777, "huge": 2**62, "nan": np.nan, "text": "16px"},
    "codebook_size": {"zero": 0, "negative": -5, "huge": 2**62, "infinite": np.inf, "one": 1},
    "views": {"unknown": "both", "number": 5, "long": "x" * 60_000},
    "tokenizer": {"number": 5, "list": [1, 2], "empty": h5py.Empty("S1")},
    "tokenizer_sha256": {"short": "x", "number": 5, "other": "Z" * 64},
    "version": {"text": "1", "half": 1.5, "next": 99, "list": [1]},
    "format": {"other": "maskgit-run", "number": 5, "list": ["maskgit-tokens"]},
    "class_names": {
        "not-json": "cat",
        "number": "5",
        "mixed": "[1, null, {}]",
        "twice": '["a", "a", "a"]',
        "deep": "[" * 30_000 + "]" * 30_000,
        "surrogate": '["\\ud800", "dog", "owl"]',
    },
    "settings": {"not-json": "{", "list": "[]", "digits": '{"res": ' + "9" * 5000 + "}"},
    "parents": {"number": "5", "numbers": "[1, 2]", "keys": '[{"kind": 1}]', "deep": '[{"kind":' * 6000},
}


def _attribute(name: str, value: Any) -> Change:
    def change(file: h5py.File, _folder: Path) -> None:
        del file.attrs[name]
        file.attrs[name] = value

    return change


def _reference(name: str) -> Change:
    return lambda file, _: file.attrs.__setitem__(name, file["labels"].ref)


def _without(name: str, attribute: bool) -> Change:
    def change(file: h5py.File, _folder: Path) -> None:
        del (file.attrs if attribute else file)[name]

    return change


def _dataset(name: str, make: Callable[[h5py.File, np.ndarray], Any]) -> Change:
    """Replace a dataset by what ``make`` gives or writes, from the values it had."""

    def change(file: h5py.File, _folder: Path) -> None:
        values = file[name][()] if name in file else np.zeros(3)
        if name in file:
            del file[name]
        made = make(file, values)
        if made is not None:
            file[name] = made

    return change


def _external(name: str) -> Change:
    def change(file: h5py.File, folder: Path) -> None:
        del file[name]
        file[name] = h5py.ExternalLink(str(folder / "tokens.h5"), f"/{name}")

    return change


def _soft(name: str) -> Change:
    def change(file: h5py.File, _folder: Path) -> None:
        file.move(name, f"{name}-moved")
        file[name] = h5py.SoftLink(f"/{name}-moved")

    return change


def _virtual(file: h5py.File, codes: np.ndarray) -> None:
    file["source"] = codes
    layout = h5py.VirtualLayout(codes.shape, codes.dtype)
    layout[:] = h5py.VirtualSource(file["source"])
    file.create_virtual_dataset("codes", layout)


def _storage_elsewhere(file: h5py.File, codes: np.ndarray) -> None:
    size = codes.nbytes
    file.create_dataset("codes", codes.shape, codes.dtype, external=[("/etc/passwd", 0, size)])


def _absurd(shape: tuple[int, ...]) -> Callable[[h5py.File, np.ndarray], None]:
    return lambda file, values: (
        file.create_dataset("codes", shape, values.dtype, chunks=(1,) * len(shape)) and None
    )


DATASET_CHANGES: dict[str, Change] = {
    "codes-group": _dataset("codes", lambda file, _: file.create_group("codes") and None),
    "labels-group": _dataset("labels", lambda file, _: file.create_group("labels") and None),
    "names-group": _dataset("names", lambda file, _: file.create_group("names") and None),
    "trace-group": _dataset("trace_codes", lambda file, _: file.create_group("trace_codes") and None),
    "trace-scalar": _dataset("trace_codes", lambda *_: np.uint16(1)),
    "trace-1d": _dataset("trace_codes", lambda *_: np.arange(5, dtype=np.uint16)),
    "codes-float": _dataset("codes", lambda _, codes: codes.astype(np.float32)),
    "codes-big-endian": _dataset("codes", lambda _, codes: codes.astype(">u2")),
    "codes-3d": _dataset("codes", lambda _, codes: codes[:, 0]),
    "codes-above": _dataset("codes", lambda _, codes: codes + np.uint16(60000)),
    "codes-chunked": _dataset(
        "codes", lambda file, codes: file.create_dataset("codes", data=codes, chunks=codes.shape) and None
    ),
    "codes-packed": _dataset(
        "codes", lambda file, codes: file.create_dataset("codes", data=codes, compression="gzip") and None
    ),
    "codes-virtual": _dataset("codes", _virtual),
    "codes-elsewhere": _dataset("codes", _storage_elsewhere),
    "codes-absurd": _dataset("codes", _absurd((10**12, 1, 4, 4))),
    "codes-references": _dataset("codes", lambda file, codes: np.full(len(codes), file["labels"].ref)),
    "labels-float": _dataset("labels", lambda _, labels: labels.astype(np.float64)),
    "labels-2d": _dataset("labels", lambda _, labels: labels[:, None]),
    "labels-high": _dataset("labels", lambda _, labels: labels + 99),
    "labels-low": _dataset("labels", lambda _, labels: labels - 99),
    "labels-empty": _dataset("labels", lambda *_: np.zeros(0, np.int32)),
    "labels-long": _dataset("labels", lambda _, labels: np.tile(labels, 2)),
    "names-numbers": _dataset("names", lambda _, names: np.arange(len(names))),
    "names-variable": _dataset("names", lambda _, names: np.array(["x"] * len(names), h5py.string_dtype())),
    "done-numbers": _dataset("done", lambda _, done: done.astype(np.int64)),
    "done-false": _dataset("done", lambda _, done: ~done),
    "skipped-1d": _dataset("skipped", lambda *_: np.array([b"x"])),
    "soft-loop": _dataset("labels", lambda file, _: file.__setitem__("labels", h5py.SoftLink("/labels"))),
}

CHANGES: dict[str, Change] = {
    **{
        f"{name}-{what}": _attribute(name, v) for name, values in VALUES.items() for what, v in values.items()
    },
    **{f"{name}-reference": _reference(name) for name in ("tokenizer", "grid", "complete")},
    **{f"without-attribute-{name}": _without(name, True) for name in ATTRIBUTES},
    **{f"without-{name}": _without(name, False) for name in DATASETS},
    **{f"{name}-external": _external(name) for name in DATASETS},
    **{f"{name}-soft": _soft(name) for name in DATASETS},
    **DATASET_CHANGES,
}


def make(name: str, good: Path, evil: Path) -> Path:
    """Write the changed copy of a good token file."""
    evil.write_bytes(good.read_bytes())
    with h5py.File(evil, "r+") as file:
        CHANGES[name](file, good.parent)
    return evil
