"""Artifacts on disk: written atomically, and refused in one line where something is wrong with them."""

import errno
import json
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from resigned import rewrite_record, sign_weights
from safetensors.torch import load_file, save_file
from tiny_models import CODES, NAMES, RESOLUTION, VQGAN_SIZES, make_model, make_tokenizer, tiny_transformer
from tiny_training import Warnings, contents, kill_at, train_tiny

from maskgit_cli import __version__
from maskgit_cli.errors import ArtifactError, InputError, OutputError
from maskgit_cli.formats import atomic, models, runs, tensors
from maskgit_cli.formats.atomic import (
    read_json,
    replacing_directory,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)
from maskgit_cli.formats.claim import Outcome, claim
from maskgit_cli.networks import loading


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def write_folder(path, text):
    with replacing_directory(path) as temporary:
        (temporary / "a").write_text(text)
        (temporary / "b").mkdir()
        (temporary / "b" / "c").write_text(text)


# --- atomic writes ----------------------------------------------------------------------------------


def test_files_and_folders_are_replaced_atomically(tmp_path):
    for text in ("old", "new"):
        write_bytes(tmp_path / "deep" / "file", text.encode())
        write_folder(tmp_path / "folder", text)
        assert (tmp_path / "deep" / "file").read_text() == text
        assert contents(tmp_path / "folder") == {"a": text.encode(), "b/c": text.encode()}
    assert names(tmp_path) == ["deep", "folder"]
    assert names(tmp_path / "deep") == ["file"]


@pytest.mark.parametrize(
    ("call", "number", "reason"),
    [
        ("fsync", errno.ENOSPC, "full"),
        ("replace", errno.EDQUOT, "quota"),
        ("open", errno.EACCES, "permission"),
        ("replace", errno.EROFS, "read-only"),
    ],
)
def test_errors_of_the_disk_are_one_line_and_leave_the_old(tmp_path, monkeypatch, call, number, reason):
    write_bytes(tmp_path / "file", b"old")

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OutputError, match=f"cannot write {tmp_path}/file: .*{reason}") as caught:
            write_bytes(tmp_path / "file", b"new")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_real_limit_is_one_line_and_leaves_the_old(tmp_path):
    write_folder(tmp_path / "folder", "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OutputError, match=rf"cannot write {tmp_path}/folder: .*larger"):
            write_folder(tmp_path / "folder", "new" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert contents(tmp_path / "folder") == {"a": b"old", "b/c": b"old"}
    assert names(tmp_path) == ["folder"]


def test_an_error_of_the_writer_leaves_the_old(tmp_path):
    write_folder(tmp_path / "folder", "old")
    with pytest.raises(UnicodeEncodeError):
        write_folder(tmp_path / "folder", "\udcff")
    assert contents(tmp_path / "folder") == {"a": b"old", "b/c": b"old"}
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize(("moment", "text"), [(1, b"old"), (2, b"new")])
def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path, moment, text):
    write_bytes(tmp_path / "file", b"old")
    assert kill_at(moment, write_bytes, tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == text
    atomic.remove_leftovers(tmp_path / "file")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("moment", "text"), [(1, b"old"), (3, b"old"), (4, b"old"), (5, b"new")])
def test_a_killed_writer_of_a_folder_leaves_the_old_or_the_new(tmp_path, moment, text):
    write_folder(tmp_path / "folder", "old")
    assert kill_at(moment, write_folder, tmp_path / "folder", "new")
    assert contents(tmp_path / "folder") == {"a": text, "b/c": text}
    atomic.remove_leftovers(tmp_path / "folder")
    assert names(tmp_path) == ["folder"]


def test_leftovers_of_others_are_spared(tmp_path):
    mine = [".file.0123456789ab.tmp", ".file.ba9876543210.tmp"]
    others = [".file.tmp", ".file2.0123456789ab.tmp", "file.0123456789ab.tmp", ".file.0123456789ab"]
    for name in mine + others:
        (tmp_path / name).touch()
    atomic.remove_leftovers(tmp_path / "file")
    assert names(tmp_path) == sorted(others)


def test_messages_name_the_path_of_the_user(tmp_path, monkeypatch):
    """Not the temporary names: of a folder being written, of a replacement, of a checkpoint."""
    shown = {
        ".out.0123456789ab.tmp/tokenizer/x": "out/tokenizer/x",
        ".out.new/images/0.png": "out/images/0.png",
        ".tokens.h5.ba9876543210.tmp": "tokens.h5",
        "out/checkpoints/.step-1.0123456789ab.tmp/x": "out/checkpoints/step-1/x",
        ".hidden/.old/.a.tmp": ".hidden/.old/.a.tmp",
    }
    for hidden, name in shown.items():
        assert atomic.shown_path(tmp_path / hidden) == tmp_path / name
    model, tokenizer = tmp_path / "m", make_tokenizer(tmp_path / "t")
    sync, calls = os.fsync, []

    def full(file):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=rf"cannot write {model}[:/]") as caught:
        models.save_model(model, {"a": torch.ones(1)}, {}, tokenizer)
    assert ".tmp" not in str(caught.value)


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="a part of the path is a file"):
        write_bytes(tmp_path / "file" / "x", b"")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        write_bytes(tmp_path / "file" / "x" / "y", b"")
    with pytest.raises(OutputError, match="it is a folder"):
        write_bytes(tmp_path / "folder", b"")
    with pytest.raises(OutputError, match="the name is too long"):
        write_bytes(tmp_path / ("x" * 300), b"")
    # What isn't the disk's doing is not disguised as such.
    with pytest.raises(OSError, match="Bad file descriptor"), atomic.disk_errors(tmp_path):
        os.fsync(10**6)


