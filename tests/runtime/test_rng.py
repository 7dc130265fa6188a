"""The counter-based random numbers: known answers, independence of the batch, and distribution."""

import numpy as np
import pytest
import torch

from maskgit_cli.errors import ConfigError
from maskgit_cli.runtime import rng

# Known answers that the authors of Philox publish with their Random123 library (kat_vectors, philox4x64 10).
# NumPy counts up before it draws, so the counters here are one lower.
KNOWN = [
    (
        (2**64 - 1,) * 4,
        (0, 0),
        (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
    ),
    (
        (2**64 - 2, 2**64 - 1, 2**64 - 1, 2**64 - 1),
        (2**64 - 1, 2**64 - 1),
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        (0x243F6A8885A308D2, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_numpys_philox_gives_the_published_words(counter, key, expected):
    words = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64)).random_raw(4)
    assert tuple(map(int, words)) == expected


def test_key_and_counter_are_as_documented():
    """One generator per image, keyed by seed and index, with step and stream in the counter."""
    key, counter = np.array([2**63 + 5, 7], np.uint64), np.array([0, 0, 3, rng.MASK], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(6)
    drawn = rng.uniform(2**63 + 5, [7], 3, 6, rng.MASK)
    assert drawn[0].tolist() == [(2 * (int(word) >> 12) + 1) * 2.0**-53 for word in words]
    key, counter = np.array([2**63 + 5, rng.MASK], np.uint64), np.array([0, 0, 0, 9], np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(6)
    batch = rng.batch_uniform(2**63 + 5, 9, 2, 3, rng.MASK)
    assert batch.flatten().tolist() == [(2 * (int(word) >> 12) + 1) * 2.0**-53 for word in words]


def test_a_row_depends_on_its_index_alone():
    whole = rng.uniform(5, torch.arange(40), 2, 9)
    for rows in (torch.tensor([3]), torch.tensor([39, 0, 17]), torch.arange(8, 24)):
        assert torch.equal(rng.uniform(5, rows, 2, 9), whole[rows])
    assert torch.equal(rng.uniform(5, torch.arange(40), 2, 4), whole[:, :4])


def test_every_part_of_key_and_counter_matters():
    variants = [
        rng.uniform(seed, [index], step, 3, stream)
        for seed, index, step, stream in [
            (0, 1, 0, 0), (1, 1, 0, 0), (2**63, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1),
        ]
    ]  # fmt: skip
    assert len(torch.cat(variants).unique()) == 3 * len(variants)
    batches = [
        rng.batch_uniform(s, step, 2, 3, stream)
        for s, step, stream in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3)]
    ]
    assert len(torch.cat(batches).unique()) == 6 * len(batches)


def test_uniform_is_uniform_and_open():
    u = rng.uniform(11, torch.arange(400), 0, 500)
    assert u.dtype == torch.float64
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    counts = torch.histc(u, bins=100, min=0, max=1)
    chi_square = ((counts - 2000) ** 2 / 2000).sum().item()
    assert 50 < chi_square < 160  # 99 degrees of freedom: 0.02 % quantiles are about 53 and 155
    assert abs(torch.corrcoef(u[:, :2].T)[0, 1]) < 0.2


def test_the_extreme_words_stay_inside_the_interval(monkeypatch):
    for word, expected in ((0, 2.0**-53), (2**64 - 1, 1 - 2.0**-53)):
        monkeypatch.setattr(rng, "_words", lambda key, counter, n, w=word: np.full(n, w, np.uint64))
        assert rng.uniform(0, [0], 0, 1).item() == expected


def test_gumbel_has_the_moments_of_the_gumbel_distribution():
    g = rng.gumbel(3, torch.arange(300), 1, 300)
    assert g.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert g.var().item() == pytest.approx(np.pi**2 / 6, rel=0.03)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed):
    for draw in (
        lambda: rng.uniform(seed, [0], 0, 1),
        lambda: rng.batch_uniform(seed, 0, 1, 1, 0),
        lambda: rng.batch_rows(seed, 3, 0, 3),
        lambda: rng.row_seeds(seed, 1, 1),
        lambda: rng.seeds_of_images([0, seed]),
    ):
        with pytest.raises(ConfigError, match=f"--seed {seed}"):
            draw()


def test_every_row_of_every_step_has_a_seed():
    seeds = torch.stack([rng.row_seeds(seed, step, 9) for seed in (0, 2**64 - 1) for step in (1, 10**9)])
    assert (seeds.dtype, len(seeds.unique())) == (torch.int64, 36)
    assert torch.equal(rng.row_seeds(0, 1, 4), seeds[0, :4])
    assert (seeds < 0).double().mean() == pytest.approx(0.5, abs=0.3), "all 64 bits are used"


def order(seed, epoch, n):
    """The whole order of an epoch."""
    return rng.shuffled(seed, np.full(n, epoch), np.arange(n), n)


@pytest.mark.parametrize("n", [*range(1, 70), 97, 128, 129, 255, 256, 257, 997, 4096, 4097, 65537])
def test_every_epoch_is_a_permutation(n):
    assert np.array_equal(np.sort(order(3, 5, n)), np.arange(n))


def test_an_order_is_a_pure_function_of_seed_and_epoch():
    whole = order(0, 0, 100)
    assert np.array_equal(whole, order(0, 0, 100))
    assert not np.array_equal(whole, order(0, 1, 100))
    assert not np.array_equal(whole, order(1, 0, 100))
    # Written down once: a seed must mean the same order in every release.
    assert order(2, 3, 8).tolist() == [3, 6, 0, 2, 7, 5, 4, 1]
    assert whole[:5].tolist() == [77, 20, 62, 2, 86]
    far = rng.shuffled(2**64 - 1, np.array([0, 1, 2]), np.array([5, 5, 5]), 10**9)
    assert far.tolist() == [810868107, 45051142, 64106647]
    views = rng.picked(1, np.array([0, 1, 2, 2]), np.array([4, 4, 4, 5]), np.full(4, 10), rng.VIEW)
    assert views.tolist() == [7, 9, 9, 5]


def test_an_item_is_at_every_position_equally_often():
    """Chi-square with 81 degrees of freedom: 81 on average, with a standard deviation of 12.7."""
    n, epochs = 10, 5000
    found = rng.shuffled(7, np.repeat(np.arange(epochs), n), np.tile(np.arange(n), epochs), n)
    counts = np.zeros((n, n))
    np.add.at(counts, (np.tile(np.arange(n), epochs), found), 1)
    assert ((counts - epochs / n) ** 2 / (epochs / n)).sum() < 81 + 4 * 12.7


def test_a_batch_of_a_billion_rows_takes_no_memory_for_them():
    rows = rng.batch_rows(0, 10**9, 10**9 - 3, 6)
    assert len(set(rows.tolist())) == 6
    assert rows.min() >= 0
    assert rows.max() < 10**9


def test_a_batch_may_be_larger_than_an_epoch():
    assert np.array_equal(np.bincount(rng.batch_rows(1, 4, 0, 12)), [3, 3, 3, 3])


def test_rows_of_a_batch_are_those_of_the_whole():
    whole = rng.batch_uniform(5, 9, 8, 7, rng.MASK)
    p = np.linspace(0, 1, 8)
    for first in range(8):
        part = rng.batch_uniform(5, 9, 8 - first, 7, rng.MASK, first=first)
        assert torch.equal(part, whole[first:])
        below = rng.batch_below(5, 9, p[first:], 7, rng.MASK, first=first)
        assert np.array_equal(below, whole[first:].numpy() < p[first:, None])


def test_a_seed_for_each_image():
    """Images of several seeds get in one call what they get in a call each."""
    seeds = [0, 5, 2**63, 2**64 - 1]
    indices = torch.tensor([3, 3, 0, 9])
    together = rng.uniform(rng.seeds_of_images(seeds), indices, 2, 7, rng.CONFIDENCE)
    for i, seed in enumerate(seeds):
        alone = rng.uniform(seed, indices[i : i + 1], 2, 7, rng.CONFIDENCE)
        assert torch.equal(together[i], alone[0])
