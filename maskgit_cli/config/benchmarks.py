"""Settings of ``bench``."""

from __future__ import annotations

from dataclasses import dataclass

from maskgit_cli.config.base import (
    LARGEST_BATCH,
    LARGEST_COUNT,
    LARGEST_SIDE,
    Settings,
    above,
    among,
    at_least,
    setting,
    some_of,
)
from maskgit_cli.config.networks import SIZES, TOKENIZER_SIZES

# Autoregressive sampling takes long, so it is measured on request only.
BENCH_STAGES = {
    "tokenize": "encode images",
    "train": "one optimizer step",
    "sample": "confidence sampler",
    "raster": "autoregressive, one token per forward pass",
    "decode": "decode tokens",
}


@dataclass(frozen=True)
class BenchConfig(Settings):
    """Settings of ``bench``."""

    size: str = setting("base", among(*SIZES), help="Transformer size.")
    tokenizer: str = setting("f16", among(*TOKENIZER_SIZES), help="Tokenizer size.")
    res: int = setting(256, at_least(1, LARGEST_SIDE), help="Image side in pixels.")
    batch_size: int = setting(8, at_least(1, LARGEST_BATCH), help="Batch size.")
    steps: int = setting(8, at_least(1, LARGEST_COUNT), help="Decoding steps.")
    cfg: float = setting(3.0, at_least(0), help="Guidance weight; 0 skips the unconditional forward pass.")
    seconds: float = setting(5.0, above(0), help="Minimum measuring time per stage in seconds.")
    stages: tuple[str, ...] = setting(
        ("tokenize", "train", "sample", "decode"),
        some_of(*BENCH_STAGES),
        help=f"Stages, comma-separated: {', '.join(f'{k} ({v})' for k, v in BENCH_STAGES.items())}.",
    )
