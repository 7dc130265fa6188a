"""Scores of ``train`` while it runs: samples of the EMA weights against a reference, every so many steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskgit_cli.config.features import EXTRACTORS, FeatureSpace
from maskgit_cli.config.metrics import METRICS, score_name
from maskgit_cli.config.stages import SampleConfig, ScoreConfig
from maskgit_cli.config.training import TrainConfig
from maskgit_cli.data.sources import ImageSource, Origin
from maskgit_cli.errors import ArtifactError, ConfigError, InputError
from maskgit_cli.formats.feature_statistics import Statistics
from maskgit_cli.formats.runs import read_metrics
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.networks.loading import Model, Tokenizer
from maskgit_cli.runtime.distributed import on_main
from maskgit_cli.runtime.progress import Reporter
from maskgit_cli.sampling.images import plan_samples, sample_batch
from maskgit_cli.sampling.model import Pipeline, choose_sampler, predictor
from maskgit_cli.scoring.features import FeatureExtractor, Resources
from maskgit_cli.scoring.metrics import compute
from maskgit_cli.scoring.sources import Source, common_space, read_source, statistics_of
from maskgit_cli.training.common import MetricsLine
from maskgit_cli.training.init_from import InitialWeights

# Samples per batch of each process, the default of `sample`; it does not change them.
BATCH = 64


class Samples(ImageSource):
    """The images that a network has yet to generate: each rank generates those that it is asked for.

    Args:
        n: number of images.
        tokenizer_sha256: of the run's tokenizer.
    """

    def __init__(self, n: int, tokenizer_sha256: str) -> None:
        origin = Origin(Path("samples"), "samples", tokenizer_sha256=tokenizer_sha256)
        super().__init__(origin, [f"{i:06d}" for i in range(n)])
        self.pipeline: Pipeline | None = None

    def open(self, index: int, side: int | None = None) -> Tensor:
        """See :meth:`ImageSource.open`."""
        return next(self.batches([index], 1))[0]

    def batches(self, indices: Sequence[int], size: int) -> Iterator[list[Tensor]]:
        """The images of ascending ``indices``, as ``maskgit sample`` without options generates them."""
        assert self.pipeline is not None
        model, config = self.pipeline.model, SampleConfig(n=len(self))
        sampler = choose_sampler(None, model, model.config.classes > 0).limited(steps=model.config.grid**2)
        contents = plan_samples(self.pipeline, sampler, config)
        for first in range(0, len(indices), size):
            batch = np.asarray(indices[first : first + size])
            tokens, _ = sample_batch(self.pipeline, contents, batch, sampler, config)
            yield list(self.pipeline.decode(tokens))


class Evaluation:
    """The scores of a training: opened before its first step, computed by all ranks, written to its log.

    Nothing of it is in a checkpoint, and it draws no random number of the training. A score follows the
    checkpoint of its step, so that a kill loses no step; :meth:`begin` finds out whether it is missing.

    Args:
        config: ``fid_every``, ``fid_n``, ``fid_features`` and ``steps`` are read.
        ref: images or statistics; None where ``fid_every`` is 0.
        tokenizer: directory of the run's tokenizer, whose features ``vqgan`` are.
        tokenizer_sha256: its digest.
        resolution: side of the samples in pixels, to which images of the reference are resized and cropped.
        device: of the networks.
        dtype: precision of the transformer's matrix products.
        reporter: receives progress.

    Raises:
        InputError: the reference does not exist.
        ArtifactError: it is damaged, or its statistics are of another feature space.
        WeightsError: Inception's weights are not available.
    """

    def __init__(
        self,
        config: TrainConfig,
        ref: Path | None,
        tokenizer: Path,
        tokenizer_sha256: str,
        resolution: int,
        device: torch.device,
        dtype: torch.dtype,
        reporter: Reporter,
    ) -> None:
        self.config, self.device, self.dtype, self.reporter = config, device, dtype, reporter
        self.samples = Samples(config.fid_n, tokenizer_sha256)
        self.reference: Reference | None = None
        if config.fid_every and ref is not None:
            scoring = ScoreConfig(features=config.fid_features, metrics=("fid",), res=resolution)
            self.reference = open_reference(ref, self.samples, scoring, tokenizer, device, reporter)
        self._logged = 0

    def due(self, step: int) -> bool:
        """Whether a score is due after a step; one is at the last step, and none that the log has."""
        every = self.config.fid_every
        wanted = every > 0 and step > 0 and (step == self.config.steps or step % every == 0)
        return wanted and step != self._logged

    def begin(self, out: Path, step: int) -> None:
        """Extract the reference's features, unless nothing is left to score.

        Args:
            out: the run directory.
            step: of the checkpoint that the training resumes from, 0 without one.

        Raises:
            ArtifactError: a line of the log is damaged.
            InputError: an image of the reference cannot be read.
        """
        if self.reference is None:
            return
        name = self.reference.score_name(self.config.fid_n)
        lines = on_main(lambda: [line["step"] for line in read_metrics(out) if name in line])
        self._logged = step if step in lines else 0
        if step < (self.config.steps or 0) or self.due(step):
            self.reference = self.reference.extracted(self.reporter)

    def scores(
        self, step: int, network: MaskedTransformer, tokenizer: Tokenizer, initial: InitialWeights
    ) -> dict[str, float]:
        """The scores of a step by their names, the same on all ranks.

        Args:
            step: the step.
            network: with the EMA weights.
            tokenizer: decodes the samples.
            initial: entry and sizes of the network.

        Raises:
            ArtifactError: the network returns NaN or infinite logits.
        """
        assert self.reference is not None
        model = Model(
            network=network,
            config=initial.config,
            class_names=list(initial.class_names),
            resolution=initial.config.grid * tokenizer.config.factor,
            sha256="",  # these weights are in no file
            tokenizer_sha256=tokenizer.sha256,
            path=Path(f"step {step}"),
            step=step,
            sampler=None,
            entry=initial.entry,
        )
        predict = predictor(network, self.device, self.dtype)
        self.samples.pipeline = Pipeline(model, tokenizer, predict, self.device, self.dtype)
        return self.reference.distance(self.samples, self.device, self.reporter)

    def log(self, step: int, line: MetricsLine, *networks: Any) -> None:
        """Append the scores of a step to a log; for ``networks`` see :meth:`scores`."""
        line.append(step=step, **self.scores(step, *networks))
        self._logged = step


def check_reference(config: TrainConfig | Mapping[str, Any] | None, ref: Path | None) -> None:
    """Check that scores and a reference for them are asked for together.

    Raises:
        ConfigError: one is without the other.
    """
    settings = config if isinstance(config, TrainConfig) else TrainConfig(**config or {})
    if settings.fid_every and ref is None:
        raise ConfigError(f"--fid-every {settings.fid_every}: needs a reference; give --fid-ref")
    if ref is not None and not settings.fid_every:
        raise ConfigError(f"--fid-ref {ref}: nothing is scored; give --fid-every as well, or leave it out")


# --- the reference ----------------------------------------------------------------------------------


class Reference(NamedTuple):
    """What samples are compared with: all that a training takes from :mod:`maskgit_cli.scoring`.

    Attributes:
        source: the images, or their statistics.
        space: the feature space.
        extractor: of its features.
        config: settings of the score.
    """

    source: Source
    space: FeatureSpace
    extractor: FeatureExtractor | None
    config: ScoreConfig

    def score_name(self, n: int) -> str:
        """The name of the score of n samples in this space: ``fid``, ``frechet_vqgan``."""
        return score_name(METRICS["fid"].scores[0], self.space, n)

    def extracted(self, reporter: Reporter) -> Reference:
        """The same reference with its statistics, which all ranks compute."""
        return self._replace(source=Source(self.source.path, self._statistics(self.source, reporter)))

    def distance(self, samples: ImageSource, device: torch.device, reporter: Reporter) -> dict[str, float]:
        """The Fréchet distance of samples to the reference by its name, on all ranks."""
        reference = self.source.content
        assert isinstance(reference, Statistics)
        found = self._statistics(Source(samples.origin.path, samples), reporter)
        scored = on_main(lambda: compute(METRICS["fid"], found, reference, self.config, device).values["fid"])
        return {self.score_name(len(samples)): scored}

    def _statistics(self, source: Source, reporter: Reporter) -> Statistics:
        return statistics_of(source, self.space, self.extractor, (), BATCH, reporter).statistics


def open_reference(
    ref: Path,
    samples: ImageSource,
    config: ScoreConfig,
    tokenizer: Path,
    device: torch.device,
    reporter: Reporter,
) -> Reference:
    """The reference, opened but not read, with the extractor of its features.

    Args:
        ref: images or statistics.
        samples: what is to be compared with it.
        config: feature extractor and resolution.
        tokenizer: directory of the tokenizer that defines the features ``vqgan``.
        device: of the extractor.
        reporter: receives messages.

    Raises:
        As :class:`Evaluation`.
    """
    resources = Resources(device=device, reporter=reporter)
    try:
        source = read_source(ref, resources)
        source = source._replace(images=None)  # the distance needs the statistics only
        if EXTRACTORS[config.extractor].tokenizer:
            resources = resources._replace(tokenizer=tokenizer)
        space, extractor, _ = common_space([Source(samples.origin.path, samples), source], config, resources)
    except (InputError, ArtifactError) as error:
        raise type(error)(f"--fid-ref {error}") from None
    return Reference(source, space, extractor, config)
