"""Claims: outcomes, locks, leftovers, replacements, and what survives kills and full disks in between."""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from published import V1

from maskgit_cli.errors import ArtifactError, OutputError
from maskgit_cli.formats import claim as claims
from maskgit_cli.formats import locks
from maskgit_cli.formats.atomic import read_json, write_json
from maskgit_cli.formats.claim import Found, Outcome, OutputKind, claim
from maskgit_cli.formats.locks import lock
from maskgit_cli.formats.records import identity, record_difference

ONE, TWO = {"settings": {"steps": 4}}, {"settings": {"steps": 8}}


def find(path):
    """A directory with a record; the result is its files."""
    if not (path / "record.json").exists():
        return None
    record = read_json(path / "record.json", "a result")
    return Found(record, record.get("complete", False), record.get("damage"))


def start(path, record):
    write_json(path / "record.json", record)


def own(path):
    yield from path.glob("[0-9].txt")
    yield path / "record.json"


def find_file(path):
    return Found(read_json(path, "a summary"), True)


FOLDER = OutputKind("a result", find, start=start, draft=claims.new_path, own=own, out="--out")
NAMED = OutputKind("a training", find, start=start, keeps_name=True)
FILE = OutputKind("a summary", find_file, folder=False)


def work(path, record, text, kind=FOLDER, overwrite=False, until=3):
    """A stage that writes three files; ``until`` stops it before it is finished."""
    with claim(path, kind, record, overwrite=overwrite) as claimed:
        if claimed.outcome is not Outcome.COMPLETE:
            for number in range(until):
                if not (claimed.path / f"{number}.txt").exists():
                    (claimed.path / f"{number}.txt").write_text(text)
            if until == 3:
                write_json(claimed.path / "record.json", {**record, "complete": True})
                claimed.finish()
        return claimed.outcome


def texts(path):
    return [file.read_text() for file in sorted(path.glob("*.txt"))]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- outcomes ---------------------------------------------------------------------------------------


def test_outcomes_of_a_directory(tmp_path):
    path = tmp_path / "deep" / "out"
    assert work(path, ONE, "a", until=1) is Outcome.NEW
    assert work(path, ONE, "b") is Outcome.RESUME
    assert texts(path) == ["a", "b", "b"]
    assert work(path, ONE, "c") is Outcome.COMPLETE
    assert work(path, ONE, "d", overwrite=True) is Outcome.REPLACE
    assert texts(path) == ["d"] * 3
    with pytest.raises(OutputError, match=r"deep/out exists .*--steps 4, not 8.*--out.*--overwrite"):
        work(path, TWO, "e")
    assert work(path, TWO, "f", overwrite=True) is Outcome.REPLACE
    assert texts(path) == ["f"] * 3
    assert names(path.parent) == ["out"]


def test_an_unfinished_result_of_other_settings(tmp_path):
    path = tmp_path / "out"
    work(path, ONE, "a", until=2)
    (path / "notes").write_text("mine")
    with pytest.raises(OutputError, match=r"out was started .*--steps 4, not 8.*--overwrite"):
        work(path, TWO, "b")
    assert texts(path) == ["a", "a"]
    assert work(path, TWO, "b", overwrite=True, until=1) is Outcome.NEW
    assert texts(path) == ["b"]
    assert (path / "notes").read_text() == "mine"
    # The same command again resumes, also with --overwrite: nothing finished is there to replace.
    assert work(path, TWO, "c", overwrite=True) is Outcome.RESUME
    assert texts(path) == ["b", "c", "c"]


def test_a_finished_result_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "out"
    work(path, ONE, "old")
    (path / "notes").write_text("mine")
    assert work(path, TWO, "new", overwrite=True, until=1) is Outcome.REPLACE
    assert texts(path) == ["old"] * 3
    assert names(tmp_path) == [".out.new", "out"]
    assert work(path, ONE, "-") is Outcome.COMPLETE  # the old one is still usable
    assert work(path, TWO, "newer", overwrite=True) is Outcome.REPLACE
    assert texts(path) == ["new", "newer", "newer"]
    assert (path / "notes").read_text() == "mine"
    assert names(tmp_path) == ["out"]


