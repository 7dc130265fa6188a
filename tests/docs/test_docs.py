"""The documents are correct: commands run, tables describe the files, links have targets."""

import ast
import importlib
import json
import pkgutil
import re
import shlex
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import click
import h5py
import numpy as np
import pytest
import torch
from documents import CODE, ROOT, Block, Document, Specification, check_shape
from PIL import Image
from published import GOOGLE
from safetensors.numpy import load_file
from tiny_training import train_tiny, train_tiny_vqgan

import maskgit_cli
from maskgit_cli import formats as artifacts
from maskgit_cli.cli import COMMANDS, group, main
from maskgit_cli.config.features import EXTRACTORS
from maskgit_cli.config.inpaint import Box, InpaintConfig
from maskgit_cli.config.metrics import METRICS, score_of
from maskgit_cli.config.networks import SIZES, TOKENIZER_SIZES, Size
from maskgit_cli.config.samplers import PRESETS
from maskgit_cli.config.stages import SampleConfig, ScoreConfig, SweepConfig, TokenizeConfig
from maskgit_cli.data.decoding import decode
from maskgit_cli.data.tokenizing import tokenize
from maskgit_cli.formats.atomic import read_json
from maskgit_cli.formats.feature_statistics import Statistics, moments_of, write_statistics
from maskgit_cli.formats.models import builtin_images, builtin_model, builtin_tokenizer
from maskgit_cli.formats.scores import write_scores
from maskgit_cli.networks.vqgan import VQGAN
from maskgit_cli.reports.sweeping import sweep
from maskgit_cli.sampling.images import sample
from maskgit_cli.sampling.inpaint.inpainting import inpaint
from maskgit_cli.scoring import perceptual
from maskgit_cli.scoring.details import details_of
from maskgit_cli.scoring.stages import fid_stats, score
from maskgit_cli.training import measures, objective
from maskgit_cli.weights.exporting import export
from maskgit_cli.weights.importing import import_weights

README = Document(ROOT / "README.md")
FORMATS = Document(ROOT / "docs" / "artifacts.md")
DOCUMENTS = [README, *(Document(path) for path in sorted((ROOT / "docs").glob("*.md")))]
RUN, PARSED, PYTHON, EDITS = "sh", ("bash", ""), "python", "csv"
IDS = [document.path.name for document in DOCUMENTS]


# --- blocks -----------------------------------------------------------------------------------------


def commands(block: Block) -> list[list[str]]:
    """The arguments of each ``maskgit`` call in a shell block."""
    calls = []
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\|", line):
            words = shlex.split(part, comments=True) if part.strip().startswith("maskgit ") else []
            if words:
                calls.append(words[1:])
    return calls


