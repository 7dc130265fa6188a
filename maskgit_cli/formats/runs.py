"""Run directories: a training's record, metrics, previews and checkpoints.

``train`` and ``train-vqgan`` store their state in the same way; docs/artifacts.md specifies it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from maskgit_cli.config.networks import TRANSFORMERS
from maskgit_cli.errors import ArtifactError, OutputError
from maskgit_cli.formats.atomic import (
    check_format,
    disk_errors,
    is_sha256,
    read_json,
    remove_directory,
    remove_leftovers,
    remove_leftovers_below,
    replacing_directory,
    sha256_file,
    sync,
    write_bytes,
    write_json,
)
from maskgit_cli.formats.claim import Found, OutputKind
from maskgit_cli.formats.records import Record
from maskgit_cli.formats.tensors import read_tensors, write_tensors

if TYPE_CHECKING:  # `maskgit info` reads records without torch
    from torch import Tensor

RUN_FORMAT, RUN_VERSION = "maskgit-run", 2
# How the images of an epoch are shuffled, as records say; those without it are of an earlier order.
ORDER = "feistel"
CONFIG_FILE, METRICS_FILE = "config.json", "metrics.jsonl"
CHECKPOINT_FORMAT, CHECKPOINT_VERSION = "maskgit-checkpoint", 2
WEIGHTS_FILE, WEIGHTS_DIGEST = "model.safetensors", "weights_sha256"


class Checkpoint(NamedTuple):
    """State that a training resumes from.

    Attributes:
        step: optimizer steps done.
        tensors: named tensors by the name of their file (``model``, ``ema``, ``optimizer`` ...).
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]


def checkpoint_path(run: Path, step: int) -> Path:
    """Path of the checkpoint of a step."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path for path in run.glob("checkpoints/step-*") if (path / "state.json").exists())


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    found = checkpoints(run)
    return found[-1] if found else None


class State(NamedTuple):
    """The content of a checkpoint's ``state.json``.

    Attributes:
        step: optimizer steps done.
        sha256: of each file of tensors, by its name.
    """

    step: int
    sha256: dict[str, str]


def read_state(checkpoint: Path) -> State:
    """The checked ``state.json`` of a checkpoint.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or version.
    """
    file = checkpoint / "state.json"
    record = read_json(file, "a checkpoint")
    check_format(record, checkpoint, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)
    step, digests = record.get("step"), record.get("sha256")
    if type(step) is not int or step < 0:
        raise ArtifactError(f"{file} is damaged: its step is {step!r}")
    if not isinstance(digests, dict) or not all(
        Path(name).name == name and is_sha256(digest) for name, digest in digests.items()
    ):
        raise ArtifactError(f"{file} is damaged: its sha256 are not digests of files")
    return State(step, digests)


def save_checkpoint(run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], keep: int) -> Path:
    """Write a checkpoint atomically, then remove all but the ``keep`` newest.

    Raises:
        OutputError: the file system refuses.
    """
    path = checkpoint_path(run, step)
    remove_leftovers(path)
    with replacing_directory(path) as temporary:
        for name, group in tensors.items():
            write_tensors(temporary / f"{name}.safetensors", group)
        files = {file.name: sha256_file(file) for file in sorted(temporary.glob("*.safetensors"))}
        state = {"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION, "step": step, "sha256": files}
        write_json(temporary / "state.json", state)
    remove_old_checkpoints(run, keep)
    return path


def remove_old_checkpoints(run: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints.

    Raises:
        OutputError: the file system refuses.
    """
    for old in checkpoints(run)[:-keep]:
        remove_directory(old)


def load_checkpoint(run: Path) -> Checkpoint | None:
    """Read the newest checkpoint of a run, checking every file's digest; None if there is none.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    path = newest_checkpoint(run)
    if path is None:
        return None
    check_digests(path)
    return read_checkpoint(path)


def check_digests(checkpoint: Path) -> None:
    """Compare every file of a checkpoint with its digest.

    Raises:
        ArtifactError: one is missing or damaged.
    """
    for name, digest in read_state(checkpoint).sha256.items():
        file = checkpoint / name
        if not file.exists() or sha256_file(file) != digest:
            raise ArtifactError(f"{file} is missing or damaged")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without comparing digests.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    state = read_state(path)
    tensors = {name.removesuffix(".safetensors"): read_tensors(path / name) for name in state.sha256}
    return Checkpoint(state.step, tensors)


def intact_checkpoint(run: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files have their digests, or None without any checkpoint.

    Damaged ones that are newer are renamed to ``damaged-step-NNNNNNNN``, so that nothing takes them for the
    newest any more; they are never removed.

    Args:
        run: the training directory.
        warn: receives a line for each damaged one.

    Raises:
        ArtifactError: all are damaged, or one is of a newer package; none was renamed.
        OutputError: the file system refuses.
    """
    damaged: list[tuple[Path, ArtifactError]] = []
    for path in reversed(checkpoints(run)):
        damage = _damage(path)
        if damage is not None:
            damaged.append((path, damage))
            continue
        for old, error in damaged:
            aside = _set_aside(old)
            warn(f"{error}; it is now {aside}, and the training resumes from {path.name} instead")
        return path
    if damaged:
        raise ArtifactError(
            f"{damaged[0][1]}, and {run} has no intact checkpoint; restore one from a backup, or start again "
            "with --overwrite"
        )
    return None