def test_a_draft_of_what_is_there_is_removed_and_one_of_other_settings_is_kept(tmp_path):
    path = tmp_path / "out"
    kind = dataclasses.replace(FOLDER, compared=lambda record: {"steps": record["settings"]["steps"]})
    work(path, ONE, "old", kind)
    work(path, ONE, "new", kind, overwrite=True, until=1)
    assert work(path, ONE, "-", kind) is Outcome.COMPLETE
    assert names(tmp_path) == ["out"]
    work(path, TWO, "new", kind, overwrite=True, until=1)
    assert work(path, ONE, "-", kind) is Outcome.COMPLETE
    assert names(tmp_path) == [".out.new", "out"]
    three = {"settings": {"steps": 16}}  # the draft is not of this one either
    work(path, three, "newest", kind, overwrite=True)
    assert texts(path) == ["newest"] * 3


def test_a_training_keeps_its_name_and_the_old_one_is_kept_under_another(tmp_path):
    path, kept = tmp_path / "out", tmp_path / ".out.replaced"
    work(path, ONE, "old", NAMED)
    assert work(path, TWO, "new", NAMED, overwrite=True, until=1) is Outcome.REPLACE
    assert claims.replaced_path(path) == kept
    assert (texts(path), texts(kept)) == (["new"], ["old"] * 3)
    assert work(path, TWO, "newer", NAMED, overwrite=True) is Outcome.RESUME
    assert texts(path) == ["new", "newer", "newer"]
    assert names(tmp_path) == ["out"]
    # Where the new one is given up, the old one is put back.
    work(path, ONE, "third", NAMED, overwrite=True, until=1)
    path.rename(tmp_path / "given up")
    assert work(path, TWO, "-", NAMED) is Outcome.COMPLETE
    assert texts(path) == ["new", "newer", "newer"]


def test_outcomes_of_a_file(tmp_path):
    path = tmp_path / "out.json"
    asked = []

    def record():
        asked.append(1)
        return ONE

    with claim(path, FILE, record) as claimed:
        assert (claimed.outcome, claimed.path) == (Outcome.NEW, path)
        write_json(path, ONE)
    assert asked == []
    for overwrite, outcome in ((False, Outcome.COMPLETE), (True, Outcome.REPLACE)):
        with claim(path, FILE, record, overwrite=overwrite) as claimed:
            assert claimed.outcome is outcome
    assert asked == [1]
    with pytest.raises(OutputError, match="--steps 4, not 8"), claim(path, FILE, TWO):
        pass


def test_a_damaged_result_is_replaced_on_request_only(tmp_path):
    path = tmp_path / "out"
    work(path, ONE, "a")
    write_json(path / "record.json", {**ONE, "complete": True, "damage": "bits have rotted"})
    with pytest.raises(OutputError, match=r"out .*bits have rotted.*--overwrite"):
        work(path, ONE, "b")
    assert work(path, ONE, "b", overwrite=True) is Outcome.REPLACE
    assert texts(path) == ["b"] * 3
    (path / "record.json").write_text("{")
    for overwrite in (False, True):  # it may be anything, so it is not removed
        with pytest.raises(ArtifactError, match=r"record\.json"):
            work(path, ONE, "c", overwrite=overwrite)


# --- paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_paths_that_cannot_be_outputs(tmp_path, monkeypatch, overwrite):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/a.png").touch()
    Path("file").touch()
    os.mkfifo("fifo")
    for kind, path, fault in [
        (FOLDER, "", "working directory"),
        (FOLDER, ".", "working directory"),
        (FILE, "photos/..", "working directory"),
        (FOLDER, "photos", "photos exists and is not a result"),
        (FOLDER, "file", "file exists and is not a result"),
        (FILE, "photos", "photos exists and is a folder"),
        (FILE, "fifo", "fifo exists and is not a regular file"),
        (FILE, "file/x", "file/x: a part of the path is a file"),
        (dataclasses.replace(FILE, suffix=".npz"), "x.txt", r"x\.txt: .*\.npz"),
    ]:
        with pytest.raises(OutputError, match=fault), claim(Path(path), kind, ONE, overwrite=overwrite):
            pass
    assert names(tmp_path) == ["fifo", "file", "photos"]
    assert names(tmp_path / "photos") == ["a.png"]


