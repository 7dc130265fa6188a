"""The tokenizer that ``tokenize`` uses where none is given: the paper's, wherever it can be had."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from maskgit_cli.config.base import offline
from maskgit_cli.config.catalogue import PublishedFile, published_model
from maskgit_cli.errors import MaskGITError, WeightsError
from maskgit_cli.formats.models import (
    DEFAULT_TOKENIZER,
    TOKENIZERS_FOLDER,
    builtin_tokenizer,
    local_tokenizer,
)
from maskgit_cli.runtime.download import UnreachableError, ask_hub
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.weights.importing import import_weights
from maskgit_cli.weights.pulling import cached, download_published

T = TypeVar("T")
# Seconds that the hub has to answer at all; name servers alone can take far longer where there is no network.
PATIENCE = 4.5


def default_tokenizer(
    ask: Callable[[str], bool] = lambda question: True, reporter: Reporter = SILENT
) -> Path:
    """The directory of the paper's tokenizer, or with a warning that of the built-in one.

    It is searched in ``models/`` and ``tokenizers/`` and in the hub's cache, and else downloaded, without the
    transformer, into ``tokenizers/``.

    Args:
        ask: asked before a download, with its size; False refuses it.
        reporter: receives progress and the warning.

    Raises:
        OutputError: the file system refuses.
    """
    found = local_tokenizer()
    if found is not None:
        return found
    files = published_model(DEFAULT_TOKENIZER).tokenizer
    try:
        paths = [download_published(file, _none_cached(files, ask), reporter) for file in files]
        return import_weights(paths, TOKENIZERS_FOLDER / DEFAULT_TOKENIZER, reporter=reporter)
    except WeightsError as error:
        reason = "the hub cannot be reached" if isinstance(error, UnreachableError) else str(error)
        reporter.warn(
            "using the built-in 64 px tokenizer, which was made for emoji and distorts photographs "
            f"({reason}); `maskgit pull {DEFAULT_TOKENIZER}` gets the paper's, and "
            "`maskgit train-vqgan IMAGES` makes your own"
        )
        return builtin_tokenizer()


def _none_cached(files: tuple[PublishedFile, ...], ask: Callable[[str], bool]) -> bool:
    """Whether to use the caches only: all files are there. Else the hub answers and nobody objects.

    Raises:
        WeightsError: downloads are forbidden or refused, or the hub does not answer.
    """
    if all(cached(file) for file in files):
        return True
    reason = offline()
    if reason:
        raise WeightsError(f"{reason} forbids downloads")
    _within(PATIENCE, lambda: ask_hub(files[0].source, files[0].path))
    megabytes = sum(file.bytes or 0 for file in files) / 1e6
    if not ask(f"download the tokenizer {DEFAULT_TOKENIZER} ({megabytes:,.0f} MB)?"):
        raise WeightsError("the download was declined")
    return False


def _within(seconds: float, work: Callable[[], T]) -> T:
    """The result of a function that may take longer than any time limit of its own.

    Raises:
        UnreachableError: it has not returned in time.
        MaskGITError: from the function.
    """
    outcome: list[T | MaskGITError] = []

    def run() -> None:
        try:
            outcome.append(work())
        except MaskGITError as error:
            outcome.append(error)

    # A daemon, so that the process does not wait for it in the end.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise UnreachableError(f"the hub has not answered within {seconds:g} seconds")
    if isinstance(outcome[0], MaskGITError):
        raise outcome[0]
    return outcome[0]
