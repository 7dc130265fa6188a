"""maskgit: a file-based pipeline for masked generative image models.

Public names are imported on first use, so that ``import maskgit_cli`` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "MaskGITError": "errors",
    "TransformerConfig": "config.networks",
    "VQGANConfig": "config.networks",
    "TokenizeConfig": "config.stages",
    "TrainConfig": "config.stages",
    "VQGANTrainConfig": "config.stages",
    "SamplerConfig": "config.samplers",
    "ConfidenceConfig": "config.samplers",
    "HaltonSamplerConfig": "config.samplers",
    "GoogleSamplerConfig": "config.samplers",
    "RasterConfig": "config.samplers",
    "SampleConfig": "config.stages",
    "InpaintConfig": "config.inpaint",
    "Box": "config.inpaint",
    "Outpaint": "config.inpaint",
    "ScoreConfig": "config.stages",
    "BenchConfig": "config.stages",
    "CompareConfig": "config.stages",
    "SweepConfig": "config.stages",
    "SIZES": "config.networks",
    "PRESETS": "config.samplers",
    "MaskGIT": "networks.maskgit",
    "VQGAN": "networks.vqgan",
    "load_model": "networks.loading",
    "load_tokenizer": "networks.loading",
    "open_tokens": "formats.tokens",
    "open_samples": "formats.samples",
    "confidence_sampler": "sampling.samplers.confidence",
    "halton_sampler": "sampling.samplers.halton",
    "google_sampler": "sampling.samplers.google",
    "raster_sampler": "sampling.samplers.raster",
    "tokenize": "data.tokenizing",
    "merge": "data.merging",
    "train": "training.transformer",
    "train_vqgan": "training.vqgan",
    "sample": "sampling.images",
    "inpaint": "sampling.inpaint.inpainting",
    "decode": "data.decoding",
    "score": "scoring.stages",
    "fid_stats": "scoring.stages",
    "compare": "reports.comparing",
    "sweep": "reports.sweeping",
    "import_weights": "weights.importing",
    "pull": "weights.pulling",
    "export": "weights.exporting",
    "bench": "reports.benching",
    "describe": "reports.inspecting",
    "verify": "reports.verifying",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
