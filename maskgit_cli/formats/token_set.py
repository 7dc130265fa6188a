"""Several token files as one, for training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.tokens import TokenFile, TokenMeta

# What the files of a set have in common; views, sources and settings may differ.
SHARED = ("tokenizer_sha256", "codebook_size", "resolution", "grid")


class TokenSet:
    """The rows of several token files, one file after the other; made by :func:`join_tokens`.

    Attributes:
        files: the files.
        path: of the first file.
        name: of the set: the first file's, and how many others there are (``tokens+2``).
        meta: what the files have in common, and the parents of all of them.
        labels: class numbers int32 (N,), -1 for none.
    """

    def __init__(self, files: Sequence[TokenFile], meta: TokenMeta) -> None:
        self.files = tuple(files)
        self.path: Path = self.files[0].path
        self.name = f"{self.path.stem}+{len(files) - 1}"
        self.meta = meta
        self.labels = np.concatenate([file.labels for file in files])

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def _stops(self) -> np.ndarray:
        """One past the last row of each file, int64 (F,)."""
        return np.cumsum([len(file) for file in self.files])

    def view_counts(self, rows: np.ndarray) -> np.ndarray:
        """Number of views of each row (B,): int64 (B,)."""
        counts = np.array([file.codes.shape[1] for file in self.files])
        return counts[np.searchsorted(self._stops, rows, side="right")]

    def take(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Tokens uint16 (B, h, w) of one view (B,) of each row (B,)."""
        codes = np.empty((len(rows), *self.meta.row_shape[1:]), np.uint16)
        owners = np.searchsorted(self._stops, rows, side="right")
        for owner in np.unique(owners):
            here, file = owners == owner, self.files[owner]
            codes[here] = file.take(rows[here] - (self._stops[owner] - len(file)), views[here])
        return codes


# What a training reads: rows with views, labels and metadata.
Tokens = TokenFile | TokenSet


def join_tokens(files: Sequence[TokenFile]) -> Tokens:
    """Several token files as one; a single one is returned as it is.

    All have the same tokenizer, codebook, resolution and grid. They have the same classes, too: class names
    that are equal, or none at all, where the numbers are the classes. A file none of whose images has a
    label joins any others.

    Raises:
        ConfigError: a file differs from the first one, or is given twice.
    """
    first, *others = files
    if not others:
        return first
    for number, file in enumerate(others, 1):
        same = next((earlier for earlier in files[:number] if earlier.path.samefile(file.path)), None)
        if same is not None:
            raise ConfigError(f"{file.path}: is given twice; leave one of them out")
        for name in SHARED:
            _check_same(name, first, file, getattr(first.meta, name), getattr(file.meta, name))
    labeled = [file for file in files if file.labels.max(initial=-1) >= 0]
    for file in labeled[1:]:
        _check_same("class_names", labeled[0], file, labeled[0].meta.class_names, file.meta.class_names)
    # Without any label, the names of a file are those of no image, but those of the network's classes.
    names = next((file.meta.class_names for file in labeled or files if file.meta.class_names), [])
    parents = {tuple(sorted(parent.items())): parent for file in files for parent in file.meta.parents}
    return TokenSet(files, replace(first.meta, class_names=names, parents=[*parents.values()]))


def _check_same(name: str, first: TokenFile, file: TokenFile, wanted: object, found: object) -> None:
    """Check that a value of a file is that of the first one.

    Raises:
        ConfigError: it is another one.
    """
    if found != wanted:
        shown = [_shown(value) for value in (found, wanted)]
        raise ConfigError(
            f"{file.path}: its {name} {shown[0]} is not that of {first.path}, {shown[1]}; train on files of "
            "one tokenizer, resolution and set of classes"
        )


def _shown(value: object) -> str:
    """A value of the metadata, short."""
    if isinstance(value, list):
        return f"({len(value)} names)" if value else "(none)"
    return str(value)[:12]