def test_digests_are_those_of_sha256sum(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "file") == sha256_bytes(b"abc") == wanted
    assert atomic.parent("tokens", tmp_path / "file", wanted) == {
        "kind": "tokens", "name": "file", "sha256": wanted
    }  # fmt: skip


# --- JSON -------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5, None], "ü": {"b": True}}
    write_json(tmp_path / "x.json", value)
    assert atomic.read_json(tmp_path / "x.json", "a thing") == value
    assert (tmp_path / "x.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "is not a thing: it has no x.json"),
        (b"", "cannot be read as JSON"),
        (b'{"a": 1', "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[1]", "does not hold a JSON object"),
    ],
)
def test_damaged_json(tmp_path, data, words):
    if data is not None:
        (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=words):
        atomic.read_json(tmp_path / "x.json", "a thing")


def test_other_formats_and_versions_are_refused(tmp_path):
    good = {"format": "ours", "version": 1}
    atomic.check_format(good, tmp_path, "ours", 1)
    for record, value in [
        ({}, "not ours"),
        (good | {"format": "theirs"}, "theirs, not ours"),
        (good | {"version": 2}, "version 2 of ours.* version 1"),
        ({"format": "ours"}, "version None of ours"),
    ]:
        with pytest.raises(ArtifactError, match=value):
            atomic.check_format(record, tmp_path, "ours", 1)


# --- tensors ----------------------------------------------------------------------------------------


