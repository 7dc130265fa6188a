"""Published weights to the networks of this package: which tensor is which."""

from __future__ import annotations

import re

from maskgit_cli.errors import ArtifactError

# The report's transformer, as published (its ``model_state_dict``): patterns of whole names, and ours.
_V1_TRANSFORMER = (
    (r"pos_emb", "positions"),
    (r"bias", "bias"),
    (r"tok_emb\.weight", "embedding.weight"),
    (r"first_layer\.([0246]\.(?:weight|bias))", r"input_mlp.\1"),
    (r"last_layer\.([024]\.(?:weight|bias))", r"output_mlp.\1"),
    (r"transformer\.layers\.(\d+)\.0\.norm\.(weight|bias)", r"blocks.\1.attention_norm.\2"),
    (r"transformer\.layers\.(\d+)\.0\.fn\.mha\.in_proj_(weight|bias)", r"blocks.\1.qkv.\2"),
    (r"transformer\.layers\.(\d+)\.0\.fn\.mha\.out_proj\.(weight|bias)", r"blocks.\1.out.\2"),
    (r"transformer\.layers\.(\d+)\.1\.norm\.(weight|bias)", r"blocks.\1.mlp_norm.\2"),
    (r"transformer\.layers\.(\d+)\.1\.fn\.net\.([03]\.(?:weight|bias))", r"blocks.\1.mlp.\2"),
)


def v1_transformer_name(published: str) -> str:
    """Our name of a tensor of the report's published transformer (arXiv 2310.14400).

    Shapes and values are the same on both sides; the number of attention heads cannot be read off
    them (16 in the published files).

    Raises:
        ArtifactError: the published network has no tensor of that name.
    """
    for pattern, name in _V1_TRANSFORMER:
        match = re.fullmatch(pattern, published)
        if match:
            return match.expand(name)
    raise ArtifactError(f"tensor {published!r} is not one of the report's transformer")
