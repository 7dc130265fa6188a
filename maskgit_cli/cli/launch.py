"""``maskgit --procs N STAGE``: start the same stage in several processes that find one another."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

from maskgit_cli.config import require


def launch(procs: int, words: list[str]) -> int:
    """Run ``maskgit WORDS`` in ``procs`` processes on this machine through torchrun; gives the exit status.

    On a machine without GPUs they talk over gloo; torchrun's own launcher is used because
    ``accelerate launch --cpu`` starts a single process.

    Raises:
        ConfigError: ``procs`` is below 1.
    """
    require(procs >= 1, "procs", procs, "1 or more")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={procs}"]
    environment = dict(os.environ)
    if not _has_gpu(words):
        environment["ACCELERATE_USE_CPU"] = "true"
    # Every process would otherwise start as many threads as there are cores.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // procs)))
    command += ["-m", "maskgit_cli", *_without_procs(words)]
    process = subprocess.run(command, env=environment, check=False)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _has_gpu(words: list[str]) -> bool:
    """Whether the processes will work on GPUs."""
    import torch

    asked_for_cpu = "--device=cpu" in words or any(
        pair == ("--device", "cpu") for pair in itertools.pairwise(words)
    )
    return torch.cuda.is_available() and not asked_for_cpu


def _without_procs(words: list[str]) -> list[str]:
    """The words of the call less ``--procs N``, which stands before the stage's name."""
    at = next(i for i, word in enumerate(words) if word.startswith("--procs"))
    return words[:at] + words[at + (1 if "=" in words[at] else 2) :]
