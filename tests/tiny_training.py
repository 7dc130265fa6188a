"""Trainings of about a second, in this process, in processes that are killed, or in several."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
from tiny_models import CODES, GRID, NAMES, RESOLUTION, VQGAN_SIZES

from maskgit_cli.config.networks import SIZES, TOKENIZER_SIZES, Size
from maskgit_cli.config.training import TrainConfig, VQGANTrainConfig
from maskgit_cli.formats.atomic import sha256_file
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.formats.tokens import TokenMeta
from maskgit_cli.runtime.progress import SILENT
from maskgit_cli.training.transformer import train
from maskgit_cli.training.vqgan import train_vqgan

TRAINING = {
    "size": "tiny",
    "steps": 6,
    "batch_size": 8,
    "warmup": 2,
    "lr": 1e-3,
    "checkpoint_every": 2,
    "log_every": 1,
    "preview_every": 0,
}
VQGAN_TRAINING = TRAINING | {"perceptual_weight": 0.0, "adversarial_start": 2, "discriminator_channels": 4}

# Values of the log that are measured anew.
MEASURED = {"images_per_second", "tflops", "mfu", "memory_gb"}

# A server that has imported everything once and forks a process for each training.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["accelerate", "maskgit_cli.training.transformer", "maskgit_cli.training.vqgan"]
)


class Warnings(type(SILENT)):
    """A reporter that records the warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def write_tokens(
    path: Path, tokenizer: Path, codes: np.ndarray | None = None, labels: np.ndarray | None = None, **changes
) -> Path:
    """A token file; by default 24 images whose tokens follow from position and label, and can be learned."""
    if labels is None:
        labels = np.arange(24, dtype=np.int32) % len(NAMES)
    if codes is None:
        row, column = np.mgrid[:GRID, :GRID]
        codes = (row + 2 * column + 5 * labels[:, None, None, None]) % CODES
    n = len(labels)
    values = {
        "codebook_size": CODES,
        "grid": GRID,
        "resolution": RESOLUTION,
        "views": "none",
        "class_names": NAMES,
        "tokenizer": tokenizer.name,
        "tokenizer_sha256": sha256_file(tokenizer / "model.safetensors"),
        "settings": {"res": RESOLUTION, "views": "none"},
        "parents": [{"kind": "images", "name": "photos", "sha256": "0" * 64}],
    }
    meta = TokenMeta(**values | changes)
    writer = TokenWriter.create_or_resume(path, meta, [f"{i}.png" for i in range(n)], labels)
    writer.write(np.arange(n), codes)
    return writer.finish()


def train_tiny(tokens: Path, out: Path, extra: dict | None = None, **settings) -> Path:
    """``train`` with a network of some thousand weights; ``extra`` goes to the function itself."""
    with mock.patch.dict(SIZES, tiny=Size(32, 1, 4, 64)):
        return train(tokens, out, TrainConfig(**TRAINING | settings), device="cpu", **extra or {})


def train_tiny_vqgan(images: Path, out: Path, extra: dict | None = None, **settings) -> Path:
    """``train-vqgan`` with a network of some thousand weights; ``extra`` goes to the function itself."""
    with mock.patch.dict(TOKENIZER_SIZES, tiny=VQGAN_SIZES):
        config = VQGANTrainConfig(**VQGAN_TRAINING | settings)
        return train_vqgan(images, out, config, device="cpu", **{"workers": 0} | (extra or {}))


def metrics(folder: Path) -> list[dict]:
    """The lines of a training's log, without the values that differ between equal trainings."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def contents(folder: Path) -> dict:
    """Everything in a training directory: bytes by name, and the lines of its log."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {
        name: metrics(folder) if name == "metrics.jsonl" else path.read_bytes()
        for name, path in files.items()
    }


def ctrl_c_at(patch: pytest.MonkeyPatch, module: ModuleType, at: int, times: int) -> None:
    """Send Ctrl-C ``times`` times at the start of a training's ``at``-th step."""
    whole_step = module.train_step
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs

    def interrupted(*arguments):
        if at in [argument for argument in arguments[:2] if isinstance(argument, int)]:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return whole_step(*arguments)

    patch.setattr(module, "train_step", interrupted)


# --- in other processes -----------------------------------------------------------------------------


def _syncs(before):
    """Patch fsync to call ``before`` first: between any two writes."""
    sync = os.fsync

    def fsync(file):
        before()
        sync(file)

    return mock.patch("os.fsync", fsync)


def count_syncs(function, *arguments, **settings) -> int:
    """The number of fsyncs of a training: the moments to kill it at."""
    calls = []
    with _syncs(lambda: calls.append(1)):
        function(*arguments, **settings)
    return len(calls)


def _die(moment, function, arguments, settings):
    calls = []

    def before():
        calls.append(1)
        if len(calls) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    with _syncs(before):
        function(*arguments, **settings)


def kill_at(moment: int, function, *arguments, **settings) -> bool:
    """Run a training in a process of its own that is killed at its ``moment``-th fsync.

    Returns False if it ended before.
    """
    process = PROCESSES.Process(target=_die, args=(moment, function, arguments, settings))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _be_rank(rank, size, port, function, arguments, settings):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    function(*arguments, **settings)


def in_processes(size: int, function, *arguments, **settings) -> None:
    """Run a training in several processes, as a launcher starts them."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    ranks = [
        PROCESSES.Process(target=_be_rank, args=(rank, size, port, function, arguments, settings))
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * size
