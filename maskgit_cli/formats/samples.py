"""Sample directories (``maskgit-samples``, version 1): drawn codes, their pictures, and how they were drawn.

``settings.json`` is written first, with ``complete`` false, and last, with ``complete`` true. Between
the two, a picture is written before its codes are marked as done, so that whatever a killed process
leaves behind, the same command goes on from there and ends in the same bytes.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from maskgit_cli.config.base import option
from maskgit_cli.errors import ArtifactError, OutputError
from maskgit_cli.formats.atomic import (
    CREATED_BY,
    check_format,
    disk_errors,
    read_json,
    replacing_file,
    sha256_bytes,
    write_bytes,
    write_json,
)
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.formats.tokens import TokenFile, TokenMeta, Trace, open_tokens, partial_path, read_header

SAMPLES_FORMAT, SAMPLES_VERSION = "maskgit-samples", 1
SETTINGS_FILE, TOKENS_FILE, GRID_FILE, NPZ_FILE = "settings.json", "tokens.h5", "grid.png", "samples.npz"
IMAGES, TRACES = "images", "traces"
# Settings that follow from others, which are the ones to name where two records differ.
DERIVED = ("labels_sha256", "edits", "windows", "points")
# What `fid` leaves in the directory; scores of samples that are replaced must go with them.
SCORES_FILE = "scores.json"
WHAT = "a sample directory"


class Samples(NamedTuple):
    """A finished sample directory.

    Attributes:
        path: the directory.
        record: what its ``settings.json`` holds.
        tokens: its token file.
    """

    path: Path
    record: dict[str, Any]
    tokens: TokenFile


def samples_record(
    stage: str, settings: Mapping[str, Any], parents: Sequence[Mapping[str, str]], images: int
) -> dict[str, Any]:
    """What ``settings.json`` holds before the samples are complete.

    Args:
        stage: ``sample`` or ``inpaint``.
        settings: all of them, resolved, as JSON values.
        parents: the model, its tokenizer, and what else went in.
        images: number of pictures.
    """
    return {
        "format": SAMPLES_FORMAT,
        "version": SAMPLES_VERSION,
        "created_by": CREATED_BY,
        "stage": stage,
        "complete": False,
        "images": images,
        "settings": dict(settings),
        "parents": [dict(parent) for parent in parents],
    }


def samples_digest(record: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that stand for the settings and parents of a record."""
    return sha256_bytes(json.dumps(_identity(record), sort_keys=True).encode())[:8]


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs must have in common to be one: every setting, by its name, and the parents' digests."""
    values: dict[str, Any] = {"stage": record.get("stage")}
    for key, value in record["settings"].items():
        values |= value if isinstance(value, dict) else {key: value}
    return values | {parent["kind"]: parent["sha256"][:12] for parent in record["parents"]}


def read_record(path: Path) -> dict[str, Any]:
    """The checked ``settings.json`` of a sample directory, finished or not.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or version.
    """
    record = read_json(path / SETTINGS_FILE, WHAT)
    check_format(record, path, SAMPLES_FORMAT, SAMPLES_VERSION)
    for key, kind in (("settings", dict), ("parents", list)):
        if not isinstance(record.get(key), kind):
            raise ArtifactError(f"{path / SETTINGS_FILE} is damaged: it has no {key}")
    return record


def open_samples(path: Path) -> Samples:
    """Open a finished sample directory.

    Raises:
        ArtifactError: it is none, is unfinished, damaged, or of another version.
    """
    record = read_record(path)
    if record.get("complete") is not True:
        raise ArtifactError(f"{path} is not finished; run the command that makes it again to finish it")
    return Samples(path, record, open_tokens(path / TOKENS_FILE))


