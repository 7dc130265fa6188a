"""flax's msgpack files: arrays come back, and damage is refused in one line."""

import msgpack
import numpy as np
import pytest
import torch
from published import flax_array

from maskgit_cli.errors import InputError
from maskgit_cli.weights.read_flax import read_flax


def test_arrays_of_flax_come_back(tmp_path):
    arrays = {
        "single": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones((1, 2), np.float16),
        "whole": np.array([1, -2], np.int32),
        "scalar": np.array(2.5, np.float64),
        "empty": np.zeros((0, 3), np.float32),
    }
    value = {"params": {key: flax_array(array) for key, array in arrays.items()}, "step": 3, "name": "é"}
    (tmp_path / "x").write_bytes(msgpack.packb(value))
    found = read_flax(tmp_path / "x")
    assert (found["step"], found["name"]) == (3, "é")
    for key, array in arrays.items():
        assert found["params"][key].shape == array.shape
        assert torch.equal(found["params"][key], torch.from_numpy(array))


def test_damaged_msgpack_is_refused(tmp_path):
    good = msgpack.packb({"params": {"a": flax_array(np.ones(4, np.float32))}})
    packed = msgpack.packb
    bad = [
        b"",
        good + b"\x00",
        *(good[:length] for length in range(1, len(good), 7)),
        packed({"a": msgpack.ExtType(2, b"")}),
        packed({"a": msgpack.ExtType(1, b"")}),
        packed({"a": msgpack.ExtType(1, packed(((5,), "float32", b"1234")))}),
        packed({"a": msgpack.ExtType(1, packed(((1,), "object", b"1234")))}),
        packed({"a": msgpack.ExtType(1, packed(((-1,), "float32", b"1234")))}),
        packed({"a": msgpack.ExtType(1, packed(("x", "float32", b"1234")))}),
        packed({"a": msgpack.ExtType(1, packed(((1,), ["float32"], b"1234")))}),
        packed({"a": msgpack.ExtType(1, packed(7))}),
    ]
    for data in bad:
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(InputError, match="cannot be read as flax's msgpack"):
            read_flax(tmp_path / "x")


def test_bytes_that_were_changed_do_no_harm(tmp_path):
    """Whatever one byte is turned into: something is read, or the file is refused."""
    value = {"params": {"a": flax_array(np.ones((2, 3), np.float32)), "b": [1, {"c": 2.5}]}, "d": "e"}
    good = msgpack.packb(value)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        data = bytearray(good)
        data[random.integers(len(data))] = random.integers(256)
        (tmp_path / "x").write_bytes(data)
        try:
            read_flax(tmp_path / "x")
        except InputError:
            refused += 1
    assert 0 < refused < 500


def test_deep_nesting_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"\x81\xa1a" + b"\x91" * 100_000 + b"\x00")
    with pytest.raises(InputError, match="nested too deeply"):
        read_flax(tmp_path / "x")
