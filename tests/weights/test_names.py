"""Published and native tensor names: the tables are complete, and strict."""

import pytest
import torch
from torch import nn

from maskgit_cli.config.networks import (
    TOKENIZERS,
    TRANSFORMERS,
    GoogleConfig,
    GoogleVQGANConfig,
    HaltonConfig,
    TransformerConfig,
    VQGANConfig,
)
from maskgit_cli.errors import WeightsError
from maskgit_cli.networks.registry import build
from maskgit_cli.weights.names import (
    PUBLISHED_NETWORKS,
    PublishedWeights,
    listed,
    recognize,
    renamed,
    to_native,
    v1_published_name,
)

LEVELS = {"channels": 32, "channel_multipliers": (1, 2, 2), "residual_blocks": 2, "resolution": 32}
SIZES = {
    "maskgit": TransformerConfig(8, 2, 2, 16, 5, 3, 2),
    "halton": HaltonConfig(8, 2, 2, 4, 16, 5, 3, 2),
    "google": GoogleConfig(8, 2, 2, 16, 5, 3, 2),
    "vqgan": VQGANConfig(**LEVELS, attention_resolutions=(8,)),
    "llamagen": VQGANConfig(**LEVELS, attention_resolutions=(8,)),
    "google_vqgan": GoogleVQGANConfig(**LEVELS),
}
BY_NETWORK = {family.network: family for family in PUBLISHED_NETWORKS}


def network(name) -> nn.Module:
    with torch.device("meta"):
        return build((TRANSFORMERS | TOKENIZERS)[name], SIZES[name])


def names(name) -> dict[str, str]:
    """Published names by native name."""
    backwards = [(right, left) for left, right in BY_NETWORK[name].names(SIZES[name])]
    return {native: renamed(native, backwards) for native in network(name).state_dict()}


@pytest.mark.parametrize("name", SIZES)
def test_every_tensor_has_one_published_name_and_back(name):
    published_names = names(name)
    assert None not in published_names.values()
    assert len(set(published_names.values())) == len(published_names)
    pairs = BY_NETWORK[name].names(SIZES[name])
    assert {renamed(published, pairs) for published in published_names.values()} == published_names.keys()


