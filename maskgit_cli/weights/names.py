"""Published weights to the networks of this package: which tensor is which.

Each published network is recognized by one pattern of its tensors' names. The rest is a table of pairs,
published name and native name, in which ``{i}`` and ``{j}`` match any number, ``{p}`` weight or bias, ``{a}``
a projection of attention, and ``{t}`` any ending.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskgit_cli.errors import ArtifactError, WeightsError, counted

Names = Sequence[tuple[str, str]]

_HOLES = {"i": r"\d+", "j": r"\d+", "p": "weight|bias", "a": "query|key|value|out", "t": ".+"}
# Names that an error lists before it says how many more there are.
LISTED = 40

# The paper's transformer (arXiv 2310.14400), as published in its ``model_state_dict``.
_V1_TRANSFORMER = (
    ("pos_emb", "positions"),
    ("bias", "bias"),
    ("tok_emb.weight", "embedding.weight"),
    *((f"first_layer.{n}.{{p}}", f"input_mlp.{n}.{{p}}") for n in (0, 2, 4, 6)),
    *((f"last_layer.{n}.{{p}}", f"output_mlp.{n}.{{p}}") for n in (0, 2, 4)),
    ("transformer.layers.{i}.0.norm.{p}", "blocks.{i}.attention_norm.{p}"),
    ("transformer.layers.{i}.0.fn.mha.in_proj_{p}", "blocks.{i}.qkv.{p}"),
    ("transformer.layers.{i}.0.fn.mha.out_proj.{p}", "blocks.{i}.out.{p}"),
    ("transformer.layers.{i}.1.norm.{p}", "blocks.{i}.mlp_norm.{p}"),
    *((f"transformer.layers.{{i}}.1.fn.net.{n}.{{p}}", f"blocks.{{i}}.mlp.{n}.{{p}}") for n in (0, 3)),
)
_HALTON = (
    ("tok_emb.weight", "embedding.weight"),
    ("cls_emb.weight", "classes.weight"),
    ("pos_emb.weight", "positions.weight"),
    ("reg_tokens.weight", "registers.weight"),
    ("head.bias", "bias"),
    ("last_norm.norm_final.{p}", "last_norm.{p}"),
    ("last_norm.mlp.1.{p}", "last_norm.modulation.{p}"),
    ("transformer.layers.{i}.mlp.1.{p}", "blocks.{i}.modulation.{p}"),
    ("transformer.layers.{i}.ln1.weight", "blocks.{i}.attention_norm"),
    ("transformer.layers.{i}.ln2.weight", "blocks.{i}.mlp_norm"),
    ("transformer.layers.{i}.attn.{t}", "blocks.{i}.attention.{t}"),
    ("transformer.layers.{i}.ff.{t}", "blocks.{i}.mlp.{t}"),
)
_GOOGLE = (
    ("Embed_0/word_embeddings/embedding", "embedding.weight"),
    ("Embed_0/position_embeddings/embedding", "positions.weight"),
    ("Embed_0/embeddings_ln/scale", "embedding_norm.weight"),
    ("Embed_0/embeddings_ln/bias", "embedding_norm.bias"),
    ("MlmLayer_0/mlm_dense/kernel", "output.weight"),
    ("MlmLayer_0/mlm_dense/bias", "output.bias"),
    ("MlmLayer_0/mlm_ln/scale", "output_norm.weight"),
    ("MlmLayer_0/mlm_ln/bias", "output_norm.bias"),
    ("MlmLayer_0/mlm_bias/bias", "bias"),
    ("TransformerLayer_{i}/Attention_0/self_attention/{a}/kernel", "blocks.{i}.{a}.weight"),
    ("TransformerLayer_{i}/Attention_0/self_attention/{a}/bias", "blocks.{i}.{a}.bias"),
    ("TransformerLayer_{i}/Attention_0/attention_output_ln/scale", "blocks.{i}.attention_norm.weight"),
    ("TransformerLayer_{i}/Attention_0/attention_output_ln/bias", "blocks.{i}.attention_norm.bias"),
    ("TransformerLayer_{i}/Mlp_0/intermediate_output/kernel", "blocks.{i}.mlp_in.weight"),
    ("TransformerLayer_{i}/Mlp_0/intermediate_output/bias", "blocks.{i}.mlp_in.bias"),
    ("TransformerLayer_{i}/Mlp_0/layer_output/kernel", "blocks.{i}.mlp_out.weight"),
    ("TransformerLayer_{i}/Mlp_0/layer_output/bias", "blocks.{i}.mlp_out.bias"),
    ("TransformerLayer_{i}/Mlp_0/layer_output_ln/scale", "blocks.{i}.mlp_norm.weight"),
    ("TransformerLayer_{i}/Mlp_0/layer_output_ln/bias", "blocks.{i}.mlp_norm.bias"),
)
_GOOGLE_VQGAN = (
    ("quantizer/codebook", "quantize.embedding.weight"),
    *(
        pair
        for side in ("encoder", "decoder")
        for pair in (
            (f"{side}/GroupNorm_0/scale", f"{side}.norm_out.weight"),
            (f"{side}/GroupNorm_0/bias", f"{side}.norm_out.bias"),
            (f"{side}/ResBlock_{{i}}/GroupNorm_0/scale", f"{side}.blocks.{{i}}.norm1.weight"),
            (f"{side}/ResBlock_{{i}}/GroupNorm_0/bias", f"{side}.blocks.{{i}}.norm1.bias"),
            (f"{side}/ResBlock_{{i}}/GroupNorm_1/scale", f"{side}.blocks.{{i}}.norm2.weight"),
            (f"{side}/ResBlock_{{i}}/GroupNorm_1/bias", f"{side}.blocks.{{i}}.norm2.bias"),
            (f"{side}/ResBlock_{{i}}/Conv_0/kernel", f"{side}.blocks.{{i}}.conv1.weight"),
            (f"{side}/ResBlock_{{i}}/Conv_1/kernel", f"{side}.blocks.{{i}}.conv2.weight"),
            (f"{side}/ResBlock_{{i}}/Conv_2/kernel", f"{side}.blocks.{{i}}.shortcut.weight"),
        )
    ),
    ("encoder/Conv_0/kernel", "encoder.conv_in.weight"),
    ("encoder/Conv_1/kernel", "encoder.conv_out.weight"),
    ("encoder/Conv_1/bias", "encoder.conv_out.bias"),
    ("decoder/Conv_{i}/kernel", "decoder.convs.{i}.weight"),
    ("decoder/Conv_{i}/bias", "decoder.convs.{i}.bias"),
)


def _llamagen_names(levels: int) -> Names:
    """LlamaGen counts the decoder's levels in the order they are run, a VQGAN from the largest images."""
    reversed_levels = [
        pair
        for i in range(levels)
        for pair in (
            (f"decoder.conv_blocks.{levels - 1 - i}.res.{{t}}", f"decoder.up.{i}.block.{{t}}"),
            (f"decoder.conv_blocks.{levels - 1 - i}.{{t}}", f"decoder.up.{i}.{{t}}"),
        )
    ]
    middle = [
        pair
        for side in ("encoder", "decoder")
        for n, ours in enumerate(("block_1", "attn_1", "block_2"))
        for pair in ((f"{side}.mid.{n}.{{t}}", f"{side}.mid.{ours}.{{t}}"),)
    ]
    encoder = [
        ("encoder.conv_blocks.{i}.res.{t}", "encoder.down.{i}.block.{t}"),
        ("encoder.conv_blocks.{i}.{t}", "encoder.down.{i}.{t}"),
    ]
    return (*reversed_levels, *middle, *encoder, ("{t}", "{t}"))


