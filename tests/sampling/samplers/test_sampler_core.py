"""The samplers' shared arithmetic: guidance, inverse-CDF sampling, top-k, ranking."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_networks import blank, toy_network

from maskgit_cli.config.samplers import ConfidenceConfig
from maskgit_cli.errors import ArtifactError
from maskgit_cli.runtime import rng
from maskgit_cli.sampling.samplers.confidence import confidence_sampler
from maskgit_cli.sampling.samplers.core import guided_logits, inverse_cdf, most_confident

# --- guidance ---------------------------------------------------------------------------------------


def test_guidance_is_one_plus_w_times_cond_minus_w_times_uncond():
    network = toy_network(3, 4)
    tokens, labels = torch.tensor([[[0, 1], [2, 3]], [[3, 3], [3, 0]]]), torch.tensor([0, 1])
    off, on = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    cond, uncond = (network(tokens, labels, drop)[..., :3] for drop in (off, on))
    assert torch.equal(guided_logits(network, tokens, labels, 0.0, 3), cond)
    assert torch.allclose(guided_logits(network, tokens, labels, 2.5, 3), 3.5 * cond - 2.5 * uncond)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_logits_must_be_finite_but_those_of_the_mask_token(value, weight):
    def predict(tokens, labels, drop):
        logits = torch.zeros(len(tokens), 4, 6)
        logits[-1, 2, column] = value
        return logits

    tokens, labels, _ = blank(2, 2, 2, 5)
    column = 5
    assert guided_logits(predict, tokens, labels, weight, 5).isfinite().all()
    column = 3
    with pytest.raises(ArtifactError, match="NaN or infinite"):
        guided_logits(predict, tokens, labels, weight, 5)


@pytest.mark.parametrize(
    ("ramp", "forward_passes"),
    [("none", [1, 1, 1]), ("linear", [1, 2, 2]), ("constant", [2, 2, 2]), ("cosine", [1, 2, 2])],
)
def test_the_unconditional_forward_pass_is_skipped_where_the_weight_is_0(ramp, forward_passes):
    network, seen = toy_network(5, 4), []

    def counting(tokens, labels, drop):
        seen.append(len(tokens))
        return network(tokens, labels, drop)

    confidence_sampler(counting, *blank(1, 2, 2, 5), ConfidenceConfig(steps=3, cfg=2.0, ramp=ramp), 0, 5)
    assert seen == forward_passes


def test_guidance_moves_towards_the_class():
    """Two classes, each with its own favorite token; unconditionally both are equally likely."""

    def predict(tokens, labels, drop):
        logits = torch.zeros(len(tokens), 1, 4)
        logits[:, 0, 0] = torch.where(drop, 0.5, (labels == 0).float())
        logits[:, 0, 1] = torch.where(drop, 0.5, (labels == 1).float())
        return logits

    def share(cfg):
        tokens, _, indices = blank(2000, 1, 1, 3)
        labels = indices % 2
        config = ConfidenceConfig(steps=1, cfg=cfg)
        sampled = confidence_sampler(predict, tokens, labels, indices, config, 0, 3).flatten()
        return (sampled == labels).float().mean().item()

    # softmax over (1 + w/2, −w/2, 0) for the class's own token, the other's, and the third.
    for cfg in (0.0, 4.0):
        logits = torch.tensor([1 + cfg / 2, -cfg / 2, 0.0])
        assert share(cfg) == pytest.approx(logits.softmax(0)[0].item(), abs=0.04)


# --- inverse-CDF sampling ---------------------------------------------------------------------------


def test_inverse_cdf():
    p = torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    u = torch.tensor([[1e-12, 0.1999, 0.2001, 0.6999, 0.7001, 1 - 1e-12]], dtype=torch.float64)
    tokens, log_p = inverse_cdf(p.log().expand(1, 6, 4), u, 1.0)
    assert tokens.tolist() == [[0, 0, 2, 2, 3, 3]]
    assert torch.allclose(log_p.exp(), p[tokens])


def test_a_token_without_probability_is_never_sampled():
    logits = torch.tensor([-torch.inf, 1.0, -torch.inf, 0.3, -torch.inf, -torch.inf]).expand(1, 2, 6)
    smallest, largest = 2.0**-53, 1 - 2.0**-53
    tokens, log_p = inverse_cdf(logits, torch.tensor([[smallest, largest]], dtype=torch.float64), 1.0)
    assert tokens.tolist() == [[1, 3]]
    assert log_p.isfinite().all()


def test_the_softmax_temperature_multiplies():
    logits = torch.tensor([[[0.0, 1.0, 2.0]]])
    u = torch.tensor([[0.5]], dtype=torch.float64)
    _, log_p = inverse_cdf(logits, u, 3.0)
    assert log_p.item() == pytest.approx((3 * logits.double()).log_softmax(-1).max().item())


@given(st.integers(1, 9), st.lists(st.integers(-3, 3), min_size=9, max_size=9), st.integers(0, 2**32))
def test_top_k_is_the_k_most_probable(k, logits, seed):
    """Also among equals, of which the lower tokens count as more probable."""
    u = rng.uniform(seed, torch.arange(1), 0, 200)
    tokens, log_p = inverse_cdf(torch.tensor(logits).float().expand(1, 200, 9), u, 1.0, k)
    best = sorted(range(9), key=lambda token: (-logits[token], token))[:k]
    assert set(tokens.unique().tolist()) <= set(best)
    share = torch.tensor(logits)[best].double().softmax(0)
    assert torch.allclose(log_p.exp(), share[[best.index(token) for token in tokens[0].tolist()]][None])


def test_equal_confidences_go_to_the_first_position():
    confidence = torch.tensor([[0.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [-torch.inf, 0.0, -1.0, 5.0]])
    kept = most_confident(confidence, torch.tensor([2, 3, 0]))
    assert kept.tolist() == [[False, True, True, False], [True, True, True, False], [False] * 4]
