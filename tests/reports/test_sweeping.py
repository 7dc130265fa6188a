"""Stage `sweep`: points equal separate commands, resuming, refusals, commands that reproduce a point."""

import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import make_model
from tiny_training import train_tiny

from maskgit_cli.config.stages import SampleConfig, ScoreConfig, SweepConfig
from maskgit_cli.data.sources import open_source
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, OutputError, WeightsError
from maskgit_cli.formats.feature_statistics import read_statistics
from maskgit_cli.formats.samples import open_samples, read_record
from maskgit_cli.formats.sweeps import read_sweep, write_sweep
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.reports import sweeping
from maskgit_cli.reports.sweeping import sweep
from maskgit_cli.sampling.images import sample
from maskgit_cli.scoring.stages import fid_stats, score

SCORING = ScoreConfig(features="vqgan", metrics=("fid",))
SWEPT = {"steps": [2, 3], "cfg": [0.0, 3.0]}
CONFIG = SweepConfig(n=8, seed=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


def run_sweep(model, images, out, swept=SWEPT, config=CONFIG, scoring=SCORING, **extra):
    models = model if isinstance(model, list) else [model]
    return sweep(models, swept, images, out, config, scoring, device="cpu", **extra)


@pytest.fixture(scope="module")
def whole(model, images, tmp_path_factory):
    """A sweep that was not interrupted."""
    return run_sweep(model, images, tmp_path_factory.mktemp("whole") / "sweep").path


def contents(path: Path) -> dict[str, str]:
    """Digest of every file below a folder, hidden ones included; durations are left out."""
    found = {}
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        data = file.read_bytes()
        if file.name == "sweep.json":
            data = re.sub(rb'"(seconds": [\d.]+|record_sha256": "\w+")', b"", data)
        if file.name == "sweep.csv":
            data = b"\n".join(line.rpartition(b",")[0] for line in data.splitlines())
        found[str(file.relative_to(path))] = hashlib.sha256(data).hexdigest()
    return found


def test_every_point_is_what_sample_and_fid_make(model, images, whole, tmp_path):
    record = read_sweep(whole)
    assert record["complete"]
    assert [point["values"] for point in record["points"]] == [
        {"steps": steps, "cfg": cfg} for steps in (2, 3) for cfg in (0.0, 3.0)
    ]
    for point in record["points"]:
        place = tmp_path / point["name"]
        sample(model, place, SampleConfig(n=8, seed=4), point["values"], device="cpu")
        mine = score(place, images, SCORING, tokenizer=model, device="cpu").record
        assert point["metrics"] == mine["metrics"]
        assert point["n"] == 8
        kept = open_samples(whole / "points" / point["name"])
        assert (kept.tokens.codes == open_tokens(place / "tokens.h5").codes).all()
        assert kept.record["settings"]["sampler"] == point["sampler"]
        assert len(open_source(kept.path, model)) == 8  # `decode` and `fid` can read them
    assert len({json.dumps(point["metrics"]) for point in record["points"]}) == 4


def test_the_table_and_the_plots(whole):
    with open(whole / "sweep.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    points = read_sweep(whole)["points"]
    bounds = ["frechet_vqgan_low", "frechet_vqgan_high"]
    assert list(lines[0]) == ["point", "steps", "cfg", "n", "frechet_vqgan", *bounds, "seconds"]
    for line, point in zip(lines, points, strict=True):
        assert line["point"] == point["name"]
        assert (int(line["steps"]), float(line["cfg"])) == tuple(point["values"].values())
        assert float(line["frechet_vqgan"]) == point["metrics"]["frechet_vqgan"]
        assert [float(line[name]) for name in bounds] == point["spread"]["frechet_vqgan"]
        assert float(line[bounds[0]]) < float(line["frechet_vqgan"]) < float(line[bounds[1]])
        assert float(line["seconds"]) > 0
    assert {file.name for file in (whole / "plots").iterdir()} == {"by-steps.png", "by-cfg.png"}


@pytest.fixture(scope="module")
def distinct(model, tmp_path_factory):
    """A sweep whose points differ by far more than the samples do: the reference is of one of them."""
    root = tmp_path_factory.mktemp("distinct")
    sample(model, root / "ref", SampleConfig(n=8, seed=9), {"steps": 2, "sm_temp": 20.0}, device="cpu")
    return run_sweep(model, root / "ref", root / "sweep", {"sm_temp": [0.01, 20.0]}).path


def test_the_best_point_and_the_commands_reproducing_it(distinct, model, tmp_path, maskgit, monkeypatch):
    record = read_sweep(distinct)
    (best,) = record["best"]
    assert (best["point"], best["within_spread"]) == ("sm-temp=20", [])
    scores = {point["name"]: point["metrics"]["frechet_vqgan"] for point in record["points"]}
    assert best["metric"] == "frechet_vqgan"
    assert best["value"] == min(scores.values()) == scores[best["point"]]
    monkeypatch.chdir(tmp_path)
    for command in best["commands"]:
        name, *words = shlex.split(command)
        assert name == "maskgit"
        done = maskgit(*words, "--json")
        assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["frechet_vqgan"] == best["value"]


def test_no_best_point_within_the_spread_of_the_samples(whole):
    """Four points of eight samples by a random model; their intervals overlap."""
    record = read_sweep(whole)
    (best,) = record["best"]
    scores = {point["name"]: point["metrics"]["frechet_vqgan"] for point in record["points"]}
    assert (best["metric"], best["point"], best["value"], best["commands"]) == (
        "frechet_vqgan",
        None,
        None,
        [],
    )
    assert len(best["within_spread"]) > 1
    assert best["within_spread"][0] == min(scores, key=scores.get)
    assert set(best["within_spread"]) <= scores.keys()


def test_intervals_are_those_of_the_replicates(whole):
    for point in read_sweep(whole)["points"]:
        with np.load(whole / "bootstrap" / f"{point['name']}.npz") as file:
            replicates = file["frechet_vqgan"]
        assert point["spread"]["frechet_vqgan"] == pytest.approx(np.quantile(replicates, [0.025, 0.975]))
        assert replicates.mean() == pytest.approx(point["metrics"]["frechet_vqgan"], rel=0.05)


def test_a_point_without_replicates_is_scored_again(model, images, whole, tmp_path):
    """As in a sweep that an earlier version of this package began."""
    shutil.copytree(whole, tmp_path / "s")
    record = read_sweep(whole)
    record |= {"complete": False, "best": []}
    record["points"][1]["spread"] = None
    write_sweep(tmp_path / "s", record)
    (tmp_path / "s" / "bootstrap" / "steps=2,cfg=3.npz").unlink()
    done = run_sweep(model, images, tmp_path / "s")
    assert contents(done.path) == contents(whole)


# --- interruptions ----------------------------------------------------------------------------------


FEW = {"steps": [1, 2]}


@pytest.fixture(scope="module")
def uninterrupted(model, images, tmp_path_factory):
    """Contents of uninterrupted sweeps of few points, by what is kept."""
    root = tmp_path_factory.mktemp("uninterrupted")
    return {
        keep: contents(run_sweep(model, images, root / keep / "s", FEW, SweepConfig(n=6, keep=keep)).path)
        for keep in ("images", "tokens", "none")
    }


def test_what_is_kept(uninterrupted):
    names = {keep: {Path(name).name for name in files} for keep, files in uninterrupted.items()}
    assert {"tokens.h5", "scores.json", "000005.png"} <= names["images"]
    assert {"tokens.h5", "scores.json"} <= names["tokens"]
    assert "000005.png" not in names["tokens"]
    assert set(uninterrupted["none"]) == {
        "bootstrap/steps=1.npz",
        "bootstrap/steps=2.npz",
        "reference.npz",
        "sweep.csv",
        "sweep.json",
        "plots/by-steps.png",
    }


@pytest.mark.parametrize(
    ("stage", "call", "keep"),
    [
        ("fid_stats", 1, "tokens"),
        ("sample", 2, "images"),
        ("sample", 2, "tokens"),
        ("score_and_resample", 1, "none"),
        ("score_and_resample", 2, "images"),
        ("write_replicates", 1, "none"),
        ("write_replicates", 2, "tokens"),
        ("write_sweep", 1, "none"),
        ("write_sweep", 2, "tokens"),
        ("remove_directory", 1, "none"),
        ("remove_directory", 2, "none"),
        ("write_bytes", 1, "tokens"),
        ("write_sweep", 3, "tokens"),
    ],
)
def test_interruptions_anywhere(model, images, uninterrupted, tmp_path, monkeypatch, stage, call, keep):
    """Whatever step is interrupted, the next call ends in the same files."""
    config, out = SweepConfig(n=6, keep=keep), tmp_path / "s"
    original, calls = getattr(sweeping, stage), []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, stage, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(model, images, out, FEW, config)
    assert read_sweep(out)["complete"] is False
    run_sweep(model, images, out, FEW, config)
    assert contents(out) == uninterrupted[keep]


def test_finished_points_are_not_sampled_again(model, images, tmp_path, monkeypatch):
    original, sampled = sweeping.sample, []

    def counted(*args, **kwargs):
        sampled.append(args[1].name)
        if len(sampled) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(sweeping, "sample", counted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(model, images, tmp_path / "s")
    assert len((tmp_path / "s" / "sweep.csv").read_text().splitlines()) == 3
    assert run_sweep(model, images, tmp_path / "s").resumed
    assert len(sampled) == 5
    assert run_sweep(model, images, tmp_path / "s").resumed
    assert len(sampled) == 5


# Runs a sweep, and kills the process at the third point, between its samples and its scores.
KILLED = """
import os, signal, sys
from pathlib import Path
from maskgit_cli import ScoreConfig, SweepConfig
from maskgit_cli.reports import sweeping

score, calls = sweeping.score_and_resample, []

def killed_at_the_third(*args, **kwargs):
    calls.append(args)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return score(*args, **kwargs)

sweeping.score_and_resample = killed_at_the_third
model, images, out = map(Path, sys.argv[1:])
scoring = ScoreConfig(features="vqgan", metrics=("fid",))
swept = {"steps": [2, 3], "cfg": [0.0, 3.0]}
sweeping.sweep([model], swept, images, out, SweepConfig(n=8, seed=4), scoring, device="cpu")
"""


def test_after_sigkill_the_same_call_gives_the_same_bytes(model, images, whole, tmp_path):
    path = tmp_path / "sweep"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, model, images, path],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    record = read_sweep(path)
    assert [point["metrics"] is not None for point in record["points"]] == [True, True, False, False]
    assert (path / "points" / "steps=3,cfg=0" / "settings.json").exists()
    result = run_sweep(model, images, path)
    assert result.resumed
    assert contents(path) == contents(whole)


# --- what can be swept ------------------------------------------------------------------------------


def test_samplers_with_their_own_settings(model, images, tmp_path):
    done = run_sweep(model, images, tmp_path / "a", {"sampler": ["halton", "google"], "steps": [2, 4]})
    assert [(p["sampler"]["method"], p["sampler"]["steps"]) for p in done.record["points"]] == [
        ("halton", 2), ("halton", 4), ("google", 2), ("google", 4)
    ]  # fmt: skip
    swept = {"preset": ["raster", "paper-256"], "cfg_interval": [(0.0, 1.0), (0.5, 1.0)]}
    done = run_sweep(model, images, tmp_path / "b", swept)
    assert [(p["sampler"]["method"], p["sampler"]["cfg_interval"]) for p in done.record["points"]] == [
        ("raster", [0, 1]), ("raster", [0.5, 1]), ("confidence", [0, 1]), ("confidence", [0.5, 1])
    ]  # fmt: skip
    assert (tmp_path / "b" / "sweep.csv").read_text().splitlines()[2].startswith('"preset=raster,')
    assert ",raster,0.5:1,8," in (tmp_path / "b" / "sweep.csv").read_text()


def test_checkpoints_of_a_run(tokens, images, tmp_path):
    """The paper's figure ablates training too: several checkpoints are a swept setting."""
    run = train_tiny(tokens, tmp_path / "run", steps=6, checkpoint_every=3, keep=2)
    models = sorted((run / "checkpoints").iterdir())
    done = run_sweep(models, images, tmp_path / "s", {"steps": [2]})
    assert [point["values"]["model"] for point in done.record["points"]] == ["step-00000003", "step-00000006"]
    first, last = (point["metrics"] for point in done.record["points"])
    assert first != last
    sample(run, tmp_path / "newest", SampleConfig(n=8, seed=4), {"steps": 2}, device="cpu")
    newest = open_tokens(tmp_path / "newest" / "tokens.h5").codes
    point = tmp_path / "s" / "points" / "model=step-00000006" / "tokens.h5"
    assert (open_tokens(point).codes == newest).all()
    assert (tmp_path / "s" / "plots" / "by-model.png").exists()


def test_precision_and_recall_when_asked_for(model, images, tmp_path):
    scoring = ScoreConfig(features="vqgan", metrics=("fid", "prdc", "is"))
    done = run_sweep(model, images, tmp_path / "s", {"steps": [1, 2]}, scoring=scoring)
    assert {best["metric"].removesuffix("_vqgan") for best in done.record["best"]} == {
        "frechet", "precision", "recall", "density", "coverage"
    }  # fmt: skip
    assert all("is" in point["left_out"] for point in done.record["points"])
    assert (tmp_path / "s" / "plots" / "precision-vqgan-against-recall-vqgan.png").exists()


def test_a_sweep_whose_metrics_are_all_left_out_ends_without_plots(model, images, tmp_path):
    config = ScoreConfig(features="vqgan", metrics=("kid",))
    done = sweep(
        [model], {"steps": [1, 2]}, images, tmp_path / "sweep", SweepConfig(n=4), config, device="cpu"
    )
    assert all(point["left_out"].keys() == {"kid"} for point in done.record["points"])
    assert not [*(tmp_path / "sweep" / "plots").glob("*.png")]


def test_photographs_are_cropped_to_the_resolution_of_the_samples(model, images, tmp_path):
    large = tmp_path / "large"
    large.mkdir()
    for i, path in enumerate(sorted(images.rglob("*.png"))):
        Image.open(path).resize((40, 40)).save(large / f"{i}.png")
    sweep([model], {"steps": [1]}, large, tmp_path / "sweep", SweepConfig(n=4), SCORING, device="cpu")
    assert read_statistics(tmp_path / "sweep" / "reference.npz").resolution == 16


def test_statistics_serve_as_they_are(model, images, whole, tmp_path):
    ref = fid_stats([images], tmp_path / "ref.npz", SCORING, tokenizer=model, device="cpu")
    done = run_sweep(model, ref, tmp_path / "s")
    assert not (tmp_path / "s" / "reference.npz").exists()
    assert [point["metrics"] for point in done.record["points"]] == [
        point["metrics"] for point in read_sweep(whole)["points"]
    ]


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("swept", "named"),
    [
        ({"steps": [4, 17]}, ["--steps 17"]),
        ({"steps": [0]}, ["--steps 0"]),
        ({"sampler": ["confidence", "halton"], "gumbel_temp": [1.0]}, ["--gumbel-temp", "halton"]),
        ({"sampler": ["raster"], "steps": [4]}, ["--steps", "raster"]),
        ({"schedule": ["arccos", "wavy"]}, ["--schedule wavy"]),
        ({"cfg_interval": [(0.5, 0.2)]}, ["--cfg-interval 0.5:0.2"]),
        ({}, ["no parameter to sweep"]),
    ],
)
def test_an_invalid_combination_is_found_before_sampling(model, images, tmp_path, swept, named):
    with pytest.raises(ConfigError) as error:
        run_sweep(model, images, tmp_path / "s", swept)
    assert all(text in str(error.value) for text in named), error.value
    assert list(tmp_path.iterdir()) == []


def test_guidance_without_classes_is_refused(images, tmp_path):
    plain = make_model(tmp_path / "plain", names=[], classes=0)
    with pytest.raises(ConfigError, match="--cfg 3"):
        run_sweep(plain, images, tmp_path / "s", {"cfg": [0.0, 3.0]})


def test_other_refusals(model, images, whole, tmp_path):
    out = tmp_path / "s"
    with pytest.raises(InputError, match=r"--ref .*nowhere"):
        run_sweep(model, tmp_path / "nowhere", out)
    with pytest.raises(ConfigError, match="--labels bat"):
        run_sweep(model, images, out, config=SweepConfig(n=8, labels="bat"))
    with pytest.raises(ConfigError, match="tiny"):
        run_sweep([model, model], images, out)
    other = make_model(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="--features vqgan"):
        run_sweep([model, other], images, out)
    assert not out.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear all,")
    with pytest.raises(OutputError, match="mine"):
        run_sweep(model, images, tmp_path / "mine", overwrite=True)
    stats = fid_stats([images], tmp_path / "ref.npz", SCORING, tokenizer=other, device="cpu")
    with pytest.raises(ArtifactError, match=r"ref\.npz"):
        run_sweep(model, stats, out)
    np.savez(tmp_path / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(ConfigError, match=r"--ref .*adm\.npz.*--features vqgan"):
        run_sweep(model, tmp_path / "adm.npz", out, overwrite=True)


def test_missing_weights_are_an_error_before_sampling(model, images, tmp_path, monkeypatch):
    """Of a reference that is statistics already, too."""
    np.savez(tmp_path / "adm.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    (tmp_path / "bad.pth").write_text("not weights")
    monkeypatch.setattr(sweeping, "sample", None)
    for ref in (images, tmp_path / "adm.npz"):
        with pytest.raises(WeightsError, match=r"bad\.pth"):
            run_sweep(
                model, ref, tmp_path / f"s-{ref.stem}", scoring=ScoreConfig(), inception=tmp_path / "bad.pth"
            )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": SweepConfig(n=9, seed=4)}, ["--n 8", "9"]),
        ({"config": SweepConfig(n=8)}, ["--seed 4", "0"]),
        ({"swept": {**SWEPT, "steps": [2, 3, 4]}}, ["--steps 2,3", "2,3,4"]),
        ({"scoring": ScoreConfig(features="vqgan", metrics=("fid", "prdc"))}, ["--metrics"]),
        ({"dtype": "bf16"}, ["--dtype fp32", "bf16"]),
    ],
)
def test_other_settings_over_a_sweep_are_named(model, images, whole, tmp_path, change, named):
    shutil.copytree(whole, tmp_path / "s")
    before = contents(tmp_path / "s")
    with pytest.raises(OutputError) as error:
        run_sweep(model, images, tmp_path / "s", **change)
    assert all(text in str(error.value) for text in named), error.value
    assert contents(tmp_path / "s") == before


def test_labels_from_a_file_that_has_changed(model, images, tmp_path):
    (tmp_path / "labels").write_text("0\n2\n")
    config = SweepConfig(n=2, labels=f"@{tmp_path / 'labels'}")
    run_sweep(model, images, tmp_path / "s", {"steps": [1]}, config)
    (tmp_path / "labels").write_text("0\n1\n")
    with pytest.raises(OutputError, match="--labels @"):
        run_sweep(model, images, tmp_path / "s", {"steps": [1]}, config)


def test_overwrite_replaces_the_sweep_and_leaves_other_files(model, images, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "s")
    (tmp_path / "s" / "points" / "mine").mkdir()
    (tmp_path / "s" / "notes.txt").write_text("precious")
    done = run_sweep(model, images, tmp_path / "s", {"steps": [2, 3]}, overwrite=True)
    assert [point["name"] for point in done.record["points"]] == ["steps=2", "steps=3"]
    assert {path.name for path in (tmp_path / "s" / "points").iterdir()} == {"steps=2", "steps=3", "mine"}
    assert {path.name for path in (tmp_path / "s" / "plots").iterdir()} == {"by-steps.png"}
    assert (tmp_path / "s" / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("damage", ["points", "settings", "swept", "metrics", "json"])
def test_a_damaged_record_is_named(model, images, whole, tmp_path, damage):
    record = read_sweep(whole)
    if damage == "swept":
        del record["settings"]["swept"]
    elif damage == "metrics":
        del record["points"][1]["metrics"]
    else:
        record.pop(damage, None)
    (tmp_path / "s").mkdir()
    text = json.dumps(record)[: 100 if damage == "json" else None]
    (tmp_path / "s" / "sweep.json").write_text(text)
    for overwrite in (False, True):
        with pytest.raises(ArtifactError, match=r"sweep\.json"):
            run_sweep(model, images, tmp_path / "s", overwrite=overwrite)
    assert (tmp_path / "s" / "sweep.json").read_text() == text


# --- the command ------------------------------------------------------------------------------------


def test_the_command_takes_lists_and_aliases(model, images, tmp_path, maskgit, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--ref", images, "--features", "vqgan", "--n", 6, "--device", "cpu")
    done = maskgit("sweep", model, "--gumbel", "0:4.5:4.5", "--schedule", "root,pow3", *words, "--json")
    assert done.status == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["settings"]["swept"] == {"gumbel_temp": [0.0, 4.5], "schedule": ["root", "pow3"]}
    assert record["path"] == "sweep"
    assert "best frechet_vqgan" in done.stderr
    facts = json.loads(maskgit("info", "sweep", "--json").stdout)
    assert (facts["kind"], facts["complete"], facts["points"], facts["scored"]) == (
        "maskgit-sweep",
        True,
        4,
        4,
    )
    (best,) = record["best"]
    assert best["point"] is None
    count = len(best["within_spread"])
    assert f"no best frechet_vqgan: {count} points within the spread of the samples: " in done.stderr
    assert all(name in done.stderr for name in best["within_spread"])
    assert facts["best"]["frechet_vqgan"] == f"none: {count} points within the spread of the samples"
    assert done.stderr.count("covariance is singular") <= 2
    again = maskgit("sweep", model, "--schedule", "root,pow3", "--gumbel-temp", "0,4.5", *words)
    assert (again.status, again.stdout) == (0, "sweep\n")
    assert "--overwrite" in again.stderr
    few = ("--ref", images, "--features", "vqgan", "--n", 6, "--device", "cpu", "--out", "one", "--steps", 2)
    done = maskgit("sweep", model, *few, "--json")
    (best,) = json.loads(done.stdout)["best"]
    assert (
        f"best frechet_vqgan: {best['value']:.6g} with steps=2" in done.stderr
    )  # one point alone is the best
    assert best["commands"][0] in done.stderr
    assert "steps=2" in json.loads(maskgit("info", "one", "--json").stdout)["best"]["frechet_vqgan"]
    assert read_record(tmp_path / "sweep" / "points" / "gumbel-temp=0,schedule=root")["complete"]


def test_the_example_that_reproduces_the_papers_figure(tokens, images, tmp_path, maskgit):
    """The script's commands are recorded and run here: five sweeps, the last over checkpoints."""
    run = train_tiny(tokens, tmp_path / "run", steps=4, checkpoint_every=2, keep=2)
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "maskgit"
    shim.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" END >> "{tmp_path}/calls"\n')
    shim.chmod(0o755)
    script = Path(__file__).parent.parent.parent / "examples" / "figure2.sh"
    extra = ("--features", "vqgan", "--metrics", "fid", "--device", "cpu")
    subprocess.run(
        ["bash", script, run, images, tmp_path / "out", "4", *extra],
        check=True,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
    )
    calls = [call.split("\n") for call in (tmp_path / "calls").read_text().split("\nEND\n") if call]
    points = {}
    for words in calls:
        done = maskgit(*words, "--quiet")
        assert done.status == 0, done.stderr
        points[Path(done.stdout.strip()).name] = len(read_sweep(Path(done.stdout.strip()))["points"])
    assert points == {"steps": 6, "guidance": 7, "gumbel": 7, "schedule": 5, "training": 2}
