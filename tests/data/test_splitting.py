"""Validation splits: stratified by class, of the size that was asked for, a function of the seed."""

import numpy as np
import pytest

from maskgit_cli.data.splitting import held_out
from maskgit_cli.errors import ConfigError


@pytest.mark.parametrize("classes", [1, 3, 10])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.33, 0.5])
def test_every_class_has_its_share_and_none_is_emptied(classes, fraction):
    for n in range(11, 90, 7):
        labels = np.random.default_rng(n).integers(-1, classes, n).astype(np.int32)
        chosen = held_out(labels, fraction, n)
        sizes = {label: (labels == label).sum() for label in set(labels.tolist())}
        pool = sum(size for size in sizes.values() if size > 1)
        assert chosen.sum() == min(max(1, round(fraction * pool)), pool // 2)
        for label, size in sizes.items():
            here, share = chosen[labels == label].sum(), size * chosen.sum() / pool
            assert here < size
            assert size == 1 or np.floor(share) <= here <= np.ceil(share)


def test_it_is_drawn_from_the_seed():
    labels = np.arange(200, dtype=np.int32) % 40
    splits = [held_out(labels, 0.1, seed) for seed in (*range(60), 0, 2**64 - 1)]
    assert np.array_equal(splits[0], splits[60])
    assert len({split.tobytes() for split in splits}) == 61
    # 20 of 40 classes have one of their five images held out, each image in 6 of 60 splits on average.
    often = np.sum(splits[:60], 0)
    assert often.min() >= 1
    assert often.max() <= 16
    assert np.bincount(labels, often).min() > 15


def test_a_seed_keeps_its_meaning():
    chosen = held_out(np.repeat(np.arange(2, dtype=np.int32), 10), 0.2, 5)
    assert np.flatnonzero(chosen).tolist() == [0, 3, 15, 18]


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 2]])
def test_nothing_to_hold_out(labels):
    with pytest.raises(ConfigError, match=r"--val-split 0\.5: nothing"):
        held_out(np.array(labels, np.int32), 0.5, 0)
