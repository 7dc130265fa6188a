"""``export``: a run's weights as a model directory, or a tokenizer's as a smaller one, to share.

``to="v1"`` writes the files of the paper's own release instead, which its code and its descendants read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskgit_cli import __version__
from maskgit_cli.config.arguments import PathArgument, checked
from maskgit_cli.config.networks import TOKENIZERS, TRANSFORMERS, VQGANConfig
from maskgit_cli.config.training import TrainConfig
from maskgit_cli.errors import ArtifactError, ConfigError
from maskgit_cli.formats.atomic import parent, read_json, replacing_directory, sha256_file
from maskgit_cli.formats.claim import Found, Outcome, OutputKind, claim
from maskgit_cli.formats.models import (
    MODEL,
    MODEL_FORMAT,
    TOKENIZER,
    TOKENIZER_FORMAT,
    WEIGHTS_FILE,
    find_named,
    read_tokenizer_record,
    save_model,
    weights_of,
)
from maskgit_cli.formats.records import Record
from maskgit_cli.formats.runs import RUN_FORMAT, read_metrics
from maskgit_cli.formats.tensors import read_tensors
from maskgit_cli.networks.loading import Tokenizer, load_model, load_tokenizer, save_tokenizer
from maskgit_cli.networks.registry import network_of
from maskgit_cli.networks.vqgan import VQGAN
from maskgit_cli.runtime.progress import SILENT, Reporter
from maskgit_cli.sampling.model import SamplerChoice, choose_sampler
from maskgit_cli.sampling.samplers.registry import step_counts
from maskgit_cli.training.optim import load_optimizer
from maskgit_cli.weights.names import v1_published_name
from maskgit_cli.weights.upload import check_repository, upload

TARGETS = ("native", "v1")
# Names in the paper's own release.
V1_TOKENIZER, V1_SIZES = "last.ckpt", "model.yaml"
V1_GROUPS, V1_HEADS = 32, 16
_BY_US = "# Written by maskgit-cli"


class Export(NamedTuple):
    """A directory to write: its record, and a function that writes it at a path."""

    record: Record
    write: Callable[[Path], None]


@checked
def export(
    source: PathArgument,
    out: PathArgument,
    *,
    weights: str = "ema",
    half: bool = False,
    to: str = "native",
    sampler: SamplerChoice = None,
    push: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Write the weights of a run, model or tokenizer directory as a directory to share.

    Args:
        source: a run (its newest checkpoint), model or tokenizer directory, or ``builtin``.
        out: the model or tokenizer directory to make.
        weights: ``ema`` or ``raw``, of a run.
        half: store float16, which halves the size and changes weights by 5e-4 of their value at most.
        to: ``native``, or ``v1`` for the files of the paper's own release.
        sampler: default sampling settings to record: all of them, or changes to those of the source. None
            keeps the source's, if it has any.
        push: a repository ``user/name`` of the Hugging Face hub to upload the directory to.
        license: of the weights, for the model card; ``mit``, ``apache-2.0`` ...
        overwrite: replace a directory that is there.
        reporter: receives updates about the upload.

    Returns:
        ``out``.

    Raises:
        InputError: there is nothing at ``source``.
        ConfigError: settings contradict one another, v1.0 has no such network, or the sampler does not fit
            the model.
        ArtifactError: it is incomplete or damaged.
        OutputError: ``out`` exists and ``overwrite`` is false, or it is not an artifact of the same kind, or
            the hub rejects the upload.
    """
    source, out = Path(source), Path(out)
    if to not in TARGETS:
        raise ConfigError(f"--to {to}: must be one of {', '.join(TARGETS)}")
    if to == "v1" and half:
        raise ConfigError("--half: the files of v1.0 are float32; leave --half or --to v1 out")
    if push is not None:
        check_repository(push)
    elif license is not None:
        raise ConfigError(f"--license {license}: for the model card, which only --push writes; leave it out")
    source = find_named(source, "run, model or tokenizer")
    if source.resolve() == out.resolve():
        raise ConfigError(f"{out} is both source and output; choose another output")
    record = read_json(source / "config.json", "a run, model or tokenizer directory")
    is_tokenizer = record.get("format") == TOKENIZER_FORMAT
    if sampler and (is_tokenizer or to == "v1"):
        what = "a tokenizer is not sampled" if is_tokenizer else "v1.0's files have none"
        raise ConfigError(f"sampling settings: {what}; leave those options out")
    kind = _TOKENIZER_EXPORT if is_tokenizer else _MODEL_EXPORT
    plan = functools.cache(lambda: _plan(source, is_tokenizer, weights, half, to, sampler, reporter))
    with claim(out, kind, lambda: plan().record, overwrite=overwrite, warn=reporter.warn) as claimed:
        if claimed.outcome is Outcome.COMPLETE:
            reporter.info(claimed.already_complete)
        else:
            plan().write(claimed.path)
    if push is not None:
        upload(out, push, license, reporter)
    return out


