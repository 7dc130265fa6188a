"""Stage ``merge``: the parts that ``tokenize --range`` wrote, as the one file of a run without it."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskgit_cli.errors import ArtifactError, InputError, OutputError
from maskgit_cli.formats.atomic import CREATED_BY
from maskgit_cli.formats.claim import Outcome, check_output, claim
from maskgit_cli.formats.records import record_difference
from maskgit_cli.formats.token_index import is_token_file
from maskgit_cli.formats.token_writer import TOKENS, TokenWriter, tokens_record
from maskgit_cli.formats.tokens import TokenFile, TokenMeta, chunks, open_tokens, read_header, split_range
from maskgit_cli.runtime.progress import SILENT, Reporter


class Merged(NamedTuple):
    """Result of :func:`merge`.

    Attributes:
        path: the token file.
        images: number of images it holds.
        skipped: (name, reason) of each image that could not be read when the parts were made.
        resumed: whether an earlier call had merged some or all of the images.
    """

    path: Path
    images: int
    skipped: list[tuple[str, str]]
    resumed: bool


class _Part(NamedTuple):
    """A part.

    Attributes:
        tokens: the file.
        meta: metadata of the whole.
        first: number in the listing of its first image.
        stop: one past that of its last image.
        listed: number of images in the listing.
    """

    tokens: TokenFile
    meta: TokenMeta
    first: int
    stop: int
    listed: int


def merge(
    parts: Sequence[Path], out: Path, *, overwrite: bool = False, reporter: Reporter = SILENT
) -> Merged:
    """Merge parts into a token file, resuming an interrupted call.

    The file is the same, byte for byte, as that of one ``tokenize`` without a range. Tokens are copied a
    piece at a time.

    Args:
        parts: token files of ``tokenize`` with a range, in any order.
        out: the token file.
        overwrite: replace a finished file, and an unfinished one of other settings.
        reporter: receives progress updates.

    Raises:
        InputError: the parts are not of one listing and one tokenization, or are not the whole of it.
        ArtifactError: a part is missing, unfinished or damaged.
        OutputError: the file exists, has other settings, or cannot be written.
    """
    _check_output(out)
    opened = sorted((_open(path) for path in parts), key=lambda part: (part.first, part.stop))
    if not opened:
        raise InputError("there are no parts to merge; `maskgit tokenize --range` makes them")
    for part in opened[1:]:
        _check_same(opened[0], part)
    _check_whole(opened)
    meta = opened[0].meta
    # The path is recorded relative to the file, which may be in another folder than its parts.
    images = opened[0].tokens.path.resolve().parent / meta.source
    meta = replace(meta, created_by=CREATED_BY, source=os.path.relpath(images, out.resolve().parent))
    with claim(out, TOKENS, tokens_record(meta), overwrite=overwrite, warn=reporter.warn) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
            finished = open_tokens(claimed.output)
            return Merged(out, len(finished), finished.skipped, True)
        skipped = [entry for part in opened for entry in part.tokens.skipped]
        resumed = _fill(claimed.output, meta, opened, skipped, reporter)
    return Merged(out, sum(len(part.tokens) for part in opened), skipped, resumed)


def _check_output(out: Path) -> None:
    """Refuse a part as the output: mostly the output's name was left out behind the parts."""
    path = check_output(out, TOKENS)
    if path.exists() and is_token_file(path):
        try:
            meta = read_header(path)[0]
        except ArtifactError:  # of a damaged file, which --overwrite may replace
            return
        if split_range(meta) is not None:
            raise OutputError(f"{out} is a part itself; name the file to write last, after the parts")


def _open(path: Path) -> _Part:
    """A part whose rows and skipped images are as many as its range has."""
    tokens = open_tokens(path)
    found = split_range(tokens.meta)
    if found is None:
        raise InputError(f"{path} is not a part; `maskgit tokenize --range` makes parts")
    meta, (first, stop), listed = found
    rows = len(tokens) + len(tokens.skipped)
    if rows != stop - first:
        raise ArtifactError(
            f"{path} is damaged: it has {rows:,} images, not those of {first}:{stop}; write it again"
        )
    return _Part(tokens, meta, first, stop, listed)


def _check_same(first: _Part, other: _Part) -> None:
    """Check that two parts are of one listing, tokenizer and settings."""
    difference = record_difference(tokens_record(other.meta), tokens_record(first.meta))
    if difference is None and other.listed != first.listed:
        difference = f"{other.listed:,} images, not {first.listed:,}"
    if difference:
        raise InputError(
            f"{other.tokens.path} and {first.tokens.path} are not parts of one file: "
            f"the former has {difference}"
        )


def _check_whole(parts: list[_Part]) -> None:
    """Check that sorted parts have every image of the listing, and none twice."""
    missing, stop, last = [], 0, None
    for part in parts:
        if part.first < stop:
            assert last is not None
            raise InputError(
                f"{last.tokens.path} and {part.tokens.path} overlap: both have the images "
                f"{part.first}:{min(stop, part.stop)}; leave one out, or make it again with another --range"
            )
        if part.first > stop:
            missing.append(f"{stop}:{part.first}")
        stop, last = part.stop, part
    listed = parts[0].listed
    if stop < listed:
        missing.append(f"{stop}:{listed}")
    if missing:
        more = f" and {len(missing) - 4} more ranges" if len(missing) > 4 else ""
        raise InputError(
            f"no part has the images {', '.join(missing[:4])}{more} of {listed:,}; make them with "
            f"`maskgit tokenize ... --range {missing[0]}`"
        )


def _fill(
    out: Path, meta: TokenMeta, parts: list[_Part], skipped: list[tuple[str, str]], reporter: Reporter
) -> bool:
    """Write the file; whether an earlier call had written some rows."""
    names = [name for part in parts for name in part.tokens.names]
    labels = np.concatenate([part.tokens.labels for part in parts])
    writer = TokenWriter.create_or_resume(out, meta, names, labels)
    # A part may have been made again after an earlier call, on a machine that rounds otherwise.
    checksums = np.concatenate([part.tokens.row_crc32 for part in parts])
    todo = np.flatnonzero(~writer.done | (writer.row_crc32() != checksums))
    row_bytes = 2 * int(np.prod(meta.row_shape))
    first = 0
    with reporter.task("merge", len(names), len(names) - len(todo)) as task:
        for part in parts:
            stop = first + len(part.tokens)
            low, high = np.searchsorted(todo, [first, stop])
            # A copy maps the file itself, and only until it is dropped: there may be thousands of parts.
            tokens = copy.copy(part.tokens)
            for rows in chunks(todo[low:high], row_bytes):
                writer.write(rows, tokens.codes[rows - first])
                task.advance(len(rows))
            first = stop
    writer.finish(skipped)
    return len(todo) < len(names)
