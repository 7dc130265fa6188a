"""The benchmark: FLOPs, throughput and MFU, and the output of the command."""

import json

import pytest
import torch
from tiny_models import VQGAN_SIZES
from torch import nn

from maskgit_cli.config.benchmarks import BENCH_STAGES, BenchConfig
from maskgit_cli.config.networks import SIZES, TOKENIZER_SIZES, Size
from maskgit_cli.errors import ConfigError
from maskgit_cli.reports import benching
from maskgit_cli.reports.benching import Workload, bench, count_flops, measure

TINY = {"size": "tiny", "tokenizer": "tiny", "res": 16, "batch_size": 2, "steps": 3, "seconds": 0.001}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", Size(32, 1, 4, 64))
    monkeypatch.setitem(TOKENIZER_SIZES, "tiny", VQGAN_SIZES)
    monkeypatch.setattr(benching, "gemm_flops_per_second", lambda *_: 1e9)  # instead of a second's measuring


def test_flops_of_known_layers():
    linear, images = nn.Linear(32, 64), torch.zeros(5, 32)
    assert count_flops(lambda: linear(images)) == 2 * 5 * 32 * 64
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    assert count_flops(lambda: convolution(torch.zeros(2, 3, 10, 10))) == 2 * 2 * 10 * 10 * (3 * 3 * 3) * 8


def test_throughput_and_mfu_on_a_fake_clock(monkeypatch):
    """Runs of 9 s (warmup), then 2, 4 and 1 s: the median is 2 s."""
    seconds = iter([9.0, 2.0, 4.0, 1.0])
    now = [0.0]

    def run():
        now[0] += next(seconds)

    monkeypatch.setattr(benching.time, "perf_counter", lambda: now[0])
    found = measure(Workload(run, images=6, flops=4 * 10**12), 7.0, CPU, gemm=8e12)
    assert found == {"images": 6, "images_per_second": 3.0, "tflops": 2.0, "mfu": 0.25}


def test_flops_of_sampling_are_those_of_its_forward_passes():
    """Of the conditional and the unconditional one of each step, but for the first: there w is 0."""
    config = BenchConfig(**TINY)
    network = benching._transformer(config, CPU).eval()
    tokens = torch.zeros(1, network.config.grid, network.config.grid, dtype=torch.int64)
    forward = count_flops(lambda: network(tokens, torch.zeros(1, dtype=torch.int64)))
    flops = {cfg: benching._sample(BenchConfig(**TINY, cfg=cfg), CPU, torch.float32).flops for cfg in (0, 3)}
    assert flops == {0: 2 * 3 * forward, 3: 2 * 5 * forward}
    raster = benching._raster(BenchConfig(**TINY, cfg=0), CPU, torch.float32)
    assert raster.flops == 2 * 16 * forward


def test_the_resolution_must_suit_the_tokenizer():
    with pytest.raises(ConfigError, match="--res 17"):
        bench(BenchConfig(**TINY | {"res": 17, "stages": ("decode",)}), device="cpu")


def test_every_stage_runs():
    record = bench(BenchConfig(**TINY, stages=tuple(BENCH_STAGES)), device="cpu")
    assert list(record["stages"]) == list(BENCH_STAGES)
    assert record["settings"]["batch_size"] == 2
    assert record["machine"]["gemm_tflops"] == 0.001
    for row in record["stages"].values():
        assert row["images"] == 2
        assert row["images_per_second"] > 0
        assert row["mfu"] > 0


def test_the_command_prints_a_table_or_one_object(maskgit):
    words = ["bench", "--device", "cpu", "--stages", "sample, decode"]
    for name, value in TINY.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    machine, gemm, heads, *rows = maskgit(*words).stdout.splitlines()
    assert "float32" in machine
    assert "0.001 TFLOP/s" in gemm
    assert heads.split() == ["stage", "throughput", "compute", "MFU"]
    assert [row.split()[0] for row in rows] == ["sample", "decode"]
    record = json.loads(maskgit(*words, "--json").stdout)
    assert list(record["stages"]) == ["sample", "decode"]