def run(words: list[str], where: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0, f"{where}: maskgit {shlex.join(words)} ended with {end.value.code}"


def unpack_images(folder: Path, texts: str) -> None:
    """Three of the built-in images of each class, and those that a document names."""
    with zipfile.ZipFile(builtin_images()) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        classes = sorted({name.split("/")[0] for name in names})
        few = [name for kind in classes for name in [n for n in names if n.startswith(f"{kind}/")][:3]]
        archive.extractall(folder, sorted({*few, *(name for name in names if name in texts)}))


@pytest.mark.timeout(600)  # the README alone is 30 commands
@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_blocks_run(document, tmp_path, monkeypatch):
    """Every call in sh blocks succeeds and Python blocks run, in order, in a folder with the images.

    Python blocks share their names, and a CSV is the manifest of `inpaint`.
    """
    blocks = [block for block in document.blocks if block.language in (RUN, PYTHON, EDITS)]
    if any(block.language == RUN for block in blocks):
        unpack_images(tmp_path / "maskgit-demo" / "images", "".join(block.text for block in blocks))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    monkeypatch.setitem(SIZES, "tiny", Size(32, 2, 4, 64))  # the training need not converge
    names = {"__name__": "__main__"}
    for block in blocks:
        where = f"{document.path.name}:{block.line}"
        if block.language == PYTHON:
            exec(compile(block.text, where, "exec"), names)
            continue
        if block.language == EDITS:
            Path("edits.csv").write_text(block.text)
            continue
        calls = commands(block)
        whole = block.text.replace("\\\n", " ").splitlines()
        lines = [line for line in whole if line.strip() and not line.startswith("#")]
        assert len(calls) == len(lines), f"{where}: only lines of maskgit can be run"
        for words in calls:
            run(words, where)


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_blocks_parse(document):
    """Calls that are too large to run have existing commands and options, with values of their types."""
    for block in document.blocks:
        assert block.language in (RUN, *PARSED, PYTHON, EDITS, "json", "text"), (
            f"{document.path.name}:{block.line}"
        )
        if block.language == PYTHON:
            ast.parse(block.text)
        for words in commands(block) if block.language in PARSED else []:
            try:
                parse(words)
            except click.ClickException as error:
                where = f"{document.path.name}:{block.line}"
                pytest.fail(f"{where}: maskgit {shlex.join(words)}: {error.format_message()}", pytrace=False)


def parse(words: list[str]) -> None:
    with group.make_context("maskgit", list(words)) as above:
        rest = [*above._protected_args, *above.args]
        name, command, rest = group.resolve_command(above, rest)
        command.make_context(name, rest, parent=above).close()


def test_usage_errors_are_found():
    """The parser of the previous test is not too lenient."""
    for words in (["no-such"], ["train", "t.h5", "--no-such"], ["train", "t.h5", "--steps", "x"], ["train"]):
        with pytest.raises(click.UsageError):
            parse(words)
    assert commands(Block("", "pip install . && maskgit demo\nmaskgit info \\\n  x # y\n", 1)) == [
        ["demo"],
        ["info", "x"],
    ]


# --- names ------------------------------------------------------------------------------------------


def test_every_command_is_in_the_readme():
    words = [name.split()[1] for name in README.column("commands")]
    assert sorted(words) == sorted(COMMANDS)


@pytest.mark.parametrize("text", README.column("commands"))
def test_the_readme_shows_the_arguments(text):
    _, name, *words = text.split(" --")[0].split()
    command = group.get_command(click.Context(group), name)
    _, *arguments = command.collect_usage_pieces(click.Context(command))
    assert [word.rstrip("/") for word in words] == arguments


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(document):
    for link in document.links():
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        assert target.exists(), f"{document.path.name} links to {link}"
        if anchor:
            assert anchor in Document(target).tables, f"{document.path.name} links to {link}"


def test_public_names_are_those_of_the_readme():
    for name in maskgit_cli.__all__:
        assert getattr(maskgit_cli, name) is not None
    assert dir(maskgit_cli) == sorted(maskgit_cli.__all__)
    listed = README.column("python-api")
    assert sorted(listed) == sorted(set(listed)), "a name is listed twice"
    assert set(listed) == set(maskgit_cli.__all__)
    with pytest.raises(AttributeError):
        maskgit_cli.no_such_name  # noqa: B018


# --- docs/artifacts.md ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer, tokens, run, images) -> Path:
    """Every kind of artifact, with and without its optional parts."""
    root = tmp_path_factory.mktemp("made")
    make_tokens_and_models(root, tokenizer, tokens, run, images)
    make_samples(root, run, images / "cat" / "0.png")
    decode(tokens, root / "first", device="cpu")
    decode(root / "flip.h5", root / "all", tokenizer, views="all", device="cpu")
    decode(root / "codes" / "tokens.h5", root / "numbered", run, device="cpu")
    tokenize(images / "cat", root / "flat.h5", tokenizer, workers=0, device="cpu")
    decode(root / "flat.h5", root / "flat", tokenizer, device="cpu")
    make_scores(root, tokenizer, images)
    make_sweeps(root, images)
    return root


def make_tokens_and_models(root, tokenizer, tokens, run, images):
    broken = root / "broken"
    shutil.copytree(images, broken)
    (broken / "cat" / "broken.png").touch()
    tokenize(broken, root / "flip.h5", tokenizer, TokenizeConfig(views="flip"), workers=0, device="cpu")
    random = {"views": "random:2", "seed": 3, "val_split": 0.3}
    tokenize(images, root / "split.h5", tokenizer, TokenizeConfig(**random), workers=0, device="cpu")
    tokenize(images, root / "part.h5", tokenizer, TokenizeConfig(start=2, stop=5), workers=0, device="cpu")
    between_lines = {"checkpoint_every": 4, "log_every": 3}  # what the next line needs is in a checkpoint
    scores = {"fid_every": 6, "fid_n": 4, "fid_features": "vqgan"}
    measured = {"val": tokens, "init_from": run, "fid_ref": images}
    train_tiny(tokens, root / "validated", measured, **between_lines, **scores)
    with (
        mock.patch.object(objective, "masked_loss", lambda logits, *rest: logits.sum() * float("nan")),
        mock.patch.object(measures, "peak_tflops", return_value=1.0),
    ):
        train_tiny(tokens, root / "spiked", on_spike="skip", steps=2)
    everything = {"size": None, "preview_every": 6, "smoothness_weight": 0.1} | between_lines
    train_tiny_vqgan(images, root / "vqgan", {"val": images, "init_from": tokenizer}, **everything)
    measured = {"perceptual_weight": 1.0, "val_features": "vqgan", "steps": 1}
    distance = perceptual._Network(lambda *arguments: lambda a, b: (a - b).pow(2).mean((1, 2, 3)), 16)
    for name in perceptual.NETWORKS:
        with mock.patch.dict(perceptual.NETWORKS, {name: distance}):
            train_tiny_vqgan(images, root / name, {"val": images}, **measured, perceptual=name)
    export(run, root / "model", half=True)
    export(root / "model", root / "model-again", sampler={"steps": 4})
    import_weights([GOOGLE.transformer], root / "imported", tokenizer=GOOGLE.tokenizer)
    export(root / "vqgan", root / "vqgan-exported", half=True)


def make_samples(root, run, picture):
    sample(run, root / "samples", SampleConfig(n=4, format="npz", trace="webp"), device="cpu")
    sample(root / "model", root / "codes", SampleConfig(n=2, format="tokens"), device="cpu")
    mask = root / "mask.png"
    Image.new("1", Image.open(picture).size, 1).save(mask)
    inpaint(picture, run, root / "masked", mask, InpaintConfig(n=2, label="dog"), device="cpu")
    inpaint(picture, run, root / "boxed", config=InpaintConfig(box=(Box(2, 2, 9, 9),)), device="cpu")
    edits = root / "edits.csv"
    edits.write_text(f'image,box,keep_box,outpaint\n{picture.resolve()},"2,2,9,9=dog","3,3,1,1",left:4\n')
    inpaint(edits, run, root / "edited", device="cpu")


def make_scores(root, tokenizer, images):
    vqgan = {"config": ScoreConfig(features="vqgan"), "tokenizer": tokenizer, "device": "cpu"}
    whole = vqgan | {"config": ScoreConfig(features="vqgan", res=16), "with_features": True}
    fid_stats([images, root / "samples" / "samples.npz"], root / "reference.npz", **whole)
    fid_stats([root / "flip.h5"], root / "codes.npz", **vqgan)
    fid_stats([root / "codes.npz", root / "reference.npz"], root / "merged.npz", device="cpu")
    score(root / "samples", root / "reference.npz", **vqgan)
    score(root / "masked", root / "merged.npz", **vqgan)
    random = np.random.default_rng(0)
    features = random.random((12, 4), np.float32)
    moments, published = moments_of(features), EXTRACTORS["inception"]
    inception = Statistics(
        moments.mean,
        moments.covariance(),
        12,
        published.space,
        published.fid_sha256,
        "legacy-v1",
        16,
        features,
        random.random((12, 5), np.float32),
        np.zeros(3),
        np.eye(3),
        ["cat", "", *["dog"] * 10],
    )
    write_statistics(root / "inception.npz", inception)
    score(root / "inception.npz", root / "inception.npz", ScoreConfig(splits=2), device="cpu")
    clip = EXTRACTORS["clip"]
    embeddings = replace(inception, space=clip.space, space_sha256=clip.sha256, protocol="adm")
    write_statistics(root / "clip.npz", embeddings)
    score(root / "clip.npz", root / "clip.npz", device="cpu")
    np.savez(root / "theirs.npz", mu=inception.mu, sigma=inception.sigma)
    score(root / "theirs.npz", root / "theirs.npz", ScoreConfig("inception"), device="cpu")
    reference = np.load(root / "reference.npz")
    batch = {name: reference[name] for name in ("mu", "sigma")}
    np.savez(root / "adm.npz", arr_0=np.load(root / "samples" / "samples.npz")["arr_0"], **batch)
    score(root / "adm.npz", images, out=root / "adm.scores.json", **vqgan)
    config = ScoreConfig(splits=2, kid_subset_size=6, interval=True, curve=True)
    many = Statistics(
        moments.mean,
        moments.covariance(),
        48,
        published.space,
        published.fid_sha256,
        features=np.tile(features, (4, 1)),
    )
    write_statistics(root / "many.npz", many)
    detailed = score(root / "many.npz", root / "many.npz", config, device="cpu").record
    classes = replace(many, classes=["cat", "dog"] * 24)
    per_class = details_of(classes, classes, ScoreConfig(per_class=True), {}, (), torch.device("cpu"))
    write_scores(root / "classes.scores.json", detailed | per_class.record)


def make_sweeps(root, images):
    settings = {"scoring": ScoreConfig(features="vqgan", metrics=("fid", "is")), "device": "cpu"}
    swept = {"cfg_interval": [(0.0, 1.0), (0.5, 1.0)], "schedule": ["root", "pow3"]}
    sweep([root / "model"], swept, images, root / "sweep", SweepConfig(n=4), **settings)
    sweep(
        [root / "model"],
        {"steps": [2]},
        root / "reference.npz",
        root / "small-sweep",
        SweepConfig(n=4, keep="none"),
        **settings,
    )


def read(path: Path) -> dict:
    """A record, whose digest is last and in no table."""
    assert list(json.loads(path.read_text()))[-1] == "record_sha256"
    return read_json(path, "an artifact")


def test_formats_and_versions():
    """The table at the top names each format of the package, and its module."""
    stated = {row[1].strip("`"): (row[2], row[4].strip("`")) for row in FORMATS.rows("file-formats")}
    del stated["none"]
    found = {}
    for module in pkgutil.iter_modules(artifacts.__path__):
        home = importlib.import_module(f"maskgit_cli.formats.{module.name}")
        for node in ast.walk(ast.parse(Path(home.__file__).read_text())):
            if isinstance(node, ast.Assign) and "_FORMAT" in ast.unparse(node.targets[0]):
                name, version = map(ast.literal_eval, node.value.elts)
                found[name] = (str(version), f"formats/{module.name}.py")
    assert stated == found


def test_records(made, run, tokenizer):
    """Every key of every JSON record is in its table, and every row of these tables is such a key."""
    held = Specification(FORMATS)
    for path in (run, made / "validated", made / "spiked"):
        held.check(read(path / "config.json"), "record-of-a-run")
        lines = (path / "metrics.jsonl").read_text().splitlines()
        for line in lines:
            held.check(json.loads(line), "lines-of-train")
    for path in (made / "vqgan", made / "vqgan-exported", builtin_tokenizer()):
        held.check(read(path / "config.json"), "record-of-a-tokenizer")
    for name in ("vqgan", *perceptual.NETWORKS):
        for line in (made / name / "metrics.jsonl").read_text().splitlines():
            held.check(json.loads(line), "lines-of-train-vqgan")
    for path in (run, made / "vqgan"):
        for state in path.glob("checkpoints/*/state.json"):
            held.check(read(state), "record-of-a-checkpoint")
    for path in (made / "model", made / "model-again", builtin_model()):
        held.check(read(path / "config.json"), "record-of-a-model")
    for name in ("samples", "codes", "boxed", "masked"):
        record = read(made / name / "settings.json")
        held.check(record, "record-of-samples")
        held.check(record["settings"], f"settings-of-{record['stage']}")
    for sampler in PRESETS.values():
        held.check(sampler.describe(), "sampler-settings")
    for name in ("first", "all"):
        held.check(read(made / name / "decoded.json"), "record-of-decoded-images")
    for path in made.rglob("*scores.json"):
        held.check(read(path), "record-of-scores")
    for name in ("sweep", "small-sweep"):
        held.check(read(made / name / "sweep.json"), "record-of-a-sweep")
    for name in ("reference.npz", "codes.npz", "merged.npz"):
        held.check(json.loads(str(np.load(made / name)["meta"])), "record-of-statistics")
    assert held.unmet() == {}
    keyed = {anchor for anchor, tables in FORMATS.tables.items() if tables and tables[0][0][0] == "key"}
    assert keyed - held.met.keys() == {"index", "settings-of-tokenize"}  # of token files


def test_token_files(made, tokens):
    held, seen = Specification(FORMATS), set()
    datasets = {CODE.findall(row[0])[0]: row[1] for row in FORMATS.rows("datasets")}
    for path in (tokens, made / "flip.h5", made / "samples" / "tokens.h5", made / "masked" / "tokens.h5"):
        with h5py.File(path) as file:
            coded = {row[0].strip("`") for row in FORMATS.rows("attributes") if row[1].startswith("JSON")}
            values = {key: json.loads(value) if key in coded else value for key, value in file.attrs.items()}
            held.check(values, "attributes")
            needed = {name for name, text in datasets.items() if "optional" not in text}
            trace = {name for name in datasets if name.startswith("trace_")}
            assert file.keys() - needed - {"pixels_sha256"} in (set(), trace)
            seen |= file.keys()
            size = {}
            for name in file:
                kind, shape = datasets[name].replace(", optional", "").split(" ", 1)
                assert kind == ("bytes" if file[name].dtype.kind == "S" else file[name].dtype.name)
                assert file[name].chunks is file[name].compression is None
                check_shape(file[name].shape, shape, size)
        assert (size["h"], size["w"]) == (values["grid"], values["grid"])
    for name in ("flip.h5", "split.h5", "split-val.h5", "part.h5"):
        with h5py.File(made / name) as file:
            held.check(json.loads(file.attrs["settings"]), "settings-of-tokenize")
            assert file["skipped"].shape == (name == "flip.h5", 2)
    for path in (made / "flip.h5", made / "samples" / "tokens.h5"):
        first, rest = path.read_bytes().split(b"\n", 1)
        index = json.loads(rest[: int(first.split()[2])])
        held.check(index, "index")
        assert index["datasets"].keys() <= datasets.keys()
        assert index["attributes"].keys() == values.keys() - {"format", "version", "complete"}
    assert seen == datasets.keys()
    assert held.unmet() == {}


def test_statistics_files(made):
    specified = {CODE.findall(row[0])[0]: row[1] for row in FORMATS.rows("arrays")}
    met = set()
    for name in ("reference.npz", "codes.npz", "merged.npz", "inception.npz"):
        arrays = dict(np.load(made / name))
        assert arrays.keys() <= specified.keys()
        assert {key for key, text in specified.items() if "optional" not in text} <= arrays.keys()
        met |= arrays.keys()
        size = {"n": int(arrays["n"])}
        for key in [key for key in specified if key in arrays]:
            kind, shape = specified[key].replace(", optional", "").split(" ", 1)
            assert kind == ("text" if arrays[key].dtype.kind == "U" else arrays[key].dtype.name)
            check_shape(arrays[key].shape, shape, size)
    assert met == specified.keys()


PLACEHOLDER = re.compile("CLASS|NAME|N+")


def pattern_of(name: str) -> str:
    """The pattern of a file in a table: each N is a digit, CLASS and NAME are any text."""
    text = PLACEHOLDER.sub(lambda n: rf"\d{{{len(n[0])}}}" if set(n[0]) == {"N"} else "[^/]+", name)
    return text.replace(".", r"\.")


@pytest.mark.parametrize(
    ("anchor", "folders"),
    [
        ("files-of-a-run", ["run", "validated"]),
        ("files-of-a-tokenizer", ["tokenizer", "vqgan", "vqgan-exported", "builtin-tokenizer"]),
        ("files-of-a-model", ["model", "model-again", "builtin"]),
        ("files-of-samples", ["samples", "codes", "boxed", "masked"]),
        ("files-of-a-folder-of-decoded-images", ["first", "all", "numbered", "flat"]),
    ],
)
def test_files(made, run, tokenizer, anchor, folders):
    """Directories hold the files that their table names, and no others."""
    rows = {CODE.findall(row[0])[0]: row[1] for row in FORMATS.rows(anchor)}
    patterns = {name: pattern_of(name) for name in rows}
    places = {"run": run, "tokenizer": tokenizer}
    places |= {"builtin": builtin_model(), "builtin-tokenizer": builtin_tokenizer()}
    met = set()
    for folder in folders:
        root = places.get(folder, made / folder)
        files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        here = {next((n for n in rows if re.fullmatch(patterns[n], file)), file) for file in files}
        assert here <= rows.keys(), folder
        assert {name for name, text in rows.items() if not text.startswith("optional")} <= here, folder
        met |= here
    assert met == rows.keys()


def test_files_and_columns_of_a_sweep(made):
    rows = {CODE.findall(row[0])[0]: row[1] for row in FORMATS.rows("files-of-a-sweep")}
    here = {
        name: {path.name + "/" * path.is_dir() for path in (made / name).iterdir()}
        for name in ("sweep", "small-sweep")
    }
    assert here["sweep"] == rows.keys()
    assert here["small-sweep"] == {name for name, text in rows.items() if not text.startswith("optional")}
    record = read(made / "sweep" / "sweep.json")
    columns = (made / "sweep" / "sweep.csv").read_text().splitlines()[0].split(",")
    stated = FORMATS.column("columns-of-the-table")
    many = {"SETTING": list(record["settings"]["swept"]), "METRIC": list(record["points"][0]["metrics"])}
    bounds = [f"{name}_{end}" for name in record["points"][0]["spread"] for end in ("low", "high")]
    many |= {"METRIC_low": bounds, "METRIC_high": []}
    assert columns == [name for column in stated for name in many.get(column, [column])]


def test_checkpoints_hold_the_files_and_tensors(made, run):
    rows = FORMATS.rows("files-of-a-checkpoint")
    for root, of in ((run, ("both", "train")), (made / "vqgan", ("both", "train-vqgan"))):
        folder = max(root.glob("checkpoints/*"))
        assert {f.name for f in folder.iterdir()} == {row[0].strip("`") for row in rows if row[1] in of}
        for name in ("", "discriminator_") if "train-vqgan" in of else ("",):
            network = load_file(folder / f"{name.rstrip('_') or 'model'}.safetensors")
            state = load_file(folder / f"{name}optimizer.safetensors")
            assert state.keys() == {f"{p}/{e}" for p in network for e in ("exp_avg", "exp_avg_sq", "step")}
            assert {state[f"{p}/step"].shape for p in network} == {()}
            assert all(state[f"{p}/exp_avg"].shape == tensor.shape for p, tensor in network.items())
        model, ema = (load_file(folder / f"{name}.safetensors") for name in ("model", "ema"))
        assert {k: v.shape for k, v in model.items()} == {k: v.shape for k, v in ema.items()}
    last_used = load_file(folder / "codebook.safetensors")["last_used"]
    sizes = read(made / "vqgan" / "config.json")["vqgan"]
    assert (last_used.dtype, last_used.shape) == (np.int64, (sizes["codebook_size"],))


def test_tensors_of_the_transformer(made, run):
    for path in (max(run.glob("checkpoints/*")), made / "model"):
        tensors = load_file(path / "model.safetensors")
        sizes = read((run if path != made / "model" else path) / "config.json")["transformer"]
        known = {"D": sizes["width"], "M": sizes["mlp_width"], "T": sizes["grid"] ** 2 + 1}
        known["R"] = sizes["codebook_size"] + 1 + sizes["classes"] + 1
        expected = {}
        for names, shape, _ in FORMATS.rows("tensors-of-the-transformer"):
            for name in CODE.findall(names):
                blocks = range(sizes["depth"]) if ".I." in name else [0]
                expected |= {name.replace(".I.", f".{i}."): shape for i in blocks}
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            check_shape(tensor.shape, expected[name], known)
        assert {tensor.dtype.name for tensor in tensors.values()} == {
            "float16" if path == made / "model" else "float32"
        }


def test_tensors_of_the_vqgan():
    """The largest tokenizer has every kind of module; its shapes are compared without its memory."""
    with torch.device("meta"):
        tensors = VQGAN(TOKENIZER_SIZES["f16"]).state_dict()
    modules = {
        re.sub(r"\b[IJ]\b", r"\\d+", re.escape(name)): row[1]
        for row in FORMATS.rows("modules-of-the-vqgan")
        for name in CODE.findall(row[0])
    }
    kinds = {
        (row[0], name): row[2]
        for row in FORMATS.rows("tensors-of-a-vqgan-module")
        for name in CODE.findall(row[1])
    }
    known = {"K": 1024, "E": 256}
    met = set()
    for name, tensor in tensors.items():
        fits = [
            (m, kind, end)
            for m, kind in modules.items()
            for of, end in kinds
            if of == kind and re.fullmatch(rf"{m}\.{re.escape(end)}", name)
        ]
        assert len(fits) == 1, (name, fits)
        module, kind, end = fits[0]
        met |= {module, (kind, end)}
        check_shape(tuple(tensor.shape), kinds[kind, end], known, free=True)
    assert met == modules.keys() | kinds.keys()


def test_kinds_of_parents(made, run):
    """Parents are of the kinds of the table, and each kind occurs."""
    records = [read(path) for path in [*made.rglob("*.json"), *run.rglob("*.json")]]
    records += [json.loads(str(np.load(made / name)["meta"])) for name in ("reference.npz", "merged.npz")]
    found = {parent["kind"] for record in records for parent in record.get("parents", [])}
    assert found == set(FORMATS.column("kinds-of-parents"))


def test_names_of_scores(made):
    """Scores have the names of the table, with its endings."""
    scores = [read(path)["metrics"] for path in made.rglob("*scores.json")]
    endings = FORMATS.column("names-of-scores", table=1)
    assert endings == ["_50k", "_clean", "_legacy_v1", "_NAME", "_NAME_XXXXXXXX"]
    found = {score_of(name).name for record in scores for name in record}
    assert found == set(FORMATS.column("names-of-scores"))
    assert found == {score.name for entry in METRICS.values() for score in entry.scores}
