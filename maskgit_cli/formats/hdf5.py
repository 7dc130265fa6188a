"""HDF5 parts of token files: fixed-length text, and datasets that are filled from outside HDF5."""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np


def encode_texts(texts: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """Strings as a fixed-length UTF-8 array, which HDF5 can store contiguously."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    width = max(map(len, encoded), default=1) or 1
    return np.array(encoded, f"S{width}").astype(h5py.string_dtype("utf-8", width)).reshape(shape)


def create_unfilled(file: h5py.File, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Create a contiguous dataset that has its space in the file, but no values and no time stamp."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    stored = h5py.h5t.py_create(dtype, logical=True)  # bool as h5py reads it
    h5py.h5d.create(file.id, name.encode(), stored, h5py.h5s.create_simple(shape), properties)
