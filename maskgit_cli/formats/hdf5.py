"""What token files need of HDF5: texts of a fixed length, and a block of numbers filled from outside."""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np


def texts_of(values: np.ndarray) -> list[str]:
    """The texts in an array of UTF-8 bytes."""
    # File names need not be valid UTF-8; surrogates carry the odd bytes through.
    return [bytes(value).decode("utf-8", "surrogateescape") for value in values]


def fixed_texts(texts: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """Texts as a fixed-length UTF-8 array, which HDF5 can store contiguously."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    width = max(map(len, encoded), default=1) or 1
    return np.array(encoded, f"S{width}").astype(h5py.string_dtype("utf-8", width)).reshape(shape)


def set_aside(file: h5py.File, name: str, kind: np.dtype, shape: tuple[int, ...]) -> None:
    """A contiguous dataset that HDF5 gives space, but neither values nor a time of creation."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)
    stored = h5py.h5t.py_create(kind, logical=True)  # bool as h5py knows it
    h5py.h5d.create(file.id, name.encode(), stored, h5py.h5s.create_simple(shape), plan)