def test_an_empty_folder_and_one_of_leftovers_are_new(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".record.json.0123456789ab.tmp").touch()
    for name in ("empty", "killed"):
        assert work(tmp_path / name, ONE, "a") is Outcome.NEW


def test_a_link_is_followed(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "scratch" / "out")
    for overwrite in (False, True):
        work(tmp_path / "out", ONE, "a", overwrite=overwrite)
        assert (tmp_path / "out").is_symlink()
        assert texts(tmp_path / "scratch" / "out") == ["a"] * 3
    assert names(tmp_path) == ["out", "scratch"]


# --- locks ------------------------------------------------------------------------------------------

HOLD = """
    import os, pathlib, sys, time
    from maskgit_cli.formats.locks import lock
    with lock(pathlib.Path(sys.argv[1])):
        {inside}
"""


def start_process(code, *arguments):
    """A Python process with the package; what it prints is read line by line."""
    words = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path):
    path = tmp_path / "out"
    holder = start_process(HOLD.format(inside="print('held', flush=True); time.sleep(60)"), path)
    try:
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(OutputError, match=f"out is in use by process {holder.pid} on") as caught:
            work(path, ONE, "a")
        assert socket.gethostname() in str(caught.value)
        assert time.monotonic() - began < 5
        assert names(tmp_path) == [".out.lock"]  # the refused one has removed nothing
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    finally:
        holder.kill()
    assert names(tmp_path) == [".out.lock"]
    assert work(path, ONE, "a") is Outcome.NEW
    assert names(tmp_path) == ["out"]


def test_workers_that_outlive_a_killed_process_are_waited_for(tmp_path):
    path = tmp_path / "out"
    inside = "os.fork() or (time.sleep(1), os._exit(0)); print('held', flush=True); time.sleep(60)"
    holder = start_process(HOLD.format(inside=inside), path)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    assert work(path, ONE, "a") is Outcome.NEW


def test_two_claims_in_one_process(tmp_path):
    path = tmp_path / "out"
    with (
        claim(path, FOLDER, ONE),
        pytest.raises(OutputError, match=f"in use by process {os.getpid()}"),
        claim(path, FOLDER, ONE),
    ):
        pass
    with claim(path, FOLDER, ONE), lock(tmp_path / "other"):
        assert names(tmp_path) == [".other.lock", ".out.lock", "out"]


def test_a_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), claim(tmp_path / "out", FOLDER, ONE):
        raise RuntimeError
    assert names(tmp_path) == ["out"]
    assert work(tmp_path / "out", ONE, "a") is Outcome.RESUME


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, number):
    import fcntl

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    warnings = []
    with claim(tmp_path / "out", FOLDER, ONE, warn=warnings.append) as claimed:
        assert claimed.outcome is Outcome.NEW
    (text,) = warnings
    assert str(tmp_path / "out") in text
    assert "two processes" in text


