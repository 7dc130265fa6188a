"""The file of Inception's weights: found in torch's hub folder, or downloaded once."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path

import torch

from maskgit_cli.config.base import offline
from maskgit_cli.config.features import INCEPTION_SHA256
from maskgit_cli.errors import OutputError, WeightsError
from maskgit_cli.formats.atomic import replacing_file, sha256_file
from maskgit_cli.runtime.distributed import broadcast_object, world
from maskgit_cli.runtime.progress import SILENT, Reporter

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_BYTES = 95_628_359
# pytorch-fid keeps the same bytes under its own name in the same folder.
OTHER_FILE_NAMES = ("pt_inception-2015-12-05-6726825d.pth",)
# Seconds without a byte after which the network counts as absent.
TIMEOUT = 20


def inception_weights(given: Path | None = None, reporter: Reporter = SILENT) -> Path:
    """The file of Inception's weights: the one given, else the published one, fetched once.

    It is looked for where torch-fidelity keeps it, the ``checkpoints`` of torch's hub folder. One
    process fetches for all on its machine's behalf; processes on other machines then do the same.

    Raises:
        WeightsError: it isn't there and can't be fetched, or isn't the bytes it should be.
    """
    if given is not None:
        return given
    failure = None
    if world().main:
        try:
            _find_or_fetch(reporter)
        except (WeightsError, OutputError) as error:
            failure = str(error)
    failure = broadcast_object(failure)
    if failure is not None:
        raise WeightsError(failure)
    return _find_or_fetch(SILENT)


def _find_or_fetch(reporter: Reporter) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in (INCEPTION_FILE, *OTHER_FILE_NAMES):
        path = folder / name
        if path.is_file():
            check_weights(path, INCEPTION_BYTES, INCEPTION_SHA256)
            return path
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = folder / INCEPTION_FILE
    try:
        fetch_weights(URL_INCEPTION_V3, path, INCEPTION_BYTES, INCEPTION_SHA256, reporter)
    except WeightsError as error:
        raise WeightsError(
            f"no Inception weights ({error}): put {INCEPTION_FILE} (sha256 {INCEPTION_SHA256}) into "
            f"{folder}, or name it with --weights; --features vqgan needs none"
        ) from error
    return path


def check_weights(path: Path, size: int, sha256: str) -> None:
    """Hold a file to the size (bytes) and sha256 it should have.

    Raises:
        WeightsError: it has another.
    """
    if path.stat().st_size != size or sha256_file(path) != sha256:
        raise WeightsError(f"{path}: not the published file of {size} bytes with sha256 {sha256}; remove it")


def fetch_weights(url: str, path: Path, size: int, sha256: str, reporter: Reporter = SILENT) -> None:
    """Download a file whose size (bytes) and sha256 are known; what arrives otherwise is thrown away.

    Raises:
        WeightsError: fetching is forbidden or fails, or other bytes arrive.
        OutputError: the file system refuses.
    """
    forbidden = offline()
    if forbidden is not None:
        raise WeightsError(f"{forbidden} is set, so nothing is fetched")
    with replacing_file(path) as temporary:
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
                open(temporary, "wb") as file,
                reporter.task(f"fetching {path.name}", size, unit="bytes") as task,
            ):
                while piece := answer.read(1 << 20):
                    file.write(piece)
                    task.advance(len(piece))
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise WeightsError(f"{url} cannot be fetched: {' '.join(str(error).split())}") from error
        if temporary.stat().st_size != size or sha256_file(temporary) != sha256:
            raise WeightsError(f"{url} gave other bytes than the published ones; try again")