class PublishedNetwork(NamedTuple):
    """A network as its authors published it.

    Attributes:
        network: the registry's name of the native network.
        title: its name in messages.
        mark: pattern of how some of its tensors' names begin, and no other network's.
        names: pairs of names for a network of these sizes: published, native.
        kind: ``transformer`` or ``tokenizer``.
        positions: of a transformer, the tensor whose second-to-last dimension counts the tokens.
        ignored: pattern of tensors that are not part of the network.
        tied: of tensors that are stored twice, the copy and the one it must equal.
    """

    network: str
    title: str
    mark: str
    names: Callable[[Any], Names]
    kind: str
    positions: str = ""
    ignored: str = ""
    tied: tuple[str, str] = ("", "")


PUBLISHED_NETWORKS = (
    PublishedNetwork(
        "maskgit",
        "the paper's transformer",
        r"first_layer\.|transformer\.layers\.\d+\.[01]\.",
        lambda sizes: _V1_TRANSFORMER,
        "transformer",
        positions="pos_emb",
    ),
    PublishedNetwork(
        "halton",
        "Halton-MaskGIT's transformer",
        r"transformer\.layers\.\d+\.(attn|ff|ln1)\.",
        lambda sizes: _HALTON,
        "transformer",
        positions="pos_emb.weight",
        tied=("head.weight", "tok_emb.weight"),
    ),
    PublishedNetwork(
        "google",
        "Google's transformer",
        r"TransformerLayer_\d+/",
        lambda sizes: _GOOGLE,
        "transformer",
        positions="Embed_0/position_embeddings/embedding",
    ),
    PublishedNetwork(
        "vqgan",
        "a VQGAN",
        r"(encoder\.down|decoder\.up)\.",
        lambda sizes: (("{t}", "{t}"),),
        "tokenizer",
        ignored=r"loss\..*",
    ),
    PublishedNetwork(
        "llamagen",
        "LlamaGen's tokenizer",
        r"(encoder|decoder)\.conv_blocks\.",
        lambda sizes: _llamagen_names(len(sizes.channel_multipliers)),
        "tokenizer",
        ignored=r"loss\..*|quantize\.codebook_used",  # the latter counts which codes training used
    ),
    PublishedNetwork(
        "google_vqgan",
        "Google's tokenizer",
        r"(encoder|decoder)/ResBlock_\d+/",
        lambda sizes: _GOOGLE_VQGAN,
        "tokenizer",
    ),
)  # fmt: skip


