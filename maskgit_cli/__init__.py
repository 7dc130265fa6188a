"""maskgit: composable stages for masked generative image models.

The public names are imported when they are first used, so that ``import maskgit_cli`` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "MaskGITError": "errors",
    "TransformerConfig": "config",
    "VQGANConfig": "config",
    "TokenizeConfig": "config",
    "TrainConfig": "config",
    "VQGANTrainConfig": "config",
    "SamplerConfig": "sampler_config",
    "ConfidenceConfig": "sampler_config",
    "HaltonSamplerConfig": "sampler_config",
    "OfficialSamplerConfig": "sampler_config",
    "RasterConfig": "sampler_config",
    "SampleConfig": "config",
    "InpaintConfig": "inpaint_config",
    "Box": "inpaint_config",
    "Outpaint": "inpaint_config",
    "ScoreConfig": "config",
    "BenchConfig": "config",
    "CompareConfig": "config",
    "SweepConfig": "config",
    "SIZES": "config",
    "PRESETS": "sampler_config",
    "MaskGIT": "models.maskgit",
    "VQGAN": "models.vqgan",
    "load_model": "artifacts.models",
    "load_tokenizer": "artifacts.models",
    "open_tokens": "artifacts.tokens",
    "open_samples": "artifacts.samples",
    "confidence_sampler": "samplers",
    "halton_sampler": "samplers",
    "official_sampler": "samplers",
    "raster_sampler": "samplers",
    "tokenize": "tokenizing",
    "train": "training",
    "train_vqgan": "vqgan_training",
    "sample": "sampling",
    "inpaint": "inpainting",
    "decode": "decoding",
    "score": "scoring",
    "fid_stats": "scoring",
    "compare": "comparing",
    "sweep": "sweeping",
    "import_weights": "importing",
    "pull": "pulling",
    "export": "exporting",
    "bench": "benching",
    "describe": "inspecting",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
