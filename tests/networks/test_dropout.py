"""Dropout by counters: its numbers, their statistics, and that an image's own seed alone decides."""

import copy

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from maskgit_cli.config.networks import TRANSFORMERS
from maskgit_cli.networks import dropout as module
from maskgit_cli.networks.dropout import RowDropout, SeededSequential, attention, kept, number_sites
from maskgit_cli.networks.registry import build
from maskgit_cli.runtime.rng import row_seeds

ROWS = 64
SIZES = {
    "maskgit": {"width": 32, "depth": 2, "heads": 4, "mlp_width": 64},
    "halton": {"width": 32, "depth": 2, "heads": 4, "mlp_width": 64, "head_width": 8},
    "google": {"width": 32, "depth": 2, "heads": 4, "mlp_width": 64},
}


def network(name, dropout):
    torch.manual_seed(0)
    entry = TRANSFORMERS[name]
    net = build(entry, entry.config(**SIZES[name], codebook_size=12, classes=3, grid=4, dropout=dropout))
    for parameter in net.parameters():  # also the gates of halton's blocks, which begin at zero
        torch.nn.init.normal_(parameter, std=0.3)
    return net.train()


def batch(rows=6):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 13, (rows, 4, 4), generator=generator)
    return tokens, torch.randint(0, 3, (rows,), generator=generator), row_seeds(7, 1, rows)


# --- the numbers ------------------------------------------------------------------------------------


def test_words_are_those_of_splitmix64():
    """The first outputs for the seed 1234567, as other implementations list them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    counter = torch.arange(1, 5)
    words = module._mixed(1234567 + counter * module._STEP)
    assert [word % 2**64 for word in words.tolist()] == known


@pytest.mark.parametrize("p", [0.1, 0.5, 0.003, 0.97])
def test_as_many_are_dropped_as_asked_for(p):
    found = kept(row_seeds(0, 1, ROWS), 0, 40_001, p)
    assert found.shape == (ROWS, 40_001)
    n, dropped = found.numel(), int((~found).sum())
    assert stats.binomtest(dropped, n, round(p * 65536) / 65536).pvalue > 1e-3
    # Each image and each position on its own: sums of squares of standardized counts.
    for axis, trials in ((1, found.shape[1]), (0, ROWS)):
        counts = (~found).sum(axis).double()
        chi2 = ((counts - trials * p) ** 2 / (trials * p * (1 - p))).sum()
        assert 1e-3 < stats.chi2.sf(float(chi2), len(counts)) < 0.999


def test_rows_sites_and_steps_are_independent():
    """No correlation between any two of them, nor between neighbors in the four lanes of a word."""
    masks = [
        kept(row_seeds(seed, step, 4), site, 50_000, 0.5)[row]
        for seed, step, site, row in [
            (0, 1, 0, 0), (0, 1, 0, 1), (0, 1, 1, 0), (0, 2, 0, 0), (1, 1, 0, 0), (0, 1, 2, 1),
        ]
    ]  # fmt: skip
    signs = 2 * torch.stack(masks).double() - 1
    related = torch.corrcoef(signs) - torch.eye(len(signs))
    assert related.abs().max() < 4.5 / 50_000**0.5
    for lag in range(1, 9):
        assert (signs[:, lag:] * signs[:, :-lag]).mean(1).abs().max() < 4.5 / 50_000**0.5


def test_successive_seeds_drop_unlike():
    """Whoever gives small numbers as seeds gets independent masks as well."""
    signs = 2 * kept(torch.arange(-20, 20), 3, 20_000, 0.5).double() - 1
    assert (torch.corrcoef(signs) - torch.eye(40)).abs().max() < 4.5 / 20_000**0.5


@pytest.mark.parametrize("n", [1, 3, 4, 1001])
def test_positions_do_not_depend_on_how_many_there_are(n):
    seeds = row_seeds(3, 1, 5)
    assert torch.equal(kept(seeds, 2, n, 0.3), kept(seeds, 2, 2000, 0.3)[:, :n])


# --- the layer --------------------------------------------------------------------------------------


def test_what_is_kept_grows():
    layer, x = RowDropout(0.25).train(), torch.ones(ROWS, 9, 11, requires_grad=True)
    y = layer(x, row_seeds(0, 1, ROWS))
    assert y.detach().unique().tolist() == pytest.approx([0, 4 / 3])
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert float(y.detach().mean()) == pytest.approx(1, abs=0.03)
    assert layer(x.bfloat16(), row_seeds(0, 1, ROWS)).dtype == torch.bfloat16


def test_nothing_is_dropped_in_evaluation():
    x = torch.ones(2, 5)
    assert RowDropout(0.5).eval()(x, None) is x
    assert RowDropout(0.0).train()(x, None) is x
    with pytest.raises(AssertionError):
        RowDropout(0.5).train()(x, None)


def test_sites_are_numbered():
    net = torch.nn.ModuleList([RowDropout(0.1), SeededSequential(torch.nn.Linear(2, 2), RowDropout(0.1))])
    number_sites(net)
    assert [net[0].site, net[1][1].site] == [0, 1]


def test_attention_is_that_of_its_equation():
    """softmax(QKᵀ/√d)·V with some of the softmax zeroed; gradients as without recomputing."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    layer, seeds = RowDropout(0.4).train(), row_seeds(0, 1, 3)
    found = attention(q, k, v, layer, seeds)
    keep = kept(seeds, layer.site, 2 * 5 * 5, 0.4).view(3, 2, 5, 5)
    weights = (q @ k.transpose(2, 3) / 2).softmax(-1) * keep / (1 - round(0.4 * 65536) / 65536)
    torch.testing.assert_close(found, weights @ v)
    upstream = torch.randn_like(found)
    wanted = torch.autograd.grad(weights @ v, (q, k, v), upstream)
    torch.testing.assert_close(torch.autograd.grad(found, (q, k, v), upstream), wanted)


def test_attention_without_dropout_is_torchs():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 2, 5, 4)
    for layer in (RowDropout(0.4).eval(), RowDropout(0.0).train()):
        assert torch.equal(attention(q, k, v, layer, None), F.scaled_dot_product_attention(q, k, v))


# --- networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_row_is_the_same_in_any_batch(name):
    net, (tokens, labels, seeds) = network(name, 0.1), batch()
    whole = net(tokens, labels, None, seeds)
    order = torch.tensor([4, 1])
    torch.testing.assert_close(net(tokens[order], labels[order], None, seeds[order]), whole[order])
    assert not torch.allclose(net(tokens, labels, None, row_seeds(7, 2, 6)), whole)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_place_drops_on_its_own(name):
    """Each one changes the output when it alone is active, and no two have a number."""
    net, (tokens, labels, seeds) = network(name, 0.1), batch()
    places = [layer for layer in net.modules() if isinstance(layer, RowDropout)]
    assert [place.site for place in places] == list(range(len(places)))
    without = copy.deepcopy(net).eval()(tokens, labels)
    for place in places:
        for other in places:
            other.p = 0.1 if other is place else 0.0
        assert not torch.allclose(net(tokens, labels, None, seeds), without)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_seeds_are_drawn_where_none_are_given(name):
    net, (tokens, labels, _) = network(name, 0.1), batch()
    torch.manual_seed(5)
    first, second = net(tokens, labels), net(tokens, labels)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(net(tokens, labels), first)
    net.eval()
    assert torch.equal(net(tokens, labels), net(tokens, labels, None, row_seeds(0, 1, 6)))
