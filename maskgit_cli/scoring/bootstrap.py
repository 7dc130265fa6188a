"""The spread of a score over the samples: a bootstrap of the first-order change that each image makes.

A bootstrap computes a score again for many resamples of the images, drawn with replacement. For FID that
takes an eigendecomposition of 2048×2048 each time, and is biased: a resample has only 63 % of the images, so
its distance is larger than that of all. Here a score is replaced by its first-order expansion about the
estimate, score + mean of the influences of the resampled images (the infinitesimal jackknife; Efron and
Tibshirani, An Introduction to the Bootstrap, chapter 22), which takes one eigendecomposition in all and has
no such bias. For precision and density, means over samples of which each has its own part, that is exact.

Resample b takes the same image numbers at every point of a sweep. Image i starts from the same random numbers
at all of them, so what points have in common cancels in their differences (a paired bootstrap).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from maskgit_cli.runtime.rng import BOOTSTRAP, uniform

REPLICATES = 1000
# Of intervals, and of the set of points that holds the best one.
CONFIDENCE = 0.95
# Scores that differ by less, relative to the larger, are equal: only rounding differs.
EQUAL = 1e-9


def replicates_of(value: float, influences: np.ndarray, count: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """A score's bootstrap replicates, float64 (count,).

    Args:
        value: the score.
        influences: first-order change of the score per image, (n,), with mean zero.
        count: number of resamples.
        seed: of the resamples; resample b of n images is the same for all scores.
    """
    n = len(influences)
    found = np.empty(count)
    for b in range(count):
        numbers = (uniform(seed, [b], 0, n, BOOTSTRAP)[0].numpy() * n).astype(np.int64)  # (n,), in [0, n)
        found[b] = value + influences[numbers].mean()
    return found


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """The central 95 % of a score's replicates."""
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(replicates, [outside, 1 - outside])
    return float(low), float(high)


def contenders(replicates: Mapping[str, np.ndarray], lower_is_better: bool) -> list[str]:
    """The smallest set of points one of which is the best in 95 % of the resamples, likeliest first.

    One point alone is the best beyond the spread of the samples. Points that are equally good in a resample
    share it.

    Args:
        replicates: of one score, float64 (B,), by the name of the point.
        lower_is_better: whether the lowest score is the best.
    """
    names = list(replicates)
    scores = np.stack([replicates[name] for name in names]) * (1 if lower_is_better else -1)  # (points, B)
    best = scores.min(axis=0)
    first = scores <= best + EQUAL * np.abs(scores).max(axis=0)
    shares = (first / first.sum(axis=0)).mean(axis=1)
    order = np.argsort(-shares, kind="stable")
    enough = int(np.searchsorted(np.cumsum(shares[order]), CONFIDENCE - EQUAL)) + 1
    return [names[i] for i in order[:enough]]
