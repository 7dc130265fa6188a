"""``bench``: throughput of the networks of each stage, and its share of a large matrix product's."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maskgit_cli.config.arguments import checked
from maskgit_cli.config.base import require
from maskgit_cli.config.benchmarks import BENCH_STAGES, BenchConfig
from maskgit_cli.config.networks import SIZES, TOKENIZER_SIZES, TransformerConfig
from maskgit_cli.config.samplers import ConfidenceConfig, RasterConfig, SamplerConfig
from maskgit_cli.networks.maskgit import MaskGIT
from maskgit_cli.networks.vqgan import VQGAN
from maskgit_cli.runtime.distributed import autocast, plain_attention, resolve_device, resolve_dtype
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.sampling.model import predictor
from maskgit_cli.sampling.samplers.core import Predict
from maskgit_cli.sampling.samplers.registry import sample_tokens


class Workload(NamedTuple):
    """One batch of a stage.

    Attributes:
        run: processes the batch.
        images: of the batch.
        flops: floating-point operations of the batch.
    """

    run: Callable[[], object]
    images: int
    flops: int


@checked
def bench(
    config: BenchConfig | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Measure the throughput of the networks of each stage with random weights, without file access.

    Args:
        config: sizes and stages; None is the defaults.
        device: where to run.
        dtype: precision of matrix products.
        reporter: receives progress.

    Returns:
        ``machine`` (device, dtype, threads, torch, and ``gemm_tflops``, the TFLOP/s of a large matrix
        product), and for each stage ``images`` per batch, ``images_per_second``, ``tflops`` (TFLOP/s),
        ``mfu`` (``tflops`` as a fraction of ``gemm_tflops``), and on GPUs ``peak_gb``.

    Raises:
        ConfigError: the resolution is not a multiple of the tokenizer's factor.
    """
    config = config or BenchConfig()
    factor = TOKENIZER_SIZES[config.tokenizer].factor
    require(config.res % factor == 0, "res", config.res, f"a multiple of {factor} for {config.tokenizer}")
    target = resolve_device(device)
    precision = resolve_dtype(dtype, target)
    gemm = gemm_flops_per_second(target, precision)
    stages: dict[str, Any] = {}
    with reporter.task("bench", len(config.stages), unit="stages") as task:
        for stage in config.stages:
            workload = _STAGES[stage](config, target, precision)
            stages[stage] = measure(workload, config.seconds, target, gemm)
            task.advance(1)
    machine = {
        "device": torch.cuda.get_device_name(target) if target.type == "cuda" else target.type,
        "dtype": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gemm_tflops": round(gemm / 1e12, 4),
    }
    return {"machine": machine, "settings": config.to_json(), "stages": stages}


# --- measurements -----------------------------------------------------------------------------------


