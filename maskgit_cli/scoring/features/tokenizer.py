"""Features of a tokenizer's encoder, for comparisons without Inception's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from maskgit_cli.formats.models import builtin_tokenizer, find_tokenizer
from maskgit_cli.networks.inference import apply_to_rows
from maskgit_cli.networks.loading import Tokenizer, load_tokenizer
from maskgit_cli.networks.pixels import to_model
from maskgit_cli.scoring.features import GPU_ROWS, Features, Resources


def load(resources: Resources) -> TokenizerExtractor:
    """Load the tokenizer that is named, the one with the digest, or the built-in one.

    Raises:
        InputError: the tokenizer does not exist.
        ArtifactError: it is damaged, or no tokenizer has the digest.
    """
    path = resources.tokenizer
    if path is None and resources.tokenizer_sha256 is not None:
        path = find_tokenizer(resources.tokenizer_sha256)
    if path is None:
        path = builtin_tokenizer()
        resources.reporter.info("features of the built-in tokenizer; use --tokenizer for another")
    return TokenizerExtractor(load_tokenizer(path, resources.device))


class TokenizerExtractor:
    """Means and standard deviations of a tokenizer's latents.

    A square of the tokenizer's resolution becomes latents (E, h, w), the encoder's output before
    quantization; the features are the E means over positions, then the E standard deviations over
    positions (divisor h·w), so D = 2E. Their distances order models that share the tokenizer; they do not
    see what the tokenizer's encoder does not represent, and are not FID.

    Args:
        tokenizer: on the device it is to run on.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.sha256 = tokenizer.sha256
        self.dimension = 2 * tokenizer.config.embed_dim
        self.side: int | None = tokenizer.config.resolution
        self.network = tokenizer.network
        self.device = next(tokenizer.network.parameters()).device

    def __call__(self, images: Tensor) -> Features:
        """Features of uint8 squares (B, 3, side, side), without logits."""
        assert images.dtype == torch.uint8, images.dtype
        assert images.shape[2:] == (self.side, self.side), images.shape
        return Features(apply_to_rows(self._statistics, (images,), self.device, GPU_ROWS).numpy(), None)

    def _statistics(self, images: Tensor) -> Tensor:
        z = self.network.latents(to_model(images)).flatten(2)  # (B, E, h·w)
        return torch.cat([z.mean(dim=2), z.std(dim=2, correction=0)], dim=1)  # (B, 2E)
