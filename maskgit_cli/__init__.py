"""maskgit: a file-based pipeline for masked generative image models.

Public names are imported on first use, so that ``import maskgit_cli`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the names of _HOMES, for type checkers and editors
    from maskgit_cli.config.benchmarks import BenchConfig as BenchConfig
    from maskgit_cli.config.inpaint import Box as Box
    from maskgit_cli.config.inpaint import InpaintConfig as InpaintConfig
    from maskgit_cli.config.inpaint import Outpaint as Outpaint
    from maskgit_cli.config.networks import SIZES as SIZES
    from maskgit_cli.config.networks import TransformerConfig as TransformerConfig
    from maskgit_cli.config.networks import VQGANConfig as VQGANConfig
    from maskgit_cli.config.samplers import PRESETS as PRESETS
    from maskgit_cli.config.samplers import ConfidenceConfig as ConfidenceConfig
    from maskgit_cli.config.samplers import GoogleSamplerConfig as GoogleSamplerConfig
    from maskgit_cli.config.samplers import HaltonSamplerConfig as HaltonSamplerConfig
    from maskgit_cli.config.samplers import RasterConfig as RasterConfig
    from maskgit_cli.config.samplers import SamplerConfig as SamplerConfig
    from maskgit_cli.config.stages import CompareConfig as CompareConfig
    from maskgit_cli.config.stages import DoctorConfig as DoctorConfig
    from maskgit_cli.config.stages import SampleConfig as SampleConfig
    from maskgit_cli.config.stages import ScoreConfig as ScoreConfig
    from maskgit_cli.config.stages import SweepConfig as SweepConfig
    from maskgit_cli.config.stages import TokenizeConfig as TokenizeConfig
    from maskgit_cli.config.training import TrainConfig as TrainConfig
    from maskgit_cli.config.training import VQGANTrainConfig as VQGANTrainConfig
    from maskgit_cli.data.decoding import decode as decode
    from maskgit_cli.data.merging import merge as merge
    from maskgit_cli.data.tokenizing import tokenize as tokenize
    from maskgit_cli.errors import MaskGITError as MaskGITError
    from maskgit_cli.formats.samples import open_samples as open_samples
    from maskgit_cli.formats.tokens import open_tokens as open_tokens
    from maskgit_cli.networks.loading import load_model as load_model
    from maskgit_cli.networks.loading import load_tokenizer as load_tokenizer
    from maskgit_cli.networks.maskgit import MaskGIT as MaskGIT
    from maskgit_cli.networks.vqgan import VQGAN as VQGAN
    from maskgit_cli.reports.benching import bench as bench
    from maskgit_cli.reports.comparing import compare as compare
    from maskgit_cli.reports.doctoring import diagnose as diagnose
    from maskgit_cli.reports.inspecting import describe as describe
    from maskgit_cli.reports.score_diff import score_diff as score_diff
    from maskgit_cli.reports.sweeping import sweep as sweep
    from maskgit_cli.reports.verifying import verify as verify
    from maskgit_cli.sampling.images import sample as sample
    from maskgit_cli.sampling.inpaint.inpainting import inpaint as inpaint
    from maskgit_cli.sampling.opened import ImageModel as ImageModel
    from maskgit_cli.sampling.opened import load as load
    from maskgit_cli.sampling.results import Images as Images
    from maskgit_cli.sampling.samplers.confidence import confidence_sampler as confidence_sampler
    from maskgit_cli.sampling.samplers.google import google_sampler as google_sampler
    from maskgit_cli.sampling.samplers.halton import halton_sampler as halton_sampler
    from maskgit_cli.sampling.samplers.raster import raster_sampler as raster_sampler
    from maskgit_cli.scoring.stages import fid_stats as fid_stats
    from maskgit_cli.scoring.stages import score as score
    from maskgit_cli.training.transformer import dry_run as dry_run
    from maskgit_cli.training.transformer import train as train
    from maskgit_cli.training.vqgan import train_vqgan as train_vqgan
    from maskgit_cli.weights.exporting import export as export
    from maskgit_cli.weights.importing import import_weights as import_weights
    from maskgit_cli.weights.pulling import pull as pull

_HOMES = {
    "MaskGITError": "errors",
    "TransformerConfig": "config.networks",
    "VQGANConfig": "config.networks",
    "TokenizeConfig": "config.stages",
    "TrainConfig": "config.training",
    "VQGANTrainConfig": "config.training",
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
    "BenchConfig": "config.benchmarks",
    "CompareConfig": "config.stages",
    "DoctorConfig": "config.stages",
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
    "ImageModel": "sampling.opened",
    "Images": "sampling.results",
    "load": "sampling.opened",
    "tokenize": "data.tokenizing",
    "merge": "data.merging",
    "train": "training.transformer",
    "dry_run": "training.transformer",
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
    "diagnose": "reports.doctoring",
    "describe": "reports.inspecting",
    "score_diff": "reports.score_diff",
    "verify": "reports.verifying",
}

__all__ = [*_HOMES, "__version__"]


if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