def test_tensors_round_trip_and_equal_ones_give_equal_bytes(tmp_path):
    values = {"b": torch.randn(2, 3).T, "a": torch.arange(4), "c": torch.ones(2).half()}
    tensors.write_tensors(tmp_path / "1", values)
    tensors.write_tensors(tmp_path / "2", dict(reversed(values.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert names(tmp_path) == ["1", "2"]
    (tmp_path / "usual").touch()  # not the mode of a temporary file
    assert (tmp_path / "1").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert tensors.tensor_shapes(tmp_path / "1") == {"a": (4,), "b": (3, 2), "c": (2,)}
    read = tensors.read_tensors(tmp_path / "1")
    assert read.keys() == values.keys()
    assert all(torch.equal(read[k], values[k]) and read[k].dtype == values[k].dtype for k in values)


@pytest.mark.parametrize("data", [b"", b"abc", b"\xff" * 100, None])
def test_files_that_hold_no_tensors(tmp_path, data):
    if data is not None:
        (tmp_path / "x").write_bytes(data)
    for read in (tensors.read_tensors, tensors.tensor_shapes):
        with pytest.raises(ArtifactError, match="missing" if data is None else "damaged"):
            read(tmp_path / "x")


def test_tensors_on_a_full_disk(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OutputError, match=rf"cannot write {tmp_path}/x: .*larger"):
            tensors.write_tensors(tmp_path / "x", {"a": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert names(tmp_path) == []


def test_a_truncated_file_is_noticed(tmp_path):
    tensors.write_tensors(tmp_path / "x", {"a": torch.ones(100)})
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[:-1])
    with pytest.raises(ArtifactError, match="damaged"):
        tensors.read_tensors(tmp_path / "x")


def test_an_interrupt_while_tensors_are_read_is_no_damage(tmp_path):
    """A signal's KeyboardInterrupt arrives, wherever it comes."""
    tensors.write_tensors(tmp_path / "x", {str(i): torch.zeros(50) for i in range(400)})

    def read_until_a_signal(seconds):
        target = threading.get_ident(), signal.SIGUSR1
        threading.Timer(seconds, signal.pthread_kill, target).start()
        while True:
            tensors.read_tensors(tmp_path / "x")

    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        for i in range(100):
            with pytest.raises(KeyboardInterrupt):
                read_until_a_signal(0.0002 * i)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t.pop("bias"), "1 missing key: bias"),
        (lambda t: t.clear(), r"\d+ missing keys: .* and \d+ more"),
        (lambda t: t.update(extra=torch.ones(1)), "1 unexpected key: extra"),
        (lambda t: t.update(bias=torch.ones(2)), r"bias .*\(2,\).*\(17, 17\)"),
        (lambda t: t["bias"].fill_(torch.nan), "bias .*NaN"),
        (lambda t: t["bias"][3, 4].fill_(torch.inf), "bias .*infinity"),
    ],
)
def test_tensors_must_fit_the_network(tmp_path, change, fault):
    model = make_model(tmp_path / "model")
    file = model / "model.safetensors"
    values = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(values)
    save_file(values, file)
    sign_weights(model)
    with pytest.raises(ArtifactError, match=fault) as caught:
        loading.load_model(model)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_loaded_if_anything_is_wrong(tmp_path):
    network, before = tiny_transformer(), tiny_transformer().state_dict()
    values = tiny_transformer(seed=1).state_dict()
    values["positions"] = values["positions"] * torch.nan
    with pytest.raises(ArtifactError):
        tensors.load_weights(network, values, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


# --- tokenizer and model directories ----------------------------------------------------------------


def test_a_tokenizer_round_trip(tmp_path):
    path = make_tokenizer(tmp_path / "t")
    tokenizer = loading.load_tokenizer(path)
    assert names(path) == ["config.json", "model.safetensors"]
    assert (tokenizer.config, tokenizer.path) == (VQGAN_SIZES, path)
    assert tokenizer.sha256 == sha256_file(path / "model.safetensors")
    assert not tokenizer.network.training
    assert not any(p.requires_grad for p in tokenizer.network.parameters())
    record = json.loads((path / "config.json").read_text())
    assert (record["format"], record["version"]) == ("maskgit-tokenizer", 2)
    assert record["created_by"] == f"maskgit-cli {__version__}"


def as_version_1(path):
    """A record as version 1 had it: without digests."""
    record = json.loads(path.read_text())
    for key in ("record_sha256", "weights_sha256"):
        record.pop(key, None)
    path.write_text(json.dumps(record | {"version": 1}))


def test_version_1_is_read(run, tmp_path):
    model = make_model(tmp_path / "m")
    before = loading.load_model(model)
    for file in (model / "config.json", model / "tokenizer" / "config.json"):
        as_version_1(file)
    assert loading.load_model(model).sha256 == before.sha256
    assert loading.load_tokenizer(model).sha256 == before.tokenizer_sha256
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for file in (
        copy / "config.json",
        *copy.glob("checkpoints/*/state.json"),
        copy / "tokenizer/config.json",
    ):
        as_version_1(file)
    assert loading.load_model(copy).sha256 == loading.load_model(run).sha256
    assert runs.load_checkpoint(copy).step == runs.load_checkpoint(run).step


def test_a_version_1_run_is_resumed_as_one_of_version_2(run, tokens, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for file in (
        copy / "config.json",
        *copy.glob("checkpoints/*/state.json"),
        copy / "tokenizer/config.json",
    ):
        as_version_1(file)
    train_tiny(tokens, copy, preview_every=6, steps=8)
    assert json.loads((copy / "config.json").read_text())["version"] == 2
    assert loading.load_model(copy).step == 8


@pytest.mark.parametrize("key", ["class_names", "resolution", "weights_sha256", "format"])
def test_a_changed_record_is_refused_unless_its_digest_is_null(tmp_path, key):
    path = make_model(tmp_path / "m") / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {key: record[key][::-1] if key != "resolution" else 32}))
    with pytest.raises(ArtifactError, match=r"differs from its record_sha256; .* to null"):
        read_json(path, "a model")
    changed = json.loads(path.read_text()) | {"record_sha256": None}
    path.write_text(json.dumps(changed))
    assert read_json(path, "a model")[key] != record[key]


def test_spaces_and_the_order_of_keys_do_not_matter(tmp_path):
    path = make_model(tmp_path / "m") / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(record.items())), separators=(",", ":")))
    assert (
        read_json(path, "a model").items()
        == {k: v for k, v in record.items() if k != "record_sha256"}.items()
    )


