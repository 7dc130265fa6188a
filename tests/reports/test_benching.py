"""The bench: what is counted, and what the command says."""

import json

import pytest
from tiny_models import VQGAN_SIZES

from maskgit_cli.config.networks import SIZES, TOKENIZER_SIZES, Size
from maskgit_cli.config.stages import BenchConfig
from maskgit_cli.errors import ConfigError
from maskgit_cli.reports import benching
from maskgit_cli.reports.benching import bench

TINY = {"size": "tiny", "tokenizer": "tiny", "res": 16, "batch_size": 2, "steps": 3, "seconds": 0.001}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", Size(32, 1, 4, 64))
    monkeypatch.setitem(TOKENIZER_SIZES, "tiny", VQGAN_SIZES)
    monkeypatch.setattr(benching, "_limit", lambda *_: 1e9)  # which takes a second to find out


def test_every_stage_is_measured_against_a_matrix_product():
    record = bench(BenchConfig(**TINY), device="cpu")
    assert list(record["stages"]) == ["tokenize", "train", "sample", "decode"]
    assert record["settings"]["batch_size"] == 2
    assert record["machine"]["limit_tflops"] == 0.001
    for row in record["stages"].values():
        assert row["images"] == 2
        assert row["images_per_second"] > 0
        assert row["of_limit"] > 0
        assert row["tflops"] == pytest.approx(row["of_limit"] * 0.001, abs=1e-4)


def test_the_resolution_suits_the_tokenizer():
    with pytest.raises(ConfigError, match="--res 17: must be a multiple of 4 for tiny"):
        bench(BenchConfig(**TINY | {"res": 17, "stages": ("decode",)}), device="cpu")


def test_the_command_prints_a_table_or_one_object(maskgit):
    words = ["bench", "--device", "cpu", "--stages", "sample, decode"]
    for name, value in TINY.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    lines = maskgit(*words).stdout.splitlines()
    assert lines[0].startswith("device cpu, dtype float32, threads ")
    assert lines[1] == "limit: a large matrix product reaches 0.001 TFLOP/s"
    assert [line.split()[0] for line in lines[2:]] == ["sample", "decode"]
    record = json.loads(maskgit(*words, "--json").stdout)
    assert list(record["stages"]) == ["sample", "decode"]
