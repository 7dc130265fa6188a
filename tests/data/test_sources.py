"""Image sources: which images each lists, and that all of them can be read in the same ways."""

import os
import pickle
import shutil
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import NAMES, make_model

from maskgit_cli.config.stages import SampleConfig
from maskgit_cli.data import loading
from maskgit_cli.data.classes import find_label
from maskgit_cli.data.images import read_image
from maskgit_cli.data.sources import (
    ImageSource,
    Origin,
    base,
    folder,
    labels,
    open_source,
    registry,
    source_digest,
)
from maskgit_cli.data.sources.base import SourceKind
from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.networks.inference import decode_tokens
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.reports.inspecting import describe
from maskgit_cli.sampling.images import sample

RED, GREEN = (255, 0, 0), (0, 255, 0)


class Recorder:
    """A reporter that remembers."""

    def __init__(self):
        self.warnings, self.infos, self.counts = [], [], []

    @contextmanager
    def task(self, description, total, done=0, unit="images"):
        task = SimpleNamespace(advance=lambda n=1, **_: self.counts.append(n))
        yield task

    def info(self, text):
        self.infos.append(text)

    def warn(self, text):
        self.warnings.append(text)


def save(path, color=RED, size=(4, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path


# --- folders ----------------------------------------------------------------------------------------


def test_a_subfolder_per_class(tmp_path):
    save(tmp_path / "dog/b.png")
    save(tmp_path / "dog/deep/a.JPG")
    save(tmp_path / "cat/x.webp")
    save(tmp_path / "cat/.hidden.png")
    save(tmp_path / ".thumbnails/x.png")
    (tmp_path / "cat/notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    source = open_source(tmp_path)
    assert source.names == ["cat/x.webp", "dog/b.png", "dog/deep/a.JPG"]
    assert source.class_names == ["cat", "dog", "empty"]
    assert source.labels.tolist() == [0, 1, 1]
    assert source.labels.dtype == np.int32
    assert source.paths == [tmp_path / name for name in source.names]
    assert source.origin == Origin(tmp_path, "images")


def test_a_flat_folder_has_no_labels(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.gif")
    source = open_source(tmp_path)
    assert source.names == ["a.gif", "b.png"]
    assert source.labels.tolist() == [-1, -1]
    assert source.labels.dtype == np.int32
    assert source.class_names == []


@pytest.mark.parametrize("root", [".", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC/train"])
def test_imagenet_layout(tmp_path, root):
    save(tmp_path / "ILSVRC/Data/CLS-LOC/train/n02/n02_1.JPEG", format="JPEG")
    save(tmp_path / "ILSVRC/Data/CLS-LOC/val/v_1.JPEG", format="JPEG")
    source = open_source(tmp_path / root)
    assert source.names == ["n02/n02_1.JPEG"]
    assert source.class_names == ["n02"]


def test_splits_are_not_classes(tmp_path):
    save(tmp_path / "train/cat/x.png")
    save(tmp_path / "val/cat/x.png")
    with pytest.raises(InputError, match="train, val.*" + str(tmp_path / "train")):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("folders", "first"),
    [
        (["test", "train", "val"], "train"),
        (["Test", "Validation"], "Validation"),
        (["test2017", "val2017", "train2017"], "train2017"),
        (["train"], "train"),
    ],
)
def test_of_splits_train_is_suggested_first(tmp_path, folders, first):
    """Also if their images have no classes: `train` and `val` are none."""
    for name in folders:
        save(tmp_path / name / "x.png")
    with pytest.raises(InputError, match=f"splits, not classes; give {tmp_path / first} instead"):
        open_source(tmp_path)
    assert open_source(tmp_path / first).class_names == []
    save(tmp_path / "cat" / "x.png")
    assert "cat" in open_source(tmp_path).class_names


def test_a_listing_shows_its_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "LISTING_SHOWN_AFTER", 0)
    monkeypatch.setattr(folder, "COUNTED", 2)
    for name in ("a/1.png", "a/2.png", "a/3.txt", "b/4.png", "b/c/5.png"):
        save(tmp_path / name, format="PNG")
    reporter = Recorder()
    assert len(open_source(tmp_path, reporter=reporter)) == 4
    assert len(reporter.infos) == 1
    assert str(tmp_path) in reporter.infos[0]
    assert sum(reporter.counts) == 5 + 3  # with the folders
    assert len(reporter.counts) > 2


def test_a_listing_holds_names_only(tmp_path):
    """A million names are 100 MB; as paths they were 300."""
    for i in range(1000):
        (tmp_path / f"{i:08d}.png").touch()
    open_source(tmp_path)
    tracemalloc.start()
    source = open_source(tmp_path)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(source) == 1000
    assert used < 130 * 1000


def test_sample_directories_are_not_classes(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name / "images" / "000000.png")
        save(tmp_path / name / "grid.png")
        (tmp_path / name / "settings.json").write_text("{}")
    with pytest.raises(InputError, match="sample directories.*" + str(tmp_path / "a")):
        open_source(tmp_path)
    assert open_source(tmp_path / "a" / "images").names == ["000000.png"]


def test_images_mixed_with_class_subfolders_are_an_error(tmp_path):
    save(tmp_path / "cat/x.png")
    save(tmp_path / "grid.png")
    with pytest.raises(InputError, match=r"grid\.png"):
        open_source(tmp_path)


def test_a_link_to_itself_is_one_unreadable_image(tmp_path):
    save(tmp_path / "cat/x.png")
    (tmp_path / "cat/self.png").symlink_to("self.png")
    (tmp_path / "cat/self").symlink_to("self")
    source = open_source(tmp_path)
    assert source.names == ["cat/self.png", "cat/x.png"]
    with pytest.raises(InputError, match="symbolic link"):
        source.open(0)


def test_a_loop_of_links_ends(tmp_path):
    save(tmp_path / "cat/x.png")
    os.symlink(tmp_path / "cat", tmp_path / "cat/again")
    assert open_source(tmp_path).names == ["cat/x.png"]


# --- CSVs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "path,label\n", "\ufeffpath,label\n"])
def test_csv_with_class_names(tmp_path, header):
    (tmp_path / "list.csv").write_text(header + "z.png,dog\n\nsub/a.png, cat\nn.png,\n", encoding="utf-8")
    source = open_source(tmp_path / "list.csv")
    assert source.names == ["z.png", "sub/a.png", "n.png"]
    assert source.paths[1] == tmp_path / "sub/a.png"
    assert source.class_names == ["cat", "dog"]
    assert source.labels.tolist() == [1, 0, -1]
    assert source.labels.dtype == np.int32


def test_csv_with_class_indices(tmp_path):
    (tmp_path / "list.csv").write_text("label,width,path\n2,64,a.png\n,64,c.png\n0,64,/b.png\n")
    source = open_source(tmp_path / "list.csv")
    assert source.labels.tolist() == [2, -1, 0]
    assert source.class_names == ["0", "1", "2"]
    assert str(source.paths[2]) == source.location(2) == "/b.png"


@pytest.mark.parametrize("file", ["path", "File", "IMAGE", "filename"])
@pytest.mark.parametrize("label", ["Label", "class"])
def test_a_header_is_never_an_image(tmp_path, file, label):
    text = f"id,{label},{file}\n1,dog,a.png\n2,cat,b.png\n3,,c.png\n"
    (tmp_path / "list.csv").write_text(text)
    source = open_source(tmp_path / "list.csv")
    assert source.names == ["a.png", "b.png", "c.png"]
    assert [source.class_names[i] if i >= 0 else "" for i in source.labels] == ["dog", "cat", ""]


@pytest.mark.parametrize(
    "text", ["a.png\nb.png\n", "filename\na.png\nb.png\n", "path,label\na.png\nb.png,\n"]
)
def test_labels_may_be_missing(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    source = open_source(tmp_path / "list.csv")
    assert source.names == ["a.png", "b.png"]
    assert source.labels.tolist() == [-1, -1]
    assert source.class_names == []


def test_a_class_of_a_csv_has_the_name_it_is_given(tmp_path):
    """Whether all labels are numbers or only some, each image is of the class that its label names."""
    for cells in (["10", "2", "8"], ["10", "2", "cat"], ["01", "10", "02"]):
        (tmp_path / "list.csv").write_text("".join(f"{i}.png,{cell}\n" for i, cell in enumerate(cells)))
        source = open_source(tmp_path / "list.csv")
        for label, cell in zip(source.labels, cells, strict=True):
            assert source.class_names[label] in (cell, cell.lstrip("0"))
            if cell in source.class_names:
                assert find_label(cell, len(source.class_names), source.class_names) == label


def test_a_csv_that_names_no_column_of_labels_warns(tmp_path):
    (tmp_path / "list.csv").write_text("path,category\na.png,cat\n")
    reporter = Recorder()
    assert open_source(tmp_path / "list.csv", reporter=reporter).class_names == []
    assert len(reporter.warnings) == 1
    assert "label or class" in reporter.warnings[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no image"),
        (b",cat\n", "line 1"),
        (b"path,label\n\n,cat\n", "line 3"),
        (b"path,label\n", "no image"),
        (b"img,category\na.png,cat\nb.png,dog\n", "line 1 .*path, file, image, filename"),
        (b"id,class\na.png,cat\n", "line 1 has no column path or file or image"),
        (b"file,path\na.png,b.png\n", "line 1 has the columns file and path"),
        (b"path,label,class\na.png,1,cat\n", "line 1 has the columns label and class"),
        (b"path,label\na.png,cats, and dogs\n", "line 2 has 3 cells for 2 columns"),
        (b"a.png,1\nb.png,01\n", "labels 01 and 1 are"),
        (b"a.png,-2\n", "label -2"),
        (b"a.png,20231122\n", f"label 20231122 .*{labels.MAX_LABEL}"),
        (b"a.png,1\n\nb\0.png,1\n", "line 3"),
        (b'"a.png,1\nb.png,1\n', "not a readable CSV"),
        (b"\xff\xfe\x00,1\n", "not a readable CSV"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(InputError, match=r"list\.csv: .*" + message):
        open_source(tmp_path / "list.csv")


# --- the digest of a listing ------------------------------------------------------------------------


def test_the_digest_of_a_listing_is_the_recorded_one(tmp_path):
    """Token files and tokenizers in use have these values among their parents."""
    for name in ("dog/b.png", "cat/é.webp", "cat/deep/x.jpg", "owl/z.gif"):
        save(tmp_path / "classes" / name)
    for name in "cab":
        save(tmp_path / "flat" / f"{name}.png")
    (tmp_path / "indices.csv").write_text("label,path\n2,a.png\n,b.png\n0,/q/c.png\n")
    (tmp_path / "names.csv").write_text("t/dog/b.png,dog\nx.png,\ny.png,cat\n")
    for name, digest in {
        "classes": "bc518d59c1a3c90e031c9789c03acdc9f269a20b684603dd9fbd7deb53413fe3",
        "flat": "dca57cc35f3af7b0ff1d8c3df34c52654ac1580765f3b1dfdb02056f9cb7a0c7",
        "indices.csv": "b7df04a4dddad537fd3d9ab3f867689e8b5afa17fa5f743dc7299cfee1dc3dac",
        "names.csv": "2563f3982d7c21972ba4fed5c0364ca88cb1fa603a86256a40eadb8618214d0c",
    }.items():
        assert source_digest(open_source(tmp_path / name)) == digest


def test_the_digest_changes_with_the_images(tmp_path):
    save(tmp_path / "cat/x.png")
    before = source_digest(open_source(tmp_path))
    save(tmp_path / "cat/y.png")
    assert before != source_digest(open_source(tmp_path))


# --- every source -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A path of every kind, with six or more images each."""
    root = tmp_path_factory.mktemp("sources")
    model = make_model(root / "model")
    for name in ("png", "tokens"):
        sample(model, root / name, SampleConfig(n=6, format=name), {"steps": 2}, device="cpu")
    shutil.copytree(model / "tokenizer", root / "tokenizer")
    shutil.copy(root / "png" / "tokens.h5", root / "file.h5")
    for i in range(6):
        save(root / "folder" / NAMES[i % 3] / f"{i}.png", (40 * i, 9, 200 - i), (5 + i, 7))
    listed = sorted((root / "folder").rglob("*.png"))
    lines = [f"folder/{path.parent.name}/{path.name},{path.parent.name}\n" for path in reversed(listed)]
    (root / "list.csv").write_text("".join(lines))
    shutil.make_archive(root / "x", "zip", root / "folder")
    shutil.make_archive(root / "x", "tar", root / "folder")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), np.uint8)
    np.savez(root / "stored.npz", pixels)
    np.savez_compressed(root / "compressed.npz", pixels)
    return root


@pytest.fixture(
    params=[
        "png",
        "tokens",
        "folder",
        "list.csv",
        "x.zip",
        "x.tar",
        "stored.npz",
        "compressed.npz",
        "file.h5",
    ]
)
def source(request, made):
    tokenizer = made / "model" if request.param in ("tokens", "file.h5") else None
    return open_source(made / request.param, tokenizer)


def test_all_ways_of_reading_agree(source):
    assert len(source) == len(source.names) == len(source.labels) == 6
    assert source.labels.dtype == np.int32
    assert all(-1 <= label < max(1, len(source.class_names)) for label in source.labels)
    one_by_one = [source.open(i) for i in range(6)]
    for image in one_by_one:
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3
    assert len({image.numpy().tobytes() for image in one_by_one}) == 6
    batches = list(source.batches([0, 2, 3, 5], 3))
    assert [len(batch) for batch in batches] == [3, 1]
    for image, i in zip((image for batch in batches for image in batch), (0, 2, 3, 5), strict=True):
        assert torch.equal(image, one_by_one[i])
    assert list(source.batches([], 3)) == []
    assert torch.equal(source.open(1), one_by_one[1])  # backward
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy.open(4), one_by_one[4])
    assert copy.origin == source.origin


def test_workers_read_any_source(source):
    """Forked workers share open files with their parent, which has read before."""
    source.open(3)
    dataset = loading.ImageDataset(source, 8)
    here = loading.collate_images([dataset[i] for i in range(6)])
    there = list(loading.load_batches(dataset, [[0, 1], [2, 3], [4, 5]], 2, False))
    assert torch.equal(torch.cat([batch.images for batch in there]), here.images)
    assert source.open(4) is not None


def test_token_sources_are_the_decoded_tokens(made):
    tokens, tokenizer = open_tokens(made / "file.h5"), load_tokenizer(made / "model")
    expected = decode_tokens(
        tokenizer, torch.from_numpy(tokens.codes[:, 0].astype(np.int64)), torch.device("cpu")
    )
    for name, kind in (("file.h5", "tokens"), ("tokens", "samples"), ("png", "samples")):
        source = open_source(made / name, made / "model")
        assert torch.equal(torch.stack(next(source.batches(range(6), 6))), expected)
        assert source.names == tokens.names
        assert source.labels.tolist() == tokens.labels.tolist()
        assert source.class_names == NAMES
        assert source.origin.kind == kind
        assert source.origin.tokenizer_sha256 == tokenizer.sha256
        assert (
            source_digest(source)
            == open_tokens(made / name / "tokens.h5" if kind == "samples" else made / name).sha256
        )
        assert (source.origin.settings is None) == (kind == "tokens")
    assert torch.equal(open_source(made / "file.h5").open(0), expected[0])  # the tokenizer next to it


def test_an_image_of_several_windows_is_one_image(made, tmp_path, maskgit):
    """Inpainting writes a row of tokens for each window."""
    save(tmp_path / "wide.png", size=(40, 16))
    options = ("--box", "4,4,36,12", "--label", "0", "--n", 2, "--steps", 1, "--out", tmp_path / "out")
    outcome = maskgit("inpaint", tmp_path / "wide.png", made / "model", *options)
    assert outcome.status == 0, outcome.stderr
    assert len(open_tokens(tmp_path / "out" / "tokens.h5")) > 2
    source = open_source(tmp_path / "out")
    assert [name.split()[0] for name in source.names] == ["000000", "000001"]
    assert source.labels.tolist() == [0, 0]
    assert torch.equal(source.open(1), read_image(tmp_path / "out" / "images" / "000001.png"))


def test_a_damaged_npz_names_the_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    np.savez_compressed(tmp_path / "bad.npz", pixels)
    data = bytearray((tmp_path / "bad.npz").read_bytes())
    data[60_000:60_040] = bytes(40)
    (tmp_path / "bad.npz").write_bytes(data)
    source = open_source(tmp_path / "bad.npz")
    with pytest.raises(InputError, match=r"bad\.npz: 000008: "):
        source.open(8)
    for i in (0, 1):  # the images before the damage can still be read
        assert torch.equal(source.open(i), torch.from_numpy(pixels[i]).permute(2, 0, 1))
    np.savez(tmp_path / "floats.npz", np.zeros((3, 4, 4, 3)))
    with pytest.raises(InputError, match="float64"):
        open_source(tmp_path / "floats.npz")


def test_paths_that_are_not_sources(tmp_path):
    with pytest.raises(InputError, match="no such"):
        open_source(tmp_path / "absent")
    with pytest.raises(InputError, match="no image"):
        open_source(tmp_path)
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(InputError, match=r"list\.json") as caught:
        open_source(tmp_path / "list.json")
    assert all(kind.title in str(caught.value) for kind in registry.SOURCES)
    (tmp_path / "text.h5").write_text("x")
    with pytest.raises(ArtifactError, match=r"text\.h5"):
        open_source(tmp_path / "text.h5")


def test_images_need_not_be_files(monkeypatch, tmp_path):
    """Nothing outside a source may assume that an image is a file: here they are made from the index."""

    class Synthetic(ImageSource):
        def open(self, index, side=None):
            if index == 1:
                raise InputError(f"{self.location(index)}: absent")
            return torch.full((3, 8, 8), index, dtype=torch.uint8)

    kind = SourceKind("a number", lambda path: path.name == "three", None)
    names = ["a", "b", "c"]
    kind = kind._replace(open=lambda path, _: Synthetic(Origin(path, "synthetic"), names))
    monkeypatch.setattr(registry, "SOURCES", (kind, *registry.SOURCES))
    source = open_source(tmp_path / "three")
    dataset = loading.ImageDataset(source, 8, "flip")
    batch = loading.collate_images([dataset[i] for i in range(3)])
    assert batch.indices.tolist() == [0, 2]
    assert batch.images[:, :, 0, 0, 0].tolist() == [[0, 0], [2, 2]]
    assert batch.skipped == [(1, "absent")]
    with pytest.raises(InputError, match="three: b: absent"):
        list(source.batches(range(3), 2))
    (tmp_path / "three").touch()
    assert describe(tmp_path / "three")["images"] == 3
    (tmp_path / "four").touch()
    with pytest.raises(InputError, match="four"):
        describe(tmp_path / "four")


# --- batches ----------------------------------------------------------------------------------------


def test_unreadable_images_are_skipped_with_their_reason(tmp_path):
    save(tmp_path / "a.png", RED, (20, 10))
    (tmp_path / "b.png").write_bytes(b"")
    save(tmp_path / "c.png", GREEN)
    save(tmp_path / "d.png", size=(510, 10))
    dataset = loading.ImageDataset(open_source(tmp_path), 8, "flip")
    assert len(dataset) == 4
    batch = loading.collate_images([dataset[i] for i in range(4)])
    assert batch.indices.tolist() == [0, 2]
    assert batch.images.shape == (2, 2, 3, 8, 8)
    assert batch.images[1, 0, :, 0, 0].tolist() == list(GREEN)
    assert batch.skipped[0] == (1, "empty file")
    assert batch.skipped[1][0] == 3
    assert "510×10" in batch.skipped[1][1]
    assert loading.collate_images([dataset[1]]).images is None