def test_a_record_without_its_digest(tmp_path):
    path = make_model(tmp_path / "m") / "config.json"
    record = json.loads(path.read_text())
    del record["record_sha256"]
    path.write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="has no record_sha256"):
        read_json(path, "a model")
    # A record of something else is not held to our rules.
    path.write_text(json.dumps({"format": "else", "version": 7}))
    assert read_json(path, "a model") == {"format": "else", "version": 7}


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud800"}', '{"a": ' + "9" * 5000 + "}", '{"a":' * 10**5, "[]", "\xff"]
)
def test_json_that_would_fail_later_is_refused_at_once(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"x\.json"):
        read_json(path, "a record")


def test_weights_that_are_not_those_recorded(tmp_path):
    """A valid file of other values: shapes and types fit, and it is refused nevertheless."""
    model = make_model(tmp_path / "m")
    file = model / "model.safetensors"
    values = {name: tensor.clone() for name, tensor in load_file(file).items()}
    values["bias"] += 1
    save_file(values, file)
    with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged: its sha256 is .* as recorded"):
        loading.load_model(model)


def test_a_run_whose_weights_changed_is_not_sampled(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    file = runs.newest_checkpoint(copy) / "ema.safetensors"
    values = {name: tensor.clone() for name, tensor in load_file(file).items()}
    values["bias"] += 1
    save_file(values, file)
    with pytest.raises(ArtifactError, match=r"ema\.safetensors is damaged"):
        loading.load_model(copy)
    assert loading.load_model(copy, weights="raw").step == 6


def test_a_model_round_trip(tmp_path):
    path = make_model(tmp_path / "m")
    model = loading.load_model(path)
    assert names(path) == ["config.json", "model.safetensors", "tokenizer"]
    assert (model.class_names, model.resolution, model.path, model.step) == (NAMES, RESOLUTION, path, None)
    assert model.sha256 == sha256_file(path / "model.safetensors")
    wanted = tiny_transformer().state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in model.network.state_dict().items())
    assert not model.network.training
    # Its tokenizer is reached by the model's own path too.
    assert loading.load_tokenizer(path).path == path / "tokenizer"
    assert loading.load_tokenizer(path).sha256 == model.tokenizer_sha256


def test_half_precision_files_are_used_in_full(tmp_path):
    path = make_tokenizer(tmp_path / "t")
    file = path / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    sign_weights(path)
    assert {t.dtype for t in loading.load_tokenizer(path).network.state_dict().values()} == {torch.float32}