def _plan(
    source: Path,
    is_tokenizer: bool,
    weights: str,
    half: bool,
    to: str,
    sampler: SamplerChoice,
    reporter: Reporter,
) -> Export:
    """Read what is exported, and check it."""
    if is_tokenizer:
        return _v1_tokenizer(source) if to == "v1" else _export_tokenizer(source, half)
    if to == "v1":
        return _v1_model(source, weights, reporter)
    return _export_model(source, weights, half, sampler)


def _find_export(path: Path, native: OutputKind, sizes: str) -> Found | None:
    """A native directory, or v1.0's files with the record that is in a comment of their ``model.yaml``."""
    if (path / "config.json").is_file():
        return native.read(path)
    file = path / sizes
    if not file.is_file():
        return None
    by, _, rest = file.read_text(encoding="utf-8", errors="replace").partition("\n")
    if not by.startswith(_BY_US):
        return None
    try:
        record = json.loads(rest.partition("\n")[0].removeprefix("# "))
    except ValueError:  # an earlier version wrote none
        record = {}
    return Found(record if isinstance(record, dict) else {}, True)


def _export_kind(native: OutputKind, sizes: str) -> OutputKind:
    def read(path: Path) -> Found | None:
        return _find_export(path, native, sizes)

    return OutputKind(native.what, read, compared=native.compared)


_MODEL_EXPORT = _export_kind(MODEL, f"VQGAN/{V1_SIZES}")
_TOKENIZER_EXPORT = _export_kind(TOKENIZER, V1_SIZES)