class PublishedWeights(NamedTuple):
    """The weights of one published network.

    Attributes:
        path: the file they were in.
        spec: the network they are of.
        tensors: by their published names.
        weights: ``ema`` if the file says that they are averaged, else ``raw``.
        step: optimizer steps, where the file has them.
        epoch: epochs, where the file has them.
    """

    path: Path
    spec: PublishedNetwork
    tensors: Mapping[str, Tensor]
    weights: str
    step: int | None
    epoch: int | None


# --- names ------------------------------------------------------------------------------------------


def _pattern(template: str) -> str:
    """A regular expression for the names that a template of the tables matches."""
    parts = re.split(r"\{(\w)\}", template)  # text, hole, text, hole, ..., text
    return "".join(f"(?P<{x}>{_HOLES[x]})" if i % 2 else re.escape(x) for i, x in enumerate(parts))


def renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str | None:
    """The name on the right of the first pair whose left side is this name, or None."""
    for left, right in pairs:
        match = re.fullmatch(_pattern(left), name)
        if match:
            return right.format(**match.groupdict())
    return None


def v1_transformer_name(published: str) -> str:
    """The native name of a tensor of the paper's published transformer (arXiv 2310.14400).

    Shapes and values are the same on both sides. The number of attention heads cannot be inferred from them
    (16 in the published files).

    Raises:
        ArtifactError: the published network has no tensor of that name.
    """
    native = renamed(published, _V1_TRANSFORMER)
    if native is None:
        raise ArtifactError(f"tensor {published!r} is not one of the paper's transformer")
    return native


def v1_published_name(native: str) -> str:
    """The paper's published name of a tensor of :class:`~maskgit_cli.networks.maskgit.MaskGIT`."""
    published = renamed(native, ((right, left) for left, right in _V1_TRANSFORMER))
    assert published is not None, native
    return published


def recognize(names: Iterable[str]) -> PublishedNetwork | None:
    """The published network whose tensors have these names, or None."""
    some = list(names)
    return next((n for n in PUBLISHED_NETWORKS if any(re.match(n.mark, name) for name in some)), None)