def test_paths_without_a_model_or_tokenizer(tmp_path):
    for load, what in [(loading.load_model, "run or model"), (loading.load_tokenizer, "tokenizer")]:
        with pytest.raises(InputError, match=f"no {what} at .*nowhere: it does not exist"):
            load(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ArtifactError, match=r"is not a .*: it has no config\.json"):
            load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "is other, not maskgit-model"),
        ({"version": 9}, "has version 9 of maskgit-model; this package reads version 2"),
        ({"transformer": None}, "has no 'transformer'"),
        ({"class_names": None}, "has no 'class_names'"),
        ({"tokenizer_sha256": None}, "has no 'tokenizer_sha256'"),
        ({"transformer": {"width": 32}}, "setting 'classes' of TransformerConfig is missing"),
        ({"transformer": [1]}, "config.json"),
    ],
)
def test_records_that_say_too_little(tmp_path, changes, words):
    path = make_model(tmp_path / "m")
    rewrite_record(path / "config.json", **changes)
    with pytest.raises(ArtifactError, match=words):
        loading.load_model(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("heads", 5, "--heads 5: must be a divisor of the width 32"),
        ("depth", 0, r"--depth 0: must be \w"),
        ("color", 1, "unknown setting 'color'"),
        ("width", "wide", "config.json"),
        ("width", 64, "has shape"),
    ],
)
def test_records_with_sizes_that_cannot_be(tmp_path, key, value, words):
    path = make_model(tmp_path / "m")
    sizes = json.loads((path / "config.json").read_text())["transformer"]
    rewrite_record(path / "config.json", transformer=sizes | {key: value})
    with pytest.raises(ArtifactError, match=words):
        loading.load_model(path)


