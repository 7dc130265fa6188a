"""Image source: a token file, decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskgit_cli.data.sources.base import ImageSource, Opening, Origin, SourceKind
from maskgit_cli.formats.token_index import is_token_file
from maskgit_cli.formats.tokens import TokenFile, check_tokenizer, open_tokens, partial_path

if TYPE_CHECKING:
    from torch import Tensor


class TokenImages(ImageSource):
    """The decoded images of a token file; the first view of each, where there are several.

    Args:
        tokens: the file.
        opening: the tokenizer, and where it runs.
        origin: of the images; None is the file.

    Raises:
        InputError: the tokenizer cannot be found.
        ArtifactError: the tokens are of another tokenizer.
    """

    decoded = True

    def __init__(self, tokens: TokenFile, opening: Opening, origin: Origin | None = None) -> None:
        from maskgit_cli.formats.models import find_tokenizer
        from maskgit_cli.networks.loading import load_tokenizer

        nearby = [tokens.path.parent / "tokenizer"]
        wanted = tokens.meta.tokenizer_sha256
        self.tokenizer = load_tokenizer(find_tokenizer(wanted, opening.tokenizer, nearby), opening.device)
        check_tokenizer(tokens.meta, self.tokenizer.sha256)
        origin = origin or Origin(tokens.path, "tokens", tokens.sha256, wanted)
        super().__init__(origin, tokens.names, tokens.labels, tokens.meta.class_names)
        self.tokens = tokens

    def open(self, index: int, side: int | None = None) -> Tensor:
        """See :meth:`ImageSource.open`; always at the tokenizer's full resolution."""
        return self._decode([index])[0]

    def batches(self, indices: Sequence[int], size: int) -> Iterator[list[Tensor]]:
        """See :meth:`ImageSource.batches`; a batch is decoded as a whole."""
        for start in range(0, len(indices), size):
            yield self._decode(indices[start : start + size])

    def _decode(self, indices: Sequence[int]) -> list[Tensor]:
        import torch

        from maskgit_cli.networks.inference import decode_tokens

        device = next(self.tokenizer.network.parameters()).device
        tokens = self.tokens.codes[indices, 0].astype(np.int64)  # (B, h, w)
        return list(decode_tokens(self.tokenizer, torch.from_numpy(tokens), device))


def names_token_file(path: Path) -> bool:
    """Whether a path is a token file, finished or not, or is named like one."""
    return partial_path(path).exists() or (path.is_file() and path.suffix == ".h5") or is_token_file(path)


def open_token_images(path: Path, opening: Opening) -> TokenImages:
    """Open a finished token file.

    Raises:
        InputError: the tokenizer cannot be found.
        ArtifactError: the file is unfinished or damaged, or the tokenizer does not match.
    """
    return TokenImages(open_tokens(path), opening)


SOURCE = SourceKind("a token file", names_token_file, open_token_images)