def settle_samples(path: Path, record: Mapping[str, Any], overwrite: bool) -> bool:
    """Make ``path`` the sample directory that ``record`` describes, or find that it is that already.

    Args:
        path: the directory.
        record: from :func:`samples_record`.
        overwrite: remove other samples that are there, and those of the same settings if they are finished
            or their token file is damaged.

    Returns:
        True if the samples are there, complete.

    Raises:
        OutputError: the place holds something else, or samples of other settings.
        ArtifactError: its ``settings.json`` is damaged.
    """
    if not (path / SETTINGS_FILE).exists():
        if path.exists() and not (path.is_dir() and _only_leftovers(path)):
            raise OutputError(f"{path} exists and is not {WHAT}; choose another place with --out")
        write_json(path / SETTINGS_FILE, record)
        return False
    old = read_record(path)
    difference = record_difference(old, record)
    complete = old.get("complete") is True
    if overwrite and (difference or complete or _tokens_are_damaged(path)):
        _clear(path, old)
        write_json(path / SETTINGS_FILE, record)
        return False
    if difference:
        raise OutputError(
            f"{path} {'holds samples made' if complete else 'was begun'} with {difference}; "
            "use the same, another --out, or --overwrite to begin anew"
        )
    if complete and not (path / TOKENS_FILE).exists():
        raise ArtifactError(f"{path} has lost its {TOKENS_FILE}; pass --overwrite to draw the samples again")
    return complete


def _tokens_are_damaged(path: Path) -> bool:
    """Whether the token file of samples, finished or not, is there and cannot be gone on with."""
    tokens = path / TOKENS_FILE
    try:
        for file in (tokens, partial_path(tokens)):
            if file.exists():
                read_header(file)
    except ArtifactError:
        return True
    return False


def _only_leftovers(path: Path) -> bool:
    """Whether a folder holds nothing but temporary files of ours."""
    return all(child.name.startswith(f".{SETTINGS_FILE}.") for child in path.iterdir())


def record_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first setting or parent in which two records differ, in words, or None."""
    before, after = _identity(old), json.loads(json.dumps(_identity(new)))
    parents = {parent["kind"] for record in (old, new) for parent in record["parents"]}
    for key in sorted(after | before, key=lambda key: key in DERIVED):
        if before.get(key) == after.get(key):
            continue
        if key == "labels_sha256":
            return f"other classes in the file of --labels {_shown(after.get('labels'))}"
        name = key if key in parents else option("sampler" if key == "method" else key)
        return f"{name} {_shown(before.get(key))}, not {_shown(after.get(key))}"
    return None


def differing_settings(paths: Sequence[Path | None]) -> dict[str, list[Any]]:
    """Settings and parents in which sample directories differ, by name: a value for each directory.

    Args:
        paths: the directories; None stands for pictures of which no settings are known.

    Raises:
        ArtifactError: a directory's ``settings.json`` is missing or damaged.
    """
    found = [_identity(read_record(path)) if path else None for path in paths]
    known = [values for values in found if values is not None]
    names = dict.fromkeys(name for values in known for name in values)
    return {
        name: [values.get(name) if values else None for values in found]
        for name in names
        if any(values.get(name) != known[0].get(name) for values in known)
    }


def _shown(value: object) -> str:
    if isinstance(value, list):  # as they are typed: --range 0:64, --box 8,8,16,16
        value = (":" if len(value) == 2 else ",").join(map(str, value))
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _clear(path: Path, old: Mapping[str, Any]) -> None:
    """Remove the samples in a directory, and nothing that isn't ours.

    The record goes last and says meanwhile that it isn't complete.
    """
    write_json(path / SETTINGS_FILE, {**old, "complete": False})
    tokens = path / TOKENS_FILE
    with disk_errors(path):
        for file in (tokens, partial_path(tokens), path / GRID_FILE, path / NPZ_FILE, path / SCORES_FILE):
            file.unlink(missing_ok=True)
        for image in (*(path / IMAGES).glob("[0-9]*.png"), *(path / TRACES).glob("[0-9]*.*")):
            image.unlink()
        _remove_leftovers(path)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed processes left in a sample directory."""
    for folder in (path, path / IMAGES, path / TRACES):
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