def measure(workload: Workload, minimum: float, device: torch.device, gemm: float) -> dict[str, float | int]:
    """Throughput of a workload, from the median time of its runs after a first one for warmup.

    Args:
        workload: what runs.
        minimum: total time of the runs in seconds.
        device: where it runs.
        gemm: FLOP/s of a large matrix product there.
    """
    workload.run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = run_times(workload.run, minimum, device)
    seconds = times[len(times) // 2]
    rate = workload.flops / seconds
    result = {
        "images": workload.images,
        "images_per_second": round(workload.images / seconds, 4),
        "tflops": round(rate / 1e12, 4),
        "mfu": round(rate / gemm, 4),
    }
    if device.type == "cuda":
        result["peak_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    return result


def run_times(run: Callable[[], object], minimum: float, device: torch.device) -> list[float]:
    """Ascending times in seconds of at least one run, and of as many as take ``minimum`` seconds."""
    _synchronize(device)
    times: list[float] = []
    while not times or sum(times) < minimum:
        start = time.perf_counter()
        run()
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def gemm_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several large square matrix products."""
    side = 1024 if device.type == "cpu" else 8192
    a = torch.rand(side, side, device=device, dtype=dtype)
    a @ a
    return 2 * side**3 / run_times(lambda: a @ a, 1.0, device)[0]


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention on this thread."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# --- stages -----------------------------------------------------------------------------------------


def _vqgan(config: BenchConfig, device: torch.device) -> VQGAN:
    sizes = dataclasses.replace(TOKENIZER_SIZES[config.tokenizer], resolution=config.res)
    return VQGAN(sizes).to(device).eval().requires_grad_(False)


def _transformer(config: BenchConfig, device: torch.device) -> MaskGIT:
    tokenizer = TOKENIZER_SIZES[config.tokenizer]
    size = dataclasses.asdict(SIZES[config.size])
    grid = config.res // tokenizer.factor
    return MaskGIT(
        TransformerConfig(**size, codebook_size=tokenizer.codebook_size, classes=1000, grid=grid)
    ).to(device)


def _tokenize(config: BenchConfig, device: torch.device, dtype: torch.dtype) -> Workload:
    vqgan = _vqgan(config, device)
    images = torch.rand(config.batch_size, 3, config.res, config.res, device=device) * 2 - 1

    @torch.inference_mode()
    def run() -> Tensor:
        """Encode one batch."""
        with autocast(device, dtype):
            return vqgan.encode(images)

    return Workload(run, config.batch_size, count_flops(run))


def _decode(config: BenchConfig, device: torch.device, _: torch.dtype) -> Workload:
    vqgan = _vqgan(config, device)
    grid = vqgan.config.grid
    tokens = torch.zeros(config.batch_size, grid, grid, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def run() -> Tensor:
        """Decode one batch in float32, as all stages do."""
        return vqgan.decode(tokens)

    return Workload(run, config.batch_size, count_flops(run))


def _train(config: BenchConfig, device: torch.device, dtype: torch.dtype) -> Workload:
    network = _transformer(config, device).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=device.type in ("cpu", "cuda"))
    sizes = network.config
    tokens = torch.randint(sizes.codebook_size, (config.batch_size, sizes.grid, sizes.grid), device=device)
    labels = torch.zeros(config.batch_size, dtype=torch.int64, device=device)

    def run() -> Tensor:
        """One optimizer step."""
        bf16 = dtype == torch.bfloat16
        with autocast(device, dtype), plain_attention(device, bf16, sizes.grid**2):
            logits = network(tokens, labels)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return Workload(run, config.batch_size, count_flops(run))


def _sample(config: BenchConfig, device: torch.device, dtype: torch.dtype) -> Workload:
    return _sampling(ConfidenceConfig(steps=config.steps, cfg=config.cfg), config, device, dtype)


def _raster(config: BenchConfig, device: torch.device, dtype: torch.dtype) -> Workload:
    return _sampling(RasterConfig(cfg=config.cfg), config, device, dtype)


def _sampling(
    sampler: SamplerConfig, config: BenchConfig, device: torch.device, dtype: torch.dtype
) -> Workload:
    network = _transformer(config, device).eval().requires_grad_(False)
    grid, mask_token = network.config.grid, network.config.codebook_size

    def generate(predict: Predict, n: int) -> Tensor:
        index = torch.arange(n, device=device)
        masked = torch.full((n, grid, grid), mask_token, device=device)
        return sample_tokens(
            predict, masked, index % network.config.classes, index, sampler, seed=0, mask_token=mask_token
        )

    def one_thread(*inputs: Tensor) -> Tensor:
        return network(*(x.to(device) for x in inputs)).float()

    # `predictor` may run images in other threads, which the counter does not see; images cost the same.
    flops = config.batch_size * count_flops(lambda: generate(one_thread, 1))
    predict = predictor(network, device, dtype)
    return Workload(lambda: generate(predict, config.batch_size), config.batch_size, flops)


_STAGES: dict[str, Callable[[BenchConfig, torch.device, torch.dtype], Workload]] = {
    "tokenize": _tokenize,
    "train": _train,
    "sample": _sample,
    "raster": _raster,
    "decode": _decode,
}
assert _STAGES.keys() == BENCH_STAGES.keys()
