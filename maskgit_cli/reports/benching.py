"""``bench``: images a second of each stage's networks, beside what the machine can do at most."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from maskgit_cli.config.base import require
from maskgit_cli.config.networks import SIZES, TOKENIZER_SIZES, TransformerConfig
from maskgit_cli.config.samplers import ConfidenceConfig, RasterConfig, SamplerConfig
from maskgit_cli.config.stages import BenchConfig
from maskgit_cli.networks.maskgit import MaskGIT
from maskgit_cli.networks.vqgan import VQGAN
from maskgit_cli.runtime.distributed import autocast, plain_attention, resolve_device, resolve_dtype
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.sampling.samplers.registry import sample_tokens

Work = Callable[[], object]


def bench(
    config: BenchConfig | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Time the networks of each stage with random weights.

    Images are made in memory: what is measured is the networks, not the disk.

    Args:
        config: sizes and stages; None is the defaults.
        device: where to run.
        dtype: precision of matrix products.
        reporter: told of progress.

    Returns:
        ``machine`` (device, dtype, threads, torch, ``limit_tflops``: what a large matrix product
        reaches), and for each stage ``images_per_second``, ``tflops`` and ``of_limit`` (0..1).

    Raises:
        ConfigError: the resolution is not a multiple of the tokenizer's factor.
    """
    config = config or BenchConfig()
    factor = TOKENIZER_SIZES[config.tokenizer].factor
    require(config.res % factor == 0, "res", config.res, f"a multiple of {factor} for {config.tokenizer}")
    target = resolve_device(device)
    precision = resolve_dtype(dtype, target)
    limit = _limit(target, precision)
    stages: dict[str, Any] = {}
    with reporter.task("bench", len(config.stages), unit="stages") as task:
        for stage in config.stages:
            work, images = _STAGES[stage](config, target, precision)
            stages[stage] = _measure(work, images, config.seconds, target, limit)
            task.advance(1)
    machine = {
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else target.type,
        "dtype": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "limit_tflops": round(limit / 1e12, 4),
    }
    return {"machine": machine, "settings": config.to_json(), "stages": stages}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _times(work: Work, least: float, device: torch.device) -> list[float]:
    """Seconds of each of as many calls as fill ``least`` seconds, the quickest first."""
    _wait(device)
    times: list[float] = []
    while not times or sum(times) < least:
        began = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - began)
    return sorted(times)


def _limit(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large square matrix product, at its quickest."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.rand(side, side, device=device, dtype=dtype)
    a @ a
    return 2 * side**3 / _times(lambda: a @ a, 1.0, device)[0]


def _measure(
    work: Work, images: int, least: float, device: torch.device, limit: float
) -> dict[str, float | int]:
    with FlopCounterMode(display=False) as counter:
        work()  # the one call that nobody times
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = _times(work, least, device)
    seconds = times[len(times) // 2]
    rate = counter.get_total_flops() / seconds
    result = {
        "images": images,
        "images_per_second": round(images / seconds, 4),
        "tflops": round(rate / 1e12, 4),
        "of_limit": round(rate / limit, 4),
    }
    if device.type == "cuda":
        result["peak_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    return result


def _tokenizer(config: BenchConfig, device: torch.device) -> VQGAN:
    sizes = dataclasses.replace(TOKENIZER_SIZES[config.tokenizer], resolution=config.res)
    return VQGAN(sizes).to(device).eval().requires_grad_(False)


def _transformer(config: BenchConfig, device: torch.device) -> MaskGIT:
    codec = TOKENIZER_SIZES[config.tokenizer]
    size = dataclasses.asdict(SIZES[config.size])
    grid = config.res // codec.factor
    sizes = TransformerConfig(**size, codebook_size=codec.codebook_size, classes=1000, grid=grid)
    return MaskGIT(sizes).to(device)


def _tokenize(config: BenchConfig, device: torch.device, dtype: torch.dtype) -> tuple[Work, int]:
    codec = _tokenizer(config, device)
    images = torch.rand(config.batch_size, 3, config.res, config.res, device=device) * 2 - 1

    @torch.inference_mode()
    def work() -> object:
        """One batch of images into codes."""
        with autocast(device, dtype):
            return codec.encode(images)

    return work, config.batch_size


def _decode(config: BenchConfig, device: torch.device, _: torch.dtype) -> tuple[Work, int]:
    codec = _tokenizer(config, device)
    codes = torch.zeros(config.batch_size, codec.config.grid, codec.config.grid, dtype=torch.int64)

    @torch.inference_mode()
    def work() -> object:
        """One batch of codes into images, in float32 as wherever codes are decoded."""
        return codec.decode(codes.to(device))

    return work, config.batch_size


def _train(config: BenchConfig, device: torch.device, dtype: torch.dtype) -> tuple[Work, int]:
    network = _transformer(config, device).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=device.type in ("cpu", "cuda"))
    sizes = network.config
    codes = torch.randint(sizes.codebook_size, (config.batch_size, sizes.grid, sizes.grid), device=device)
    labels = torch.zeros(config.batch_size, dtype=torch.int64, device=device)

    def work() -> object:
        """One optimizer step."""
        bf16 = dtype == torch.bfloat16
        with autocast(device, dtype), plain_attention(device, bf16, codes[0].numel()):
            logits = network(codes, labels)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return work, config.batch_size


def _sample(config: BenchConfig, device: torch.device, dtype: torch.dtype) -> tuple[Work, int]:
    return _draw(ConfidenceConfig(steps=config.steps, cfg=config.cfg), config, device, dtype)


def _raster(config: BenchConfig, device: torch.device, dtype: torch.dtype) -> tuple[Work, int]:
    return _draw(RasterConfig(cfg=config.cfg), config, device, dtype)


def _draw(
    sampler: SamplerConfig, config: BenchConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Work, int]:
    network = _transformer(config, device).eval().requires_grad_(False)
    sizes = network.config
    index = torch.arange(config.batch_size, device=device)
    blank = torch.full((config.batch_size, sizes.grid, sizes.grid), network.mask_code, device=device)

    @torch.inference_mode()
    def work() -> object:
        """One batch of codes drawn from nothing."""
        with autocast(device, dtype):
            return sample_tokens(
                network, blank, index % sizes.classes, index, sampler, seed=0, mask_token=network.mask_code
            )

    return work, config.batch_size


_STAGES: dict[str, Callable[[BenchConfig, torch.device, torch.dtype], tuple[Work, int]]] = {
    "tokenize": _tokenize,
    "train": _train,
    "sample": _sample,
    "raster": _raster,
    "decode": _decode,
}
