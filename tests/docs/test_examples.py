"""The scripts under examples/ run as they are, on miniatures: two classes, a tiny network, two steps."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT
from PIL import Image

from maskgit_cli.cli import COMMANDS, group
from maskgit_cli.formats.atomic import read_json
from maskgit_cli.formats.runs import newest_checkpoint
from maskgit_cli.formats.tokens import open_tokens

EXAMPLES = ROOT / "examples"
IDS = ["n01440764", "n02119789"]

pytestmark = [
    pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts are for bash"),
    pytest.mark.timeout(600),  # a dozen commands, each of which starts Python
]


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path):
    """Variables of a script's process, whose ``maskgit`` is this one; programs in bin/ come first."""
    executable(tmp_path / "bin" / "maskgit", f'#!/bin/sh\nexec "{sys.executable}" -m maskgit_cli "$@"\n')
    others = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    python = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return others | {"PATH": path, "PYTHONPATH": python, "MASKGIT_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def call(script, *words, cwd, env, **changes):
    done = subprocess.run(
        ["bash", str(EXAMPLES / script), *map(str, words)],
        cwd=cwd, env=env | changes, capture_output=True, text=True,
    )  # fmt: skip
    return done


def parse(words):
    """Parse a call without running it, as tests/docs/test_docs.py does."""
    with group.make_context("maskgit", list(words)) as above:
        rest = [*above._protected_args, *above.args]
        name, command, rest = group.resolve_command(above, rest)
        command.make_context(name, rest, parent=above).close()


def make_imagenet(root):
    """Two classes in Kaggle's layout: four training images each, and three validation images."""
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    places = [data / "train" / word / f"{word}_{i}.JPEG" for word in IDS for i in range(4)]
    names = [f"ILSVRC2012_val_{i:08d}" for i in (1, 2, 3)]
    for number, path in enumerate([*places, *(data / "val" / f"{name}.JPEG" for name in names)]):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 72), (20 * number, 200, 255 - 20 * number)).save(path)
    rows = [f"{name},{IDS[i % 2]} 1 1 9 9" for i, name in enumerate(names, 1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")


# Notes its arguments, each with a zero behind it, and a line feed behind the last one.
NOTE = "#!/bin/sh\nprintf '%s\\0' \"$@\" >> calls; echo >> calls\n"


def test_the_papers_experiments(tmp_path, environment, maskgit, monkeypatch):
    """The script's own commands, run in this process: as processes they would take minutes."""
    make_imagenet(tmp_path / "imagenet")
    executable(tmp_path / "bin" / "maskgit", NOTE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    environment |= {"MASKGIT_MINIATURE": "1"}
    for script, changes in (("imagenet256.sh", {}), ("imagenet512.sh", {"INIT_FROM": "imagenet256/run"})):
        done = call(script, cwd=tmp_path, env=environment, **changes)
        assert done.returncode == 0, done.stderr
        lines = Path("calls").read_text().splitlines()
        Path("calls").unlink()
        for line in lines:
            procs, one, *words = line.split("\0")[:-1]
            assert (procs, one) == ("--procs", "1")
            assert maskgit(*words).status == 0, words
        out = tmp_path / script.removesuffix(".sh")
        assert newest_checkpoint(out / "run").name == "step-00000002"
        val, train = open_tokens(out / "val.h5"), open_tokens(out / "train.h5")
        assert val.meta.class_names == train.meta.class_names == IDS
        assert list(val.labels) == [1, 0, 1]
        assert json.loads((out / "samples" / "scores.json").read_text())


@pytest.mark.parametrize("script", ["imagenet256.sh", "imagenet512.sh"])
def test_the_commands_of_the_whole_experiments(tmp_path, environment, script):
    """They have existing options, with values of their types; the model is downloaded once."""
    executable(tmp_path / "bin" / "maskgit", NOTE)
    assert call(script, cwd=tmp_path, env=environment, PROCS="4").returncode == 0
    calls = [line.split("\0")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]
    for words in calls:
        parse(words)
    names = [next(word for word in words if word in COMMANDS) for words in calls]
    assert names == ["pull", "tokenize", "tokenize", "train", "train", "sample", "fid-stats", "fid"]
    assert all(words[:2] == ["--procs", "4"] for words in calls[1:])
    (tmp_path / "models" / "maskgit-256").mkdir(parents=True)
    (tmp_path / "calls").unlink()
    assert call(script, cwd=tmp_path, env=environment).returncode == 0
    assert "pull" not in (tmp_path / "calls").read_text().split("\0")


# Two tasks on one node, as srun starts them; scontrol lists the node, and notes what is requeued.
SRUN = """#!/usr/bin/env bash
[[ $1 == --wait=* ]] && shift
pids=() status=0
for rank in 0 1; do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""
SCONTROL = '#!/bin/sh\nif [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> requeued; fi\n'


@pytest.fixture
def slurm(tmp_path, environment):
    executable(tmp_path / "bin" / "srun", SRUN)
    executable(tmp_path / "bin" / "scontrol", SCONTROL)
    return environment | {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1]",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "ACCELERATE_USE_CPU": "true",
    }


def test_a_slurm_job(tmp_path, slurm, tokens):
    words = ["--size", "tiny", "--steps", 2, "--batch-size", 4, "--preview-every", 0]
    done = call("slurm_train.sh", tokens, "run", *words, cwd=tmp_path, env=slurm)
    assert done.returncode == 0, done.stderr
    assert newest_checkpoint(tmp_path / "run").name == "step-00000002"
    assert done.stdout == "run\n"  # of rank 0 alone
    assert not (tmp_path / "requeued").exists()
    assert read_json(tmp_path / "run" / "config.json", "a run")["settings"]["batch_size"] == 4


@pytest.mark.parametrize(("status", "requeued"), [(130, True), (1, False), (0, False)])
def test_an_interrupted_slurm_job_is_requeued(tmp_path, slurm, status, requeued):
    executable(tmp_path / "bin" / "maskgit", f"#!/bin/sh\nexit {status}\n")
    done = call("slurm_train.sh", "tokens.h5", "run", cwd=tmp_path, env=slurm)
    assert done.returncode == status
    note = tmp_path / "requeued"
    assert note.exists() == requeued
    assert not requeued or note.read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script: Path):
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)