def _damage(checkpoint: Path) -> ArtifactError | None:
    """What is wrong with a checkpoint, if anything."""
    try:
        record = read_json(checkpoint / "state.json", "a checkpoint")
    except ArtifactError as error:
        return error
    check_format(record, checkpoint, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)  # another version is no damage
    try:
        check_digests(checkpoint)
    except ArtifactError as error:
        return error
    return None


def _set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint; returns its new path, with a number where an earlier one has the name."""
    aside, number = checkpoint.with_name(f"damaged-{checkpoint.name}"), 1
    while aside.exists():
        number += 1
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}-{number}")
    with disk_errors(checkpoint):
        os.rename(checkpoint, aside)
        sync(checkpoint.parent)
    return aside


# --- claiming a training directory ------------------------------------------------------------------


def has_weights(path: Path, record: Record) -> bool:
    """Whether a tokenizer or model directory has its weights; in version 1 their digest is not recorded."""
    recorded = WEIGHTS_DIGEST in record or record.get("version") == 1
    return recorded and (path / WEIGHTS_FILE).exists()


def is_finished(path: Path, record: Record) -> bool:
    """Whether a training directory has reached the steps in its record; a tokenizer's, its final weights."""
    if record["format"] != RUN_FORMAT:
        steps = record.get("settings", {}).get("steps", 0)
        return has_weights(path, record) and _weights_step(path, record) >= steps
    return _checkpointed(path) >= record["settings"]["steps"]


def _weights_step(path: Path, record: Record) -> int:
    """Steps of a tokenizer's weights: less than in its settings while its training is being extended."""
    step = record.get("step", record.get("settings", {}).get("steps", 0))
    if type(step) is not int:
        raise ArtifactError(f"{path / CONFIG_FILE} is damaged: its step is {step!r}")
    return step