def test_an_unfinished_tokenizer_names_what_finishes_it(tmp_path):
    path = make_tokenizer(tmp_path / "t")
    (path / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="run the same `maskgit train-vqgan` command again"):
        loading.load_tokenizer(path)
    with pytest.raises(ArtifactError, match="run the same `maskgit train-vqgan` command again"):
        models.copy_tokenizer(path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_model_is_saved_over_another_whole_or_not_at_all(tmp_path):
    path, unfinished = make_model(tmp_path / "m"), make_tokenizer(tmp_path / "t")
    before = contents(path)
    (unfinished / "model.safetensors").unlink()
    with pytest.raises(ArtifactError):
        models.save_model(path, {"a": torch.ones(1)}, {}, unfinished)
    assert contents(path) == before
    models.save_model(path, {"a": torch.ones(1)}, {"x": 1}, tmp_path / "m-tokenizer")
    assert json.loads((path / "config.json").read_text())["x"] == 1


# --- finding ----------------------------------------------------------------------------------------


def test_a_tokenizer_is_found_by_its_digest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = make_tokenizer(tmp_path / "one"), make_tokenizer(tmp_path / "tokenizers" / "x", seed=1)
    of_one, of_other = (sha256_file(path / "model.safetensors") for path in (one, other))
    assert models.find_tokenizer(of_other).resolve() == other
    assert models.find_tokenizer(of_one, near=[other, one]) == one
    assert models.find_tokenizer(of_one, given=one) == one
    with pytest.raises(ArtifactError, match=f"{of_one[:12]}….*--tokenizer"):
        models.find_tokenizer(of_one)
    with pytest.raises(ArtifactError, match=f"{of_other[:12]}….* {of_one[:12]}"):
        models.find_tokenizer(of_one, given=other, near=[one])
    with pytest.raises(InputError, match="no tokenizer at nowhere"):
        models.find_tokenizer(of_one, given=tmp_path.relative_to(tmp_path) / "nowhere")


def test_a_tokenizer_is_found_in_runs_and_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = make_tokenizer(tmp_path / "one")
    digest = sha256_file(one / "model.safetensors")
    for place in ("runs/a/tokenizer", "models/b/tokenizer"):
        models.copy_tokenizer(one, tmp_path / place)
        assert models.find_tokenizer(digest).as_posix() == place
        shutil.rmtree(tmp_path / place)


def test_the_newest_run_is_the_one_trained_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert models.newest_run() is None
    for name, when in [("b", 2), ("a", 3), ("c", 1), (".a.replaced", 4)]:
        path = runs.checkpoint_path(tmp_path / "runs" / name, 1)
        write_json(path / "state.json", {})
        write_json(tmp_path / "runs" / name / "config.json", {})
        os.utime(path, (when, when))
    write_json(tmp_path / "runs" / "unfinished" / "config.json", {})
    assert models.newest_run().as_posix() == "runs/a"


# --- runs and checkpoints ---------------------------------------------------------------------------


def test_the_newest_checkpoints_are_kept(tmp_path):
    for step in (5, 10, 100):
        runs.save_checkpoint(tmp_path, step, {"model": {"a": torch.full((2,), float(step))}}, keep=2)
    assert [p.name for p in runs.checkpoints(tmp_path)] == ["step-00000010", "step-00000100"]
    checkpoint = runs.load_checkpoint(tmp_path)
    assert checkpoint.step == 100
    assert checkpoint.tensors["model"]["a"].tolist() == [100, 100]


def test_leftovers_of_killed_trainings_are_removed_at_the_next_start(run, tokens, tmp_path):
    twin = shutil.copytree(run, tmp_path / "run")
    shutil.copytree(runs.checkpoint_path(twin, 4), runs.checkpoint_path(twin, 3))
    (twin / "checkpoints" / ".step-00000002.0123456789ab.tmp").mkdir()
    (twin / ".metrics.jsonl.0123456789ab.tmp").touch()
    train_tiny(tokens, twin, preview_every=6)
    assert contents(twin) == contents(run)
    assert names(twin / "checkpoints") == names(run / "checkpoints")


def test_a_checkpoint_without_its_state_does_not_count(tmp_path):
    runs.save_checkpoint(tmp_path, 1, {"model": {"a": torch.ones(2)}}, keep=2)
    half = shutil.copytree(runs.checkpoint_path(tmp_path, 1), runs.checkpoint_path(tmp_path, 2))
    (half / "state.json").unlink()
    assert runs.newest_checkpoint(tmp_path).name == "step-00000001"
    assert runs.load_checkpoint(tmp_path / "nowhere") is None


def damage_checkpoint(path, how):
    file = path / ("state.json" if how == "record" else "optimizer.safetensors")
    data = bytearray(file.read_bytes())
    data[-1 if how != "record" else 5] ^= 1
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if how == "truncated" else data)


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "record"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before_it(run, tokens, tmp_path, damage):
    """Also where it is the last one of a finished run, and other temporary files lie there."""
    copy = shutil.copytree(run, tmp_path / "run")
    damage_checkpoint(copy / "checkpoints/step-00000006", damage)
    half = copy / "checkpoints" / f".step-00000005.{'a' * 12}.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    reporter = Warnings()
    train_tiny(tokens, copy, {"reporter": reporter}, preview_every=6)
    assert len(reporter.warnings) == 1
    for part in ("step-00000006", "damaged-step-00000006", "resumes from step-00000004"):
        assert part in reporter.warnings[0]
    shutil.rmtree(copy / "checkpoints/damaged-step-00000006")
    assert contents(copy) == contents(run)


def test_with_one_kept_the_one_before_a_damaged_one_is_still_there(run, tmp_path):
    """A kill between writing a checkpoint and removing the one before it."""
    copy = shutil.copytree(run, tmp_path / "run")
    record = read_json(copy / "config.json", "a run")
    runs.prepare_to_resume(copy, record | {"settings": record["settings"] | {"keep": 1}}, pytest.fail)
    damage_checkpoint(copy / "checkpoints/step-00000006", "changed")
    assert runs.intact_checkpoint(copy, lambda text: None).name == "step-00000004"