# --- tensors ----------------------------------------------------------------------------------------


def _to_torch(name: str, tensor: Tensor) -> Tensor:
    """A tensor in torch's layout; flax, whose names have slashes, keeps the outputs of a layer last."""
    attention = re.search(r"self_attention/(query|key|value|out)/(kernel|bias)$", name)
    if attention and attention[1] != "out":
        # (D, heads, d) -> (D, heads·d), the bias (heads, d) -> (heads·d)
        tensor = tensor.flatten(-2) if tensor.dim() > 1 else tensor
    elif attention and attention[2] == "kernel" and tensor.dim() == 3:
        tensor = tensor.flatten(0, 1)  # (heads, d, D) -> (heads·d, D)
    if not name.endswith("/kernel"):
        return tensor
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1)  # (3, 3, in, out) -> (out, in, 3, 3)
    return tensor.T if tensor.dim() == 2 else tensor


class NativeTensors(Mapping[str, Tensor]):
    """Published tensors under native names and in torch's layout, each converted when it is asked for.

    Args:
        weights: the tensors.
        names: published names by native name.
    """

    def __init__(self, weights: PublishedWeights, names: Mapping[str, str]) -> None:
        self.weights = weights
        self.names = names

    def __getitem__(self, name: str) -> Tensor:
        published = self.names[name]
        return _to_torch(published, self.weights.tensors[published]).contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def to_native(weights: PublishedWeights, sizes: Any, network: nn.Module) -> NativeTensors:
    """Published tensors under native names, in torch's layout, checked strictly against the network.

    Args:
        weights: the tensors.
        sizes: of the network.
        network: may be on the meta device; only names and shapes are read.

    Returns:
        Exactly the network's tensors.

    Raises:
        WeightsError: there are missing or unexpected keys, other shapes or types, or values that are not
            finite; all are named.
    """
    spec, tensors = weights.spec, weights.tensors
    backwards = [(right, left) for left, right in spec.names(sizes)]
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    names = {name: renamed(name, backwards) or "" for name in wanted}
    published = set(names.values())
    assert "" not in published, "a native tensor has no published name"
    unneeded = re.compile("|".join(filter(None, (spec.ignored, re.escape(spec.tied[0])))))
    # A tensor on the meta device has the shape of its torch layout without any memory.
    present = sorted(published & tensors.keys())
    shapes = {t: _to_torch(t, torch.empty(tensors[t].shape, device="meta")).shape for t in present}
    faults = {
        "missing": sorted(published - tensors.keys()),
        "unexpected": sorted(n for n in tensors.keys() - published if not unneeded.fullmatch(n)),
        "of another shape": [
            f"{t} {tuple(tensors[t].shape)} for {tuple(wanted[name])}"
            for name, t in names.items()
            if t in shapes and shapes[t] != wanted[name]
        ],
    }
    texts = [f"{counted(len(keys), 'key')} {what}: {listed(keys)}" for what, keys in faults.items() if keys]
    if texts:
        raise WeightsError(f"{weights.path} is not {spec.title} as published: {'; '.join(texts)}")
    _check_values(weights, sorted(published))
    return NativeTensors(weights, names)


def listed(names: Sequence[str]) -> str:
    """Names with commas, the first few of them where there are many; odd characters are escaped."""
    shown = [name if name.isprintable() else repr(name) for name in names[:LISTED]]
    return ", ".join(shown) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _check_values(weights: PublishedWeights, names: Sequence[str]) -> None:
    """Every number of these tensors is a finite float, and tied tensors are equal."""
    tensors = weights.tensors
    odd = [n for n in names if not (tensors[n].is_floating_point() and torch.isfinite(tensors[n]).all())]
    if odd:
        raise WeightsError(f"{weights.path}: these tensors hold NaN, infinity or no floats: {listed(odd)}")
    copy, original = weights.spec.tied
    if copy in tensors and not torch.equal(tensors[copy], tensors[original]):
        raise WeightsError(f"{weights.path}: {copy} and {original} differ, but the network ties them")