def _checkpointed(path: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    newest = newest_checkpoint(path)
    return int(newest.name.removeprefix("step-")) if newest else 0


def training_kind(record: Record, what: str, free: Set[str]) -> OutputKind:
    """How a training directory is claimed.

    A finished training that is replaced is renamed to ``.NAME.replaced`` (see
    :func:`~maskgit_cli.formats.claim.replaced_path`) and removed by the claim's ``finish``, so that a long
    training is found by its name while it runs. An unfinished one is always resumed if its settings are the
    same.

    Args:
        record: what ``config.json`` is to hold.
        what: name of the kind of directory, for messages.
        free: settings that may differ when resuming: how far to train, and what to log.

    Derived settings (see :func:`derived_values`) never differ.
    """

    def find(path: Path) -> Found | None:
        config = path / CONFIG_FILE
        if not config.exists():
            return None
        old: Record = read_json(config, what)
        if old.get("format") != record["format"]:
            return None
        check_format(old, path, record["format"], record["version"])
        old = _with_newer_settings(old)
        same = {key: record["settings"][key] for key in derived_values(old, record)}
        return Found({**old, "settings": {**old.get("settings", {}), **same}}, is_finished(path, old))

    def compared(found: Record) -> Record:
        settings = {key: value for key, value in found.get("settings", {}).items() if key not in free}
        state = ("derived", "step")
        return {key: value for key, value in found.items() if key not in state} | {"settings": settings}

    def start(path: Path, new: Record) -> None:
        write_json(path / CONFIG_FILE, new)

    return OutputKind(what, find, compared=compared, start=start, keeps_name=True, out="--out")


def derived_values(old: Record, new: Record) -> dict[str, Any]:
    """The derived settings of a training, with the values that they got when it was started.

    ``derived`` of a record names the settings that followed from the number of steps. They keep their values
    when the training is extended, so that more steps continue what was trained already.

    Args:
        old: the record of the training.
        new: the record that is asked for; a setting that is explicit in either of them is not derived.
    """
    settings, derived = old.get("settings", {}), new.get("derived", ())
    both = [key for key in derived if key in old.get("derived", derived)]
    # Records that are older than a setting: a decay always took all steps.
    return {key: settings.get(key, settings.get("steps")) for key in both}


def _with_newer_settings(record: Record) -> Record:
    """A training's record with what is newer than it, and the values that its settings always had.

    A tokenizer's training accumulated no gradients; its perceptual distance was LPIPS where it had a weight.
    In a transformer's, all weights decayed along a cosine, every token was masked independently, and the
    initial weights were those that are the default still. A training with another order of its images
    continues in this one.
    """
    settings, network = record.get("settings", {}), record.get("network")
    newer: dict[str, Any] = {}
    if "perceptual_weight" in settings:
        settings = {"accumulate": 1, **settings}
        if "perceptual" not in settings:
            newer["perceptual"] = "lpips" if settings["perceptual_weight"] else "none"
    if "mask_schedule" in settings and "mask_count" not in settings:
        newer |= {"weight_decay_on": "all", "decay_start": 0.0, "lr_schedule": "cosine"}
        newer |= {"mask_count": "bernoulli", "mask_min": 0.0}
        random = network in TRANSFORMERS and "init_from" not in settings
        newer["init"] = TRANSFORMERS[str(network)].inits[0] if random else None
    record = {"order": ORDER, **record, "settings": {**settings, **newer}}
    # They were not asked for, so another value of the same command is none that differs. Nothing decayed in
    # a training of recipe halton.
    kept = [*newer, *(["lr_floor", "decay_steps"] if newer and settings.get("recipe") == "halton" else [])]
    return record | ({"derived": [*record["derived"], *kept]} if kept and "derived" in record else {})


def prepare_to_resume(path: Path, record: Record, warn: Callable[[str], None]) -> Record:
    """Remove what killed processes left in a training directory, and store the settings that have changed.

    Args:
        path: the training directory.
        record: what is asked for.
        warn: receives a line where the training continues in another order of its images.

    Returns:
        the record with which the training continues: ``record`` with the earlier derived settings.

    Raises:
        OutputError: more steps are done than asked for, or a finished tokenizer has no checkpoint to
            continue from.
    """
    config = path / CONFIG_FILE
    stored = read_json(config, "a training directory")
    old = _with_newer_settings(stored)
    derived = derived_values(old, record)
    settings = {**record["settings"], **derived}
    record = {**record, "settings": settings, "derived": [*derived]}
    weights: dict[str, Any] = {}
    if old["format"] != RUN_FORMAT and has_weights(path, old):
        # They are the tokenizer's until those of more steps are there.
        weights = {key: old[key] for key in (WEIGHTS_DIGEST,) if key in old} | {
            "step": _weights_step(path, old)
        }
    _check_steps(path, settings["steps"], weights.get("step"))
    if "order" not in stored:
        record = _with_order(path, record, warn)
    remove_leftovers_below(path)
    # The newest may turn out to be damaged when it is read: the one before it stays until then.
    remove_old_checkpoints(path, max(2, settings["keep"]))
    if weights.get("step") == settings["steps"]:
        return record  # nothing of a finished tokenizer changes any more
    if stored != {**record, **weights}:
        write_json(config, {**record, **weights})
    return record


def _with_order(path: Path, record: Record, warn: Callable[[str], None]) -> Record:
    """The record of a training that began in an earlier order of its images, with a warning if it goes on."""
    done = _checkpointed(path)
    if done >= record["settings"]["steps"]:  # nothing is trained any more, so it keeps its order
        return {key: value for key, value in record.items() if key != "order"}
    if done:
        warn(
            f"{path} was started by a version that shuffled images in another order; from step {done + 1} on "
            "it uses today's"
        )
    return record


def _check_steps(path: Path, steps: int, weights: int | None) -> None:
    """Check that a training can continue to so many steps, from its checkpoint.

    Args:
        path: the training directory.
        steps: asked for in all.
        weights: steps of a tokenizer's weights, where it has them.
    """
    done = max(_checkpointed(path), weights or 0)
    if steps < done:
        raise OutputError(
            f"--steps {steps}: {path} is already trained for {done:,} steps; give {done} or more, "
            "another place with --out, or --overwrite"
        )
    if weights is not None and steps > weights and not _checkpointed(path):
        raise OutputError(
            f"--steps {steps}: {path} has no checkpoint left to continue from; "
            f"start from its weights with --init-from {path} and another --out"
        )


# --- the log ----------------------------------------------------------------------------------------


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``, oldest first, without an unfinished last line.

    Raises:
        ArtifactError: a line is not a JSON object with a step.
    """
    path = run / METRICS_FILE
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [_metrics_line(line, number, path) for number, line in enumerate(lines, 1)]


def _metrics_line(text: str, number: int, path: Path) -> dict[str, Any]:
    """A line of ``metrics.jsonl``, which a power failure may have damaged."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        raise ArtifactError(
            f"{path}: line {number} is damaged; remove that line, then run the same command again"
        )
    return line


def _json_line(values: Mapping[str, Any]) -> str:
    """A line of ``metrics.jsonl``. JSON has no NaN and no infinity: they become null."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


class MetricsLog:
    """``metrics.jsonl``: one JSON object per line, appended; lines after the resumed step are dropped.

    Args:
        run: the training directory.
        step: the step that training resumes from.

    Raises:
        ArtifactError: an existing line is damaged.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / METRICS_FILE
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        write_bytes(self.path, "".join(_json_line(line) for line in kept).encode())

    def append(self, **values: Any) -> None:
        """Add a line; ``step`` is among the values. Numbers that are not finite become null.

        Raises:
            OutputError: the file system refuses.
        """
        with disk_errors(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(descriptor, _json_line(values).encode())
            finally:
                os.close(descriptor)