def _check_keys(source: Path, record: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        if key not in record:
            raise ArtifactError(f"{source / 'config.json'} has no {key!r}")


# --- native directories -----------------------------------------------------------------------------


def _stored(tensors: Mapping[str, Tensor], half: bool) -> dict[str, Tensor]:
    """Tensors in the dtype they are stored with."""
    return {name: t.half() if half and t.dtype == torch.float32 else t for name, t in tensors.items()}


def _export_tokenizer(source: Path, half: bool) -> Export:
    record = read_tokenizer_record(source)
    _check_keys(source, record, ("settings", "parents"))
    tokenizer = load_tokenizer(source)
    parents = [parent("tokenizer", source.resolve(), tokenizer.sha256), *record["parents"]]
    settings = {**record["settings"], "half": half}
    tensors = _stored(tokenizer.network.state_dict(), half)
    network = record.get("network", "vqgan")

    def write(out: Path) -> None:
        with replacing_directory(out) as temporary:
            save_tokenizer(temporary, tensors, tokenizer.config, settings, parents, network)

    sizes = {TOKENIZERS[network].key: tokenizer.config.to_json()}
    return Export({"network": network, **sizes, "settings": settings, "parents": parents}, write)


def _export_model(source: Path, weights: str, half: bool, choice: SamplerChoice) -> Export:
    record, file, step, _ = weights_of(source, weights)
    model = load_model(source, weights=weights)
    sizes = network_of(record, TRANSFORMERS, "maskgit", source).key
    kept = ("network", sizes, "resolution", "class_names", "tokenizer_sha256", "settings")
    _check_keys(source, record, (*kept, "parents"))
    own = "run" if record["format"] == RUN_FORMAT else "model"
    new = {
        **{key: record[key] for key in kept},
        "weights": weights if own == "run" else record.get("weights", "raw"),
        "half": half,
        "step": step,
        "epoch": _epoch(source, record, step),
        "parents": [parent(own, source.resolve(), sha256_file(file)), *record["parents"]],
    }
    sampler = choose_sampler(choice, model, model.config.classes > 0) if choice else model.sampler
    if sampler is not None:
        step_counts(sampler, model.config.grid**2)
        new["sampler"] = sampler.describe()
    assert file.name == ("ema.safetensors" if own == "run" and weights == "ema" else WEIGHTS_FILE)
    tensors = _stored(model.network.state_dict(), half)
    return Export(new, lambda out: save_model(out, tensors, new, source / "tokenizer"))


# --- the paper's own files -------------------------------------------------------------------------


def _v1_model(source: Path, weights: str, reporter: Reporter) -> Export:
    """``MaskGIT_RES.pth`` and ``VQGAN/``: v1.0's ``--vit-folder`` and ``--vqgan-folder``."""
    record, file, step, _ = weights_of(source, weights)
    model = load_model(source, weights=weights)
    if model.entry.name != "maskgit":
        name = record["network"]
        raise ConfigError(f"{source} has the network {name!r}; --to v1 writes the paper's only")
    tokenizer = load_tokenizer(source)
    _check_v1_tokenizer(tokenizer)
    names = {name: v1_published_name(name) for name in model.network.state_dict()}
    content = {
        "iter": step or 0,
        "global_epoch": _epoch(source, record, step) or 0,
        "model_state_dict": {names[name]: t for name, t in model.network.state_dict().items()},
        "optimizer_state_dict": _v1_optimizer(model.network, record, file),
    }
    heads = model.config.heads
    if heads != V1_HEADS:
        reporter.warn(f"v1.0's files do not contain the number of heads: import them with --heads {heads}")
    own = "run" if record["format"] == RUN_FORMAT else "model"
    new = _v1_record(parent(own, source.resolve(), sha256_file(file)), weights)

    def write(out: Path) -> None:
        with replacing_directory(out) as temporary:
            torch.save(content, temporary / f"MaskGIT_{model.resolution}.pth")
            _write_v1_tokenizer(tokenizer, temporary / "VQGAN", new)

    return Export(new, write)


def _v1_record(source: Mapping[str, str], weights: str) -> Record:
    return {"to": "v1", "settings": {"weights": weights}, "parents": [source]}


def _epoch(source: Path, record: Mapping[str, Any], step: int | None) -> int | None:
    """Completed epochs, from a model's record or a run's log; None where neither has them."""
    if record["format"] == MODEL_FORMAT:
        return record.get("epoch")
    epochs = [v["epoch"] for v in read_metrics(source) if "epoch" in v and v["step"] <= (step or 0)]
    return int(epochs[-1]) if epochs else None


def _v1_optimizer(network: torch.nn.Module, record: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The state of v1.0's AdamW; for EMA weights and models, which have none, that of a new optimizer.

    v1.0 numbers parameters in the order of its modules, which is also the native one.
    """
    settings = {**TrainConfig().to_json(), **record.get("settings", {})}
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings["lr"],
        betas=(settings["beta1"], settings["beta2"]),
        weight_decay=settings["weight_decay"],
    )
    state = file.parent / "optimizer.safetensors"
    if file.name == WEIGHTS_FILE and state.exists():
        load_optimizer(optimizer, network, read_tensors(state))
    return optimizer.state_dict()


def _v1_tokenizer(source: Path) -> Export:
    tokenizer = load_tokenizer(source)
    _check_v1_tokenizer(tokenizer)
    record = _v1_record(parent("tokenizer", source.resolve(), tokenizer.sha256), "raw")

    def write(out: Path) -> None:
        with replacing_directory(out) as temporary:
            _write_v1_tokenizer(tokenizer, temporary, record)

    return Export(record, write)


def _check_v1_tokenizer(tokenizer: Tokenizer) -> None:
    """Check that the paper's code can build a tokenizer's network.

    Raises:
        ConfigError: it cannot.
    """
    if type(tokenizer.network) is not VQGAN:
        name = read_tokenizer_record(tokenizer.path).get("network")
        raise ConfigError(f"{tokenizer.path} has the network {name!r}; --to v1 writes VQGANs only")
    assert isinstance(tokenizer.config, VQGANConfig)
    if not tokenizer.config.middle_attention:
        raise ConfigError(
            f"{tokenizer.path} has no attention in the middle; v1.0's VQGAN always has it, so it cannot read "
            "this one"
        )
    groups = tokenizer.config.norm_groups
    if groups != V1_GROUPS:
        raise ConfigError(
            f"{tokenizer.path} normalizes in {groups} groups; v1.0's VQGAN always has {V1_GROUPS}, so it "
            "cannot read this one"
        )


def _write_v1_tokenizer(tokenizer: Tokenizer, folder: Path, record: Record) -> None:
    """Write ``last.ckpt`` and ``model.yaml`` in a folder; tensor names are the same in v1.0."""
    assert isinstance(tokenizer.config, VQGANConfig)
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": dict(tokenizer.network.state_dict())}, folder / V1_TOKENIZER)
    (folder / V1_SIZES).write_text(v1_model_yaml(tokenizer.config, record), encoding="utf-8")


def v1_model_yaml(sizes: VQGANConfig, record: Record) -> str:
    """The sizes of a VQGAN as v1.0's code reads them, in YAML; the export's record is in a comment."""
    return f"""\
{_BY_US} {__version__}
# {json.dumps(record)}
model:
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: {sizes.embed_dim}
    n_embed: {sizes.codebook_size}
    ddconfig:
      double_z: false
      z_channels: {sizes.z_channels}
      resolution: {sizes.resolution}
      in_channels: 3
      out_ch: 3
      ch: {sizes.channels}
      ch_mult: {list(sizes.channel_multipliers)}
      num_res_blocks: {sizes.residual_blocks}
      attn_resolutions: {list(sizes.attention_resolutions)}
      dropout: {sizes.dropout}
    lossconfig:
      target: taming.modules.losses.DummyLoss
"""