@pytest.mark.parametrize("name", SIZES)
def test_a_family_is_told_by_its_names_even_if_some_are_missing(name):
    published_names = sorted(names(name).values())
    assert recognize(published_names).network == name
    assert recognize(published_names[len(published_names) // 2 :]).network == name
    assert recognize(["some.weight", "tok_emb.weight"]) is None


def test_names_of_the_reports_transformer_go_back():
    assert v1_published_name("blocks.7.mlp.3.bias") == "transformer.layers.7.1.fn.net.3.bias"
    assert v1_published_name("embedding.weight") == "tok_emb.weight"


def test_llamagens_decoder_counts_the_other_way():
    published_names = names("llamagen")
    assert published_names["decoder.up.0.block.1.conv2.weight"] == "decoder.conv_blocks.2.res.1.conv2.weight"
    assert published_names["decoder.up.2.upsample.conv.bias"] == "decoder.conv_blocks.0.upsample.conv.bias"
    assert (
        published_names["encoder.down.0.block.1.conv2.weight"] == "encoder.conv_blocks.0.res.1.conv2.weight"
    )
    assert published_names["decoder.mid.attn_1.q.weight"] == "decoder.mid.1.q.weight"


# --- strictness -------------------------------------------------------------------------------------


def published(name, **changes) -> PublishedWeights:
    """Zeros for all of a network in the layout of torch; a change to None leaves a tensor out."""
    shapes = {native: value.shape for native, value in network(name).state_dict().items()}
    tensors = {published: torch.zeros(shapes[native]) for native, published in names(name).items()}
    tensors |= changes
    kept = {key: value for key, value in tensors.items() if value is not None}
    return PublishedWeights("file.pth", BY_NETWORK[name], kept, "raw", None, None)


def convert(name, **changes) -> dict[str, torch.Tensor]:
    return to_native(published(name, **changes), SIZES[name], network(name))


def test_a_whole_network_is_taken():
    assert convert("maskgit").keys() == network("maskgit").state_dict().keys()


def test_missing_extra_and_misshapen_tensors_are_all_named():
    changes = {
        "first_layer.2.bias": None,
        "last_layer.0.weight": None,
        "first_layer.9.bias": torch.zeros(8),
        "tok_emb.weight": torch.zeros(3, 8),
    }
    with pytest.raises(WeightsError) as error:
        convert("maskgit", **changes)
    assert str(error.value) == (
        "file.pth is not the paper's transformer as published: 2 keys missing: first_layer.2.bias, "
        "last_layer.0.weight; 1 key unexpected: first_layer.9.bias; "
        "1 key of another shape: tok_emb.weight (3, 8) for (10, 8)"
    )


def test_long_lists_are_cut_and_odd_names_escaped():
    assert listed([str(i) for i in range(40)]).endswith("38, 39")
    assert listed([str(i) for i in range(43)]).endswith("38, 39 and 3 more")
    assert listed(["a\x1b[31m\n"]) == r"'a\x1b[31m\n'"


def test_numbers_are_finite_fractions():
    for wrong in (torch.full((8,), torch.nan), torch.full((8,), -torch.inf), torch.arange(8)):
        with pytest.raises(WeightsError, match=r"first_layer\.2\.bias$"):
            convert("maskgit", **{"first_layer.2.bias": wrong})


def test_what_is_no_part_of_a_network_is_left_out():
    losses = {"loss.discriminator.main.0.weight": torch.zeros(1), "loss.logvar": torch.full((1,), torch.nan)}
    assert convert("vqgan", **losses).keys() == network("vqgan").state_dict().keys()
    used = {"quantize.codebook_used": torch.zeros(65536)}
    assert convert("llamagen", **used).keys() == network("llamagen").state_dict().keys()
    with pytest.raises(WeightsError, match=r"unexpected: quantize\.codebook_used"):
        convert("vqgan", **used)
    with pytest.raises(WeightsError, match=r"unexpected: loss\.logvar"):
        convert("maskgit", **{"loss.logvar": torch.zeros(1)})


def test_haltons_tied_table_may_be_there_twice_if_it_is_the_same():
    assert "head.weight" not in convert("halton", **{"head.weight": torch.zeros(6, 8)})
    for other in (torch.ones(6, 8), torch.zeros(5, 8)):
        with pytest.raises(WeightsError, match=r"head\.weight and tok_emb\.weight differ"):
            convert("halton", **{"head.weight": other})


def test_flax_layouts_are_turned_and_come_out_contiguous():
    name = "TransformerLayer_0/Attention_0/self_attention"
    query = torch.arange(64.0).reshape(8, 2, 4)
    turned = {
        f"{name}/query/kernel": query,
        f"{name}/query/bias": torch.arange(8.0).reshape(2, 4),
        f"{name}/out/kernel": torch.arange(64.0).reshape(2, 4, 8),
        "TransformerLayer_0/Mlp_0/intermediate_output/kernel": torch.arange(128.0).reshape(8, 16),
    }
    whole = published("google", **turned)
    for key, value in whole.tensors.items():  # the others are as torch has them
        if key.endswith("/kernel") and key not in turned:
            whole.tensors[key] = value.T if "self_attention" not in key else torch.zeros(8, 2, 4)
        if key.endswith("out/kernel") and key not in turned:
            whole.tensors[key] = torch.zeros(2, 4, 8)
    native = to_native(whole, SIZES["google"], network("google"))
    assert torch.equal(native["blocks.0.query.weight"], query.reshape(8, 8).T)
    assert torch.equal(native["blocks.0.query.bias"], torch.arange(8.0))
    assert torch.equal(native["blocks.0.out.weight"], torch.arange(64.0).reshape(8, 8).T)
    assert torch.equal(native["blocks.0.mlp_in.weight"], torch.arange(128.0).reshape(8, 16).T)
    assert all(tensor.is_contiguous() for tensor in native.values())