class SampleWriter:
    """Fills a sample directory row by row, in any order, from one process or several.

    :func:`settle_samples` comes first. Where several processes fill a directory, one makes its writer
    before the others do.

    Args:
        path: the directory.
        meta: what the token file says of its codes.
        indices: number of each picture in the whole set (N,), which is its name.
        labels: class number of each row of codes (R,), -1 where there is none.
        names: of the rows of codes (R,); None is the pictures' numbers.
        counts: how many rows of codes each picture has (N,), which sum to R; None is one.
        trace_steps: S where the sampler's steps are kept, else 0.

    Attributes:
        todo: pictures that lacked codes when this writer was made.
    """

    def __init__(
        self,
        path: Path,
        meta: TokenMeta,
        indices: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str] | None = None,
        counts: np.ndarray | None = None,
        trace_steps: int = 0,
    ) -> None:
        self.path = path
        self.indices = indices
        counts = np.ones(len(indices), np.int64) if counts is None else counts
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        self.tokens: TokenWriter | None = None
        self.todo = np.array([], np.int64)
        # Where the finished token file stands, only what comes after it is left to do.
        if not (path / TOKENS_FILE).exists():
            names = names or [f"{index:06d}" for index in indices]
            self.tokens = TokenWriter.create_or_resume(
                path / TOKENS_FILE, meta, names, labels, steps=trace_steps
            )
            done = self.tokens.done
            whole = [done[start:end].all() for start, end in zip(self._starts, self._ends, strict=True)]
            self.todo = np.flatnonzero(~np.array(whole))

    def image_path(self, picture: int) -> Path:
        """Where a picture stands."""
        return self.path / IMAGES / f"{self.indices[picture]:06d}.png"

    def write(
        self,
        pictures: np.ndarray,
        codes: np.ndarray,
        pngs: Sequence[bytes] = (),
        trace: Trace | None = None,
        strips: Sequence[Mapping[str, bytes]] = (),
    ) -> None:
        """Store the files of pictures (B,), and then all their codes (rows, h, w) in order.

        Args:
            pictures: which these are.
            codes: in [0, K).
            pngs: PNG files of them, or none at all.
            trace: what the sampler did to each row, if that is kept.
            strips: pictures of that, files by their suffix for each picture, or none at all.

        Raises:
            OutputError: the disk is full or not writable.
        """
        assert self.tokens is not None
        for picture, png in zip(pictures if len(pngs) else (), pngs, strict=True):
            write_bytes(self.image_path(picture), png)
        for picture, files in zip(pictures if len(strips) else (), strips, strict=True):
            for suffix, content in files.items():
                write_bytes(self.path / TRACES / f"{self.indices[picture]:06d}.{suffix}", content)
        rows = np.concatenate([np.arange(self._starts[i], self._ends[i]) for i in pictures])
        self.tokens.write(rows, codes[:, None], trace)

    def finish_tokens(self) -> TokenFile:
        """Turn the codes, all of which are there, into the finished token file.

        Raises:
            OutputError: the disk is full or not writable.
        """
        tokens = self.path / TOKENS_FILE
        if self.tokens is not None:
            self.tokens.finish()
        partial_path(tokens).unlink(missing_ok=True)
        return open_tokens(tokens)

    def finish(self, record: Mapping[str, Any], grid: bytes, npz: bool = False) -> None:
        """Write what stands for all pictures, and last the record that says they are complete.

        Args:
            record: from :func:`samples_record`.
            grid: PNG file that shows the pictures.
            npz: also write all pictures as one array.

        Raises:
            OutputError: the disk is full or not writable.
        """
        write_bytes(self.path / GRID_FILE, grid)
        if npz:
            write_npz(self.path / NPZ_FILE, [self.image_path(i) for i in range(len(self.indices))])
        _remove_leftovers(self.path)
        write_json(self.path / SETTINGS_FILE, {**record, "complete": True})


def read_png(path: Path) -> np.ndarray:
    """Pixels uint8 (H, W, 3) of a PNG of ours.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        with warnings.catch_warnings():
            # PIL warns of large pictures; what was filled in is as large as the picture it lies in.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise ArtifactError(
            f"{path} is missing or damaged; remove {path.parent.parent} and draw the samples again"
        ) from error


def write_npz(path: Path, pngs: Sequence[Path]) -> None:
    """Write ``arr_0`` uint8 (N, H, W, 3), which ADM's evaluator reads, from N pictures, one at a time.

    Raises:
        ArtifactError: a picture is missing or damaged.
        OutputError: the disk is full or not writable.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(pngs), *read_png(pngs[0]).shape)}
    with replacing_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        member = zipfile.ZipInfo("arr_0.npy")  # dated 1980: the same pictures give the same bytes
        with archive.open(member, "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            _append(file, pngs)


def _append(file: Any, pngs: Iterable[Path]) -> None:
    for png in pngs:
        file.write(read_png(png).tobytes())