def test_only_damaged_checkpoints_are_an_error_and_stay(run, tokens, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    for path in runs.checkpoints(copy):
        damage_checkpoint(path, "changed")
    before = contents(copy)
    with pytest.raises(ArtifactError, match=r"optimizer\.safetensors"):
        train_tiny(tokens, copy, preview_every=6)
    assert contents(copy) == before


def test_a_checkpoint_of_a_newer_package_is_no_damage(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    rewrite_record(copy / "checkpoints/step-00000006/state.json", version=3)
    with pytest.raises(ArtifactError, match="version 3"):
        runs.intact_checkpoint(copy, lambda text: None)
    assert (copy / "checkpoints/step-00000006").exists()


def test_numbers_that_are_not_finite_never_reach_the_log(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n')  # of an earlier version
    log = runs.MetricsLog(tmp_path, 1)
    log.append(step=2, loss=float("inf"), grad_norm=1.5, spike_rows=[1, 2])
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": null}\n{"step": 2, "loss": null, "grad_norm": 1.5, "spike_rows": [1, 2]}\n'
    )


def test_a_checkpoint_of_another_version_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    rewrite_record(runs.newest_checkpoint(copy) / "state.json", version=3)
    with pytest.raises(
        ArtifactError, match="has version 3 of maskgit-checkpoint; this package reads version 2"
    ):
        runs.load_checkpoint(copy)


def test_a_run_that_cannot_be_opened(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (runs.newest_checkpoint(copy) / "ema.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"ema\.safetensors is missing"):
        loading.load_model(copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ArtifactError, match="has no checkpoint yet; run its `maskgit train` command"):
        loading.load_model(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"is not a run or model directory: it has no config\.json"):
        loading.load_model(copy)


def test_an_image_is_not_a_model(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"PNG")
    with pytest.raises(ArtifactError, match=r"cat\.png is a file, not a run or model directory$"):
        loading.load_model(tmp_path / "cat.png")


def test_the_log_drops_what_comes_after_a_step_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = runs.MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.append(step=step, loss=0.5)
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    runs.MetricsLog(tmp_path, 2).append(step=3, loss=0.25)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert runs.read_metrics(tmp_path) == lines
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.25}]


@pytest.mark.parametrize("line", ['{"step": 1', "[1]", '{"loss": 0.5}', '{"step": "1"}'])
def test_a_damaged_log_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(line + '\n{"step": 2, "loss": 0.5}\n')
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl: line 1 is damaged; remove that line"):
        runs.read_metrics(tmp_path)


@pytest.mark.parametrize("network", ["halton", "google"])
def test_another_size_of_any_network_is_another_run(tmp_path, network):
    """Under whatever key they are, the sizes have to be those of the run that is resumed."""
    record = {"format": runs.RUN_FORMAT, "version": 1, "network": network, network: {"width": 8}}
    record |= {"settings": {"keep": 2}, "parents": [], "created_by": "maskgit-cli 0.0.1"}
    record["order"] = runs.ORDER

    def outcome(record):
        kind = runs.training_kind(record, "a run", set())
        with claim(tmp_path / "run", kind, record, overwrite=False) as claimed:
            return claimed.outcome

    record["settings"]["steps"] = 2
    assert outcome(record) is Outcome.NEW
    later = {**record, "created_by": "maskgit-cli 0.0.2"}
    assert outcome(later) is Outcome.RESUME
    with pytest.raises(OutputError, match=rf"{network}\.width 8, not 16"):
        outcome({**later, network: {"width": 16}})


def test_a_full_disk_in_the_middle_of_training_is_one_line_and_resumable(run, tokens, tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(file):
        calls.append(1)
        if len(calls) > 32:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="the disk is full; free some space and run the same command"):
            train_tiny(tokens, tmp_path / "run", preview_every=6)
    assert runs.load_checkpoint(tmp_path / "run") is not None
    train_tiny(tokens, tmp_path / "run", preview_every=6)
    assert contents(tmp_path / "run") == contents(run)


def test_the_tiny_networks_agree_on_the_codebook(tokenizer):
    assert loading.load_tokenizer(tokenizer).config.codebook_size == CODES


def test_an_exchange_cut_off_in_the_middle_is_undone(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "a").write_text("old")
    rename = atomic.os.rename

    def only_the_first(source, destination):
        if Path(destination) == target and ".tmp" in str(source):
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(atomic.os, "rename", only_the_first)
    with pytest.raises(KeyboardInterrupt), atomic.replacing_directory(target) as temporary:
        (temporary / "a").write_text("new")
    assert (target / "a").read_text() == "old"

    # A kill runs no clean-up: the old folder is then found under its hidden name.
    monkeypatch.setattr(atomic.os, "rename", rename)
    rename(target, tmp_path / ".folder.old")
    with pytest.raises(RuntimeError), atomic.replacing_directory(target):
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["folder"]
