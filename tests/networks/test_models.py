"""The networks against the published implementations, with small random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_models import VQGAN_SIZES, tiny_sizes, tiny_transformer

from maskgit_cli.config.networks import SIZES, TransformerConfig, VQGANConfig
from maskgit_cli.errors import ArtifactError
from maskgit_cli.formats.tensors import load_weights
from maskgit_cli.networks.discriminator import PatchDiscriminator
from maskgit_cli.networks.maskgit import MaskGIT
from maskgit_cli.networks.vqgan import VQGAN
from maskgit_cli.weights.names import v1_transformer_name

GOLDEN = Path(__file__).parent.parent / "data" / "maskgit_v1"
# Tolerance of float32 results.
TOLERANCE = {"atol": 1e-4, "rtol": 0}


def io(name):
    with np.load(GOLDEN / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def published_sizes(part):
    return json.loads((GOLDEN / "config.json").read_text())[part]


@pytest.fixture(scope="module")
def transformer():
    sizes = published_sizes("transformer")
    network = MaskGIT(
        TransformerConfig(
            width=sizes["hidden_dim"],
            depth=sizes["depth"],
            heads=sizes["heads"],
            mlp_width=sizes["mlp_dim"],
            codebook_size=sizes["codebook_size"],
            classes=sizes["nclass"],
            grid=sizes["grid"],
        )
    )
    file = GOLDEN / "transformer.safetensors"
    load_weights(network, {v1_transformer_name(k): v for k, v in load_file(file).items()}, file)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vqgan():
    sizes = published_sizes("vqgan")
    inner = sizes["ddconfig"]
    network = VQGAN(
        VQGANConfig(
            resolution=inner["resolution"],
            channels=inner["ch"],
            channel_multipliers=tuple(inner["ch_mult"]),
            residual_blocks=inner["num_res_blocks"],
            attention_resolutions=tuple(inner["attn_resolutions"]),
            z_channels=inner["z_channels"],
            embed_dim=sizes["embed_dim"],
            codebook_size=sizes["n_embed"],
        )
    )
    file = GOLDEN / "vqgan.safetensors"
    load_weights(network, load_file(file), file)
    return network.eval().requires_grad_(False)


# --- transformer ------------------------------------------------------------------------------------


def test_transformer_gives_the_published_logits(transformer):
    golden = io("transformer_io.npz")
    assert (golden["tokens"] == transformer.mask_token).any()
    assert golden["drop_label"].any()
    assert not golden["drop_label"].all()
    logits = transformer(golden["tokens"], golden["labels"], golden["drop_label"])
    torch.testing.assert_close(logits, golden["logits"], **TOLERANCE)


def test_no_label_is_the_null_class(transformer):
    golden = io("transformer_io.npz")
    none = torch.full_like(golden["labels"], -1)
    dropped = transformer(golden["tokens"], golden["labels"], torch.ones(4, dtype=torch.bool))
    assert torch.equal(transformer(golden["tokens"], none), dropped)
    assert torch.equal(transformer(golden["tokens"], none, torch.zeros(4, dtype=torch.bool)), dropped)
    labeled = transformer(golden["tokens"], golden["labels"])
    assert not torch.allclose(labeled, dropped, atol=1e-2)


def test_an_unknown_published_tensor_is_an_error():
    for name in ("tok_emb.bias", "transformer.layers.0.2.norm.weight", "x.pos_emb", "first_layer.1.weight"):
        with pytest.raises(ArtifactError, match="transformer"):
            v1_transformer_name(name)


def test_every_tensor_of_the_transformer_has_a_published_one():
    names = {v1_transformer_name(name) for name in load_file(GOLDEN / "transformer.safetensors")}
    sizes = TransformerConfig(48, 3, 4, 96, 48, 10, 8)
    with torch.device("meta"):
        assert names == MaskGIT(sizes).state_dict().keys()


@pytest.mark.parametrize(("training", "dropout"), [(False, 0.25), (True, 0.0), (True, 0.25)])
def test_attention_is_fused_unless_something_is_dropped(monkeypatch, training, dropout):
    network = tiny_transformer().train(training)
    for block in network.blocks:
        block.attention_dropout.p = dropout
    calls = []
    fused = F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        calls.append((tuple(q.shape), options))
        return fused(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    seeds = torch.tensor([3, 4])
    network(torch.zeros(2, 4, 4, dtype=torch.int64), torch.tensor([0, 1]), None, seeds)
    assert calls == ([] if training and dropout else [((2, 4, 17, 8), {})] * 2)


def test_parameter_counts_are_the_papers():
    with torch.device("meta"):
        sizes = TransformerConfig(**vars(SIZES["base"]), codebook_size=1024, classes=1000, grid=16)
        base = sum(p.numel() for p in MaskGIT(sizes).parameters())
        tokenizer = sum(p.numel() for p in VQGAN(VQGANConfig()).parameters())
    assert round(base / 1e6, 3) == 174.161
    assert round(tokenizer / 1e6, 3) == 72.142


def test_initial_weights_are_small_and_follow_the_seed():
    torch.manual_seed(1)
    network = MaskGIT(tiny_sizes())
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" not in name and value.dim() > 1:
            assert value.abs().max() <= 0.1, name
            assert 0.01 < value.std() < 0.03, name
    torch.manual_seed(2)
    assert not torch.equal(MaskGIT(tiny_sizes()).embedding.weight, network.embedding.weight)


# --- tokenizer --------------------------------------------------------------------------------------


def test_vqgan_gives_the_published_indices_and_pixels(vqgan):
    golden = io("vqgan_io.npz")
    assert torch.equal(vqgan.encode(golden["images"]), golden["indices"])
    torch.testing.assert_close(vqgan.reconstruct(golden["images"]), golden["reconstruction"], **TOLERANCE)
    torch.testing.assert_close(vqgan.decode(golden["random_indices"]), golden["decoded"], **TOLERANCE)


def test_vqgan_in_training_uses_the_same_indices(vqgan):
    golden = io("vqgan_io.npz")
    reconstruction, quantized = vqgan(golden["images"])
    assert torch.equal(quantized.indices, golden["indices"])
    torch.testing.assert_close(reconstruction, golden["reconstruction"], **TOLERANCE)


def test_quantization_passes_gradients_straight_through():
    torch.manual_seed(0)
    book = VQGAN(VQGAN_SIZES).quantize
    torch.nn.init.normal_(book.embedding.weight)
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    out = book(z)
    wanted = torch.cdist(z.detach().movedim(1, -1).flatten(0, 2), book.embedding.weight).argmin(1)
    assert torch.equal(out.indices.flatten(), wanted)
    torch.testing.assert_close(out.z, book.lookup(out.indices))
    slope = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((out.z * slope).sum(), z, retain_graph=True)
    assert torch.equal(gradient, slope)
    # The codebook loss moves the codebook alone, the commitment loss the encoder alone.
    codebook = torch.autograd.grad(out.codebook_loss, (z, book.embedding.weight), allow_unused=True)
    commitment = torch.autograd.grad(out.commitment_loss, (z, book.embedding.weight), allow_unused=True)
    assert codebook[0] is None
    assert codebook[1].any()
    assert commitment[0].any()
    assert commitment[1] is None


def test_half_precision_does_not_confuse_close_vectors():
    torch.manual_seed(0)
    book = VQGAN(VQGAN_SIZES).quantize
    near = torch.linspace(1, 1.01, 12)[:, None].expand(12, 4)  # bfloat16 distinguishes three of them
    book.embedding.weight.data.copy_(near)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        indices = book.nearest(near.T[None, :, :, None])
    assert indices.flatten().tolist() == list(range(12))


def test_vqgan_takes_any_multiple_of_its_factor():
    network = VQGAN(VQGAN_SIZES).eval()
    indices = network.encode(torch.zeros(1, 3, 24, 8))
    assert indices.shape == (1, 6, 2)
    assert network.decode(indices).shape == (1, 3, 24, 8)


# --- discriminator ----------------------------------------------------------------------------------


# Every strided layer halves the side; each of the two layers after them shortens it by one.
@pytest.mark.parametrize(("layers", "side"), [(1, 30), (2, 14), (3, 6)])
def test_discriminator_gives_one_logit_per_patch(layers, side):
    assert PatchDiscriminator(8, layers)(torch.randn(2, 3, 64, 64)).shape == (2, 1, side, side)


def test_discriminator_is_batch_invariant():
    torch.manual_seed(0)
    network = PatchDiscriminator(8, 2)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), atol=1e-6, rtol=0)