def test_a_folder_that_cannot_be_written_has_its_lock_inside(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(locks.os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with claim(tmp_path / "out", FOLDER, ONE):
        assert names(tmp_path / "out") == [".lock", "record.json"]
        assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["record.json"]


# --- kills and full disks ---------------------------------------------------------------------------


def test_leftovers_are_removed_and_those_of_others_are_not(tmp_path):
    ours = [".out.0123456789ab.tmp", ".out.ba9876543210.tmp", ".out.lock"]
    others = [".out.tmp", ".out2.0123456789ab.tmp", ".out2.lock", ".out2.old", "out.0123456789ab.tmp"]
    for name in ours + others:
        (tmp_path / name).touch()
    work(tmp_path / "out", ONE, "a")
    assert names(tmp_path) == sorted([*others, "out"])


KILLED = """
    import os, pathlib, signal, sys
    import test_claim
    calls, rename = [], os.rename
    def die(*arguments):
        calls.append(1)
        if len(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*arguments)
    os.rename = die
    test_claim.work(pathlib.Path(sys.argv[1]), test_claim.TWO, "new", getattr(test_claim, sys.argv[3]), True)
"""


@pytest.mark.parametrize(
    ("kind", "moment", "kept"),
    [("FOLDER", 1, "old"), ("FOLDER", 2, "new"), ("FOLDER", 3, "new"), ("NAMED", 1, "old")],
)
def test_a_kill_at_any_rename_leaves_a_complete_result(tmp_path, kind, moment, kept):
    path = tmp_path / "out"
    work(path, ONE, "old", globals()[kind])
    (path / "notes").write_text("mine")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    code = [sys.executable, "-c", textwrap.dedent(KILLED), path, str(moment), kind]
    ended = subprocess.run(code, env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert ended.returncode == -signal.SIGKILL
    record = ONE if kept == "old" else TWO
    assert work(path, record, "-", globals()[kind]) is Outcome.COMPLETE
    assert texts(path) == [kept] * 3
    assert (path / "notes").read_text() == "mine"
    # The command that was killed ends as if it had not been.
    work(path, TWO, "new", globals()[kind], overwrite=True)
    assert texts(path) == ["new"] * 3
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", [FOLDER, NAMED], ids=["folder", "named"])
@pytest.mark.parametrize("call", ["rename", "replace", "fsync", "open"])
@pytest.mark.parametrize("moment", range(1, 6))
def test_a_full_disk_at_any_moment_leaves_a_complete_result(tmp_path, monkeypatch, kind, call, moment):
    path = tmp_path / "out"
    work(path, ONE, "old", kind)
    whole, calls = getattr(os, call), []

    def fail(*arguments, **options):
        calls.append(1)
        if len(calls) >= moment:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with contextlib.suppress(OutputError):
            work(path, TWO, "new", kind, overwrite=True)
    complete = [texts(p) for p in tmp_path.iterdir() if p.is_dir() and (found := find(p)) and found.complete]
    assert ["old"] * 3 in complete or ["new"] * 3 in complete
    work(path, TWO, "new", kind, overwrite=True)
    assert texts(path) == ["new"] * 3
    assert names(tmp_path) == ["out"]


# --- comparing records ------------------------------------------------------------------------------


def parents(*digests):
    return {"parents": [{"kind": kind, "name": "x", "sha256": sha * 64} for kind, sha in digests]}


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ({}, {}, None),
        ({"settings": {"a": [1, 2]}, "version": 1}, {"settings": {"a": (1, 2)}, "created_by": "x"}, None),
        ({"settings": {"cfg_w": 1}}, {"settings": {"cfg_w": 2.5}}, "--cfg-w 1, not 2.5"),
        ({"settings": {}}, {"settings": {"box": [1, 2, 3, 4]}}, "--box none, not 1,2,3,4"),
        ({"settings": {"range": [0, 4]}}, {"settings": {"range": [0, 8]}}, "--range 0:4, not 0:8"),
        (
            {"settings": {"sampler": {"method": "halton"}}},
            {"settings": {"sampler": {"method": "google"}}},
            "--sampler halton, not google",
        ),
        ({"resolution": 64}, {"resolution": 128}, "resolution 64, not 128"),
        ({"net": {"width": 8, "depth": 2}}, {"net": {"width": 8, "depth": 3}}, "net.depth 2, not 3"),
        (parents(("model", "a")), parents(("model", "b")), f"model {'a' * 12}, not {'b' * 12}"),
        (
            parents(("model", "a"), ("model", "b")),
            parents(("model", "a"), ("model", "c")),
            f"model 2 {'b' * 12}, not {'c' * 12}",
        ),
        (parents(("model", "a")), {}, f"model {'a' * 12}, not none"),
        # The setting from which others follow is the one to name.
        (
            {"settings": {"labels_sha256": "x", "seed": 1}},
            {"settings": {"labels_sha256": "y", "seed": 2}},
            "--seed 1, not 2",
        ),
        # All that were changed are named, but not what follows from them.
        (
            {"settings": {"lr": 1, "seed": 1, "a": 0}, "net": {"width": 8}, **parents(("tokens", "a"))},
            {"settings": {"lr": 2, "seed": 2, "a": 0}, "net": {"width": 9}, **parents(("tokens", "b"))},
            f"--lr 1, not 2; --seed 1, not 2; tokens {'a' * 12}, not {'b' * 12}",
        ),
        (
            {"settings": {"seed": 1, "sampler": {"method": "halton", "cfg": 1, "roll": 2}}},
            {"settings": {"seed": 2, "sampler": {"method": "google", "cfg": 2}}},
            "--seed 1, not 2; --sampler halton, not google",
        ),
        (
            {"settings": {"labels": "@f", "labels_sha256": "x"}},
            {"settings": {"labels": "@f", "labels_sha256": "y"}},
            "other classes in the file of --labels @f",
        ),
    ],
)
def test_the_differences_of_two_records(old, new, difference):
    assert record_difference(old, new) == difference
    assert (identity(old) == json.loads(json.dumps(identity(new)))) == (difference is None)


# --- commands ---------------------------------------------------------------------------------------


def test_every_command_that_is_run_again_is_already_complete(
    run, tokens, tokenizer, images, tmp_path, monkeypatch, maskgit
):
    monkeypatch.chdir(tmp_path)
    features = ("--features", "vqgan", "--tokenizer", tokenizer)
    published = (V1.transformer, *V1.tokenizer, "published", "--heads", V1.heads)
    commands = {
        "tokens.h5": ("tokenize", images, "tokens.h5", "--tokenizer", tokenizer, "--workers", 0),
        "model": ("export", run, "model"),
        "published": ("import", *published),
        "v1": ("export", "published", "v1", "--to", "v1"),
        "v1-tokenizer": ("export", "published/tokenizer", "v1-tokenizer", "--to", "v1"),
        "samples/a": ("sample", "model", "--out", "samples/a", "--n", 3),
        "decoded": ("decode", tokens, "decoded", "--tokenizer", tokenizer),
        "ref.npz": ("fid-stats", images, "ref.npz", *features),
        "samples/a/scores.json": ("fid", "samples/a", "--ref", "ref.npz", *features),
        "folder.json": ("fid", "samples/a", "--ref", images, "--out", "folder.json", *features),
        "sheet.png": ("compare", "samples/a", "samples/a", "--out", "sheet.png"),
        "sweep": (
            "sweep",
            "model",
            "--out",
            "sweep",
            "--steps",
            "1,2",
            "--n",
            2,
            "--ref",
            "ref.npz",
            *features[:2],
        ),
    }
    for out, words in commands.items():
        first = maskgit(*words)
        assert first.status == 0, first.stderr
        before = Path(out).stat().st_mtime_ns
        again = maskgit(*words)
        assert (again.status, again.stdout) == (0, first.stdout), again.stderr
        assert out in again.stderr
        assert "already" in again.stderr
        assert Path(out).stat().st_mtime_ns == before
        if out != "samples/a":  # which is scored and compared
            assert maskgit(*words, "--overwrite").status == 0
    other = maskgit("fid-stats", images / "cat", "ref.npz", *features)  # the same settings and name of folder
    assert other.status == 1
    assert "ref.npz exists" in other.stderr
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize("what", ["builtin", "run", "tokens", "tokenizer"])
def test_info_does_not_import_torch(run, tokens, tokenizer, what):
    path = {"run": run, "tokens": tokens, "tokenizer": tokenizer}.get(what, what)
    code = """
        import sys
        from maskgit_cli.cli import main
        try:
            main(["info", sys.argv[1], "--json"])
        except SystemExit as end:
            assert end.code == 0
        assert "torch" not in sys.modules
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["kind"]
