"""Images in `.zip` files and `.tar` shards: which each lists, their classes, and what is refused."""

import io
import json
import struct
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_cli.data import loading
from maskgit_cli.data.images import read_image
from maskgit_cli.data.sources import open_source, source_digest, tar_shards, zip_file
from maskgit_cli.data.tokenizing import tokens_at
from maskgit_cli.errors import InputError
from maskgit_cli.formats.tokens import open_tokens


def picture(number, kind="PNG"):
    """The bytes of an image that differs from those of other numbers."""
    data = io.BytesIO()
    Image.new("RGB", (4 + number % 5, 4), (number * 37 % 256, number % 256, 9)).save(data, kind)
    return data.getvalue()


def make_zip(path, members, method=zipfile.ZIP_DEFLATED):
    """A zip of members: a name's bytes, or the number of an image."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, picture(data) if isinstance(data, int) else data)
    return path


def make_tar(path, members, form=tarfile.PAX_FORMAT):
    """A tar of members: a name's bytes, text, or the number of an image; or a `TarInfo` without data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as file:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                file.addfile(data)
                continue
            data = (
                picture(data) if isinstance(data, int) else data.encode() if isinstance(data, str) else data
            )
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5  # a fraction needs an extended header
            file.addfile(info, io.BytesIO(data))
    return path


def shown(source):
    """The class of each image by its name."""
    return {
        name: source.class_names[label] if label >= 0 else None
        for name, label in zip(source.names, source.labels, strict=True)
    }


def reason(source, index):
    """Why an image cannot be read."""
    with pytest.raises(InputError) as caught:
        source.open(index)
    assert str(caught.value).startswith(f"{source.location(index)}: ")
    return str(caught.value).removeprefix(f"{source.location(index)}: ")


# --- zip --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["", "photos/", "a/b/"])
def test_a_zip_of_classes_is_the_folder_that_was_zipped(tmp_path, method, top):
    members = {"dog/b.png": 1, "cat/x.PNG": 2, "dog/deep/a.png": 3}
    for name, number in members.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(picture(number))
    others = {"cat/notes.txt": b"x", "__MACOSX/cat/._x.png": b"x", "dog/.hidden.png": b"x"}
    path = make_zip(tmp_path / "x.zip", {f"{top}{n}": d for n, d in {**members, **others}.items()}, method)
    source, folder = open_source(path), open_source(tmp_path / "folder")
    assert source.names == folder.names
    assert source.labels.tolist() == folder.labels.tolist()
    assert source.labels.dtype == np.int32
    assert source.class_names == folder.class_names == ["cat", "dog"]
    for i in range(3):
        assert torch.equal(source.open(i), folder.open(i))
    assert source_digest(source) == source_digest(folder)


def test_a_zip_of_loose_images_has_no_classes(tmp_path):
    source = open_source(make_zip(tmp_path / "x.zip", {"photos/b.png": 1, "photos/a.png": 2}))
    assert shown(source) == {"a.png": None, "b.png": None}
    assert source.class_names == []


def test_of_a_zipped_imagenet_the_training_images_are_read(tmp_path):
    members = {
        "ILSVRC/Annotations/CLS-LOC/train/n02/n02_1.xml": b"x",
        "ILSVRC/Data/CLS-LOC/test/t_1.PNG": 1,
        "ILSVRC/Data/CLS-LOC/train/n02/n02_1.PNG": 2,
        "ILSVRC/Data/CLS-LOC/train/n01/n01_1.PNG": 3,
        "LOC_sample.png": 4,
    }
    source = open_source(make_zip(tmp_path / "x.zip", members))
    assert shown(source) == {"n01/n01_1.PNG": "n01", "n02/n02_1.PNG": "n02"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"test/x.png": 1, "train/x.png": 2}, "splits, not classes; .* folder train "),
        ({"cat/x.png": 1, "y.png": 2}, r"mixes images \(y.png\)"),
        ({"notes.txt": b"x"}, "no images found"),
        ({}, "no images found"),
    ],
)
def test_zips_that_are_no_sources(tmp_path, members, message):
    with pytest.raises(InputError, match=rf"x\.zip: .*{message}"):
        open_source(make_zip(tmp_path / "x.zip", members))


def test_a_zip_behind_a_program_and_one_of_many_members(tmp_path, monkeypatch):
    """Offsets are from the beginning of the zip; more than 65,535 members, or an offset that does not fit
    into 32 bits, need other records."""
    plain = make_zip(tmp_path / "x.zip", {"a.png": 1, "b.png": 2})
    (tmp_path / "y.zip").write_bytes(b"#!/bin/sh\n" * 50 + plain.read_bytes())
    assert torch.equal(open_source(tmp_path / "y.zip").open(1), open_source(plain).open(1))
    large = make_zip(tmp_path / "z.zip", {f"{i:05d}.txt": b"" for i in range(70_000)} | {"a/b.png": 3})
    assert b"PK\6\6" in large.read_bytes()
    source = open_source(large)
    assert source.names == ["b.png"]
    assert torch.equal(source.open(0), decoded(picture(3), tmp_path))
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    far = make_zip(tmp_path / "w.zip", {"a.png": 1, "b.png": 2})
    assert far.stat().st_size > plain.stat().st_size
    assert torch.equal(open_source(far).open(1), open_source(plain).open(1))


def decoded(data, folder):
    (folder / "one.png").write_bytes(data)
    return read_image(folder / "one.png")


def test_members_of_a_zip_that_are_no_images_say_why(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_file, "LARGEST_MEMBER", 10_000)
    path = tmp_path / "x.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # of a name that is there twice
        link = zipfile.ZipInfo("cat/link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        for name in (
            "../up.png",
            "/root.png",
            "C:\\disk.png",
            "cat/../../out.png",
            "cat/ok.png",
            "cat/ok.png",
        ):
            file.writestr(name, picture(1))
        file.writestr("cat/bomb.png", bytes(20_000))
        file.writestr("cat/empty.png", b"")
        file.writestr("cat/text.png", b"not an image")
        file.writestr("dog/slow.png", picture(2), zipfile.ZIP_LZMA)
    source = open_source(path)
    found = {
        source.names[i]: reason(source, i) for i in range(len(source)) if source.names[i] != "cat/ok.png"
    }
    unsafe = "its path is absolute or contains .."
    assert found == {
        "../up.png": unsafe,
        "/root.png": unsafe,
        "C:/disk.png": unsafe,
        "cat/../../out.png": unsafe,
        "cat/link.png": "a link or device, not a file",
        "cat/bomb.png": "20,000 bytes; at most 10,000 are read",
        "cat/empty.png": "empty file",
        "cat/text.png": "not an image",
        "dog/slow.png": "compressed by method 14; only stored and deflated members are read",
    }
    first = source.names.index("cat/ok.png")
    assert source.open(first).shape[0] == 3
    assert reason(source, first + 1) == "a second member of this name"
    assert source.class_names == ["cat", "dog"]
    assert {n: source.labels[i] for i, n in enumerate(source.names) if n in found} == {
        name: -1 if why == unsafe else name.startswith("dog") for name, why in found.items()
    }


def test_a_damaged_member_of_a_zip_is_one_unreadable_image(tmp_path):
    members = {f"{i}.png": np.random.default_rng(i).bytes(5000) for i in range(2)} | {"2.png": 2}
    path = make_zip(tmp_path / "x.zip", members, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1  # in the first member
    path.write_bytes(data)
    source = open_source(path)
    assert "Bad CRC-32" in reason(source, 0)
    assert reason(source, 1) == "not an image"
    batch = loading.collate_images([loading.ImageDataset(source, 4)[i] for i in range(3)])
    assert batch.indices.tolist() == [2]
    assert batch.skipped[1] == (1, "not an image")


def test_every_truncation_and_change_of_a_zip_is_one_error(tmp_path):
    data = make_zip(tmp_path / "x.zip", {"a/x.png": 1, "b/y.png": 2}).read_bytes()
    random = np.random.default_rng(0)
    for length in range(0, len(data), 7):
        (tmp_path / "x.zip").write_bytes(data[:length])
        with pytest.raises(InputError, match=r"x\.zip: not a readable zip"):
            open_source(tmp_path / "x.zip")
    for _ in range(200):
        changed = bytearray(data)
        for position in random.integers(0, len(data), 3):
            changed[position] = random.integers(256)
        (tmp_path / "x.zip").write_bytes(changed)
        try:
            source = open_source(tmp_path / "x.zip")
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        for i in range(len(source)):
            try:
                source.open(i)
            except InputError as error:
                assert str(error).startswith(source.location(i))  # noqa: PT017


# --- tar --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ({"0.cls": "10\n", "1.cls": "8", "2.cls": "10"}, ["10", "8", "10"]),
        ({"0.txt": "dog", "1.txt": " cat\n", "2.txt": "dog"}, ["dog", "cat", "dog"]),
        ({"0.json": '{"label": 3}', "1.json": '{"class": "2"}', "2.json": '{"cls": 3}'}, ["3", "2", "3"]),
        ({"0.cls": "dog", "0.json": '{"label": "x"}', "1.json": '{"width": 4}'}, ["dog", None, None]),
    ],
)
def test_labels_of_a_tar(tmp_path, form, labels, classes):
    images = {f"{i}.png": i for i in (2, 0, 1)}
    source = open_source(make_tar(tmp_path / "x.tar", {**labels, **images}, form))
    assert source.names == ["2.png", "0.png", "1.png"]  # as they are stored
    assert [shown(source)[f"{i}.png"] for i in range(3)] == classes
    for i, number in enumerate((2, 0, 1)):
        assert torch.equal(source.open(i), decoded(picture(number), tmp_path))


def test_long_names_and_dots_in_names(tmp_path):
    deep = "d" * 90 + "/" + "e" * 120
    members = {
        f"{deep}.png": 1,
        f"{deep}.cls": "far",
        "a.b.png": 2,
        "a.b.cls": "dots",
        "c.left.png": 3,
        "c.cls": "key",
    }
    source = open_source(make_tar(tmp_path / "x.tar", members))
    assert shown(source) == {f"{deep}.png": "far", "a.b.png": "dots", "c.left.png": "key"}


def shards(root, n=3):
    for i in range(n):
        members = {}
        for j in range(2):
            members |= {f"{j}.png": 2 * i + j, f"{j}.cls": str(i)}
        make_tar(root / f"s-{8 + i:03d}.tar", members)
    return root


@pytest.mark.parametrize(
    "path",
    ["", "s-*.tar", "s-{008..010}.tar", "s-{008,009,010}.tar", "{s}-0{08,1?,09}.tar", "s-{008..010..}.tar"],
)
def test_folder_pattern_and_list_of_shards(tmp_path, path):
    shards(tmp_path)
    if path == "s-{008..010..}.tar":
        with pytest.raises(InputError, match="no such file"):
            open_source(tmp_path / path)
        return
    source = open_source(tmp_path / path)
    order = [8, 10, 9] if "1?" in path else [8, 9, 10]
    assert source.names == [f"s-{i:03d}/{j}.png" for i in order for j in (0, 1)]
    assert source.labels.tolist() == [i - 8 for i in order for _ in (0, 1)]
    assert source.location(3) == f"{tmp_path}/s-{order[1]:03d}.tar: 1.png"
    assert torch.equal(source.open(3), decoded(picture(2 * (order[1] - 8) + 1), tmp_path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s-{008..011}.tar", r"s-011\.tar: no such file"),
        ("t-*.tar", r"t-\*\.tar: no file matches"),
        ("s-{000000..999999}.tar", "more than 100,000"),
        ("s-000.tar", "no such folder or file"),
        ("s-009.tar.gz", "compressed tar.*decompress it first"),
    ],
)
def test_shards_that_are_not_there(tmp_path, path, message):
    shards(tmp_path)
    (tmp_path / "s-009.tar.gz").touch()
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / path)


def test_braces_are_those_of_a_shell():
    expand = tar_shards._expanded
    assert list(expand("a{08..11}b")) == ["a08b", "a09b", "a10b", "a11b"]
    assert list(expand("{9..11}")) == ["9", "10", "11"]
    assert list(expand("{a,b}{0..1}")) == ["a0", "a1", "b0", "b1"]


def test_folders_of_tars_next_to_images_are_folders_of_images(tmp_path):
    shards(tmp_path / "data")
    (tmp_path / "data/README.md").write_text("shards")
    assert len(open_source(tmp_path / "data")) == 6
    (tmp_path / "data/cat").mkdir()
    (tmp_path / "data/cat/x.png").write_bytes(picture(0))
    assert open_source(tmp_path / "data").names == ["cat/x.png"]


def test_one_tar_without_labels_may_have_a_folder_per_class(tmp_path):
    source = open_source(make_tar(tmp_path / "x.tar", {"./t/dog/a.png": 1, "./t/cat/a.png": 2}))
    assert shown(source) == {"t/dog/a.png": "dog", "t/cat/a.png": "cat"}
    with pytest.raises(InputError, match="folder train "):
        open_source(make_tar(tmp_path / "y.tar", {"val/a.png": 1, "train/a.png": 2}))
    make_tar(tmp_path / "s/a.tar", {"0/a.png": 1})
    make_tar(tmp_path / "s/b.tar", {"1/a.png": 1})
    assert open_source(tmp_path / "s").class_names == []


@pytest.mark.parametrize(
    "texts", [["a cat\non a mat"], ["word " * 40], [f"{i}" for i in range(tar_shards.MANY_TEXTS + 1)]]
)
def test_captions_are_not_classes(tmp_path, texts):
    members = {}
    for i, text in enumerate(texts):
        members |= {f"{i}.png": b"", f"{i}.txt": text}
    told = []
    reporter = type(
        "R", (), {"warn": lambda self, text: told.append(text), "info": lambda self, text: None}
    )()
    source = open_source(make_tar(tmp_path / "x.tar", members), reporter=reporter)
    assert source.class_names == []
    assert set(source.labels.tolist()) == {-1}
    assert "captions" in told[0]


def test_members_of_a_tar_that_are_no_images_say_why(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_shards, "LARGEST_MEMBER", 10_000)
    members = {
        "../up.png": 1,
        "/root.png": 2,
        "big.png": bytes(10_001),
        "ok.png": 3,
        "ok.seg.png": 4,
        "text.png": "x",
    }
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo(f"kind-{kind.decode()}.png")
        info.type, info.linkname = kind, "/etc/passwd"
        members[info.name] = info
    bad = {
        "list": "[1]",
        "bool": '{"label": true}',
        "dict": '{"label": {}}',
        "deep": "[" * 10**5,
        "cut": '{"label',
    }
    for name, text in bad.items():
        members |= {f"{name}.png": 5, f"{name}.json": text}
    members |= {"bytes.png": 6, "bytes.cls": b"\xff\xfe", "long.png": 7, "long.cls": "x" * 101}
    source = open_source(make_tar(tmp_path / "x.tar", members))
    found = {source.names[i]: reason(source, i) for i in range(len(source)) if source.names[i] != "ok.png"}
    unsafe = "its path is absolute or contains .."
    assert found.pop("../up.png") == found.pop("/root.png") == unsafe
    assert found.pop("big.png") == "10,001 bytes; at most 10,000 are read"
    assert found.pop("ok.seg.png") == "a second image of the sample ok"
    assert found.pop("text.png") == "not an image"
    for name in [name for name in found if name.startswith("kind-")]:
        assert found.pop(name) == "a link, device or sparse file in the archive"
    assert found.keys() == {f"{name}.png" for name in (*bad, "bytes", "long")}
    for name, why in found.items():
        stem = name.removesuffix(".png")
        assert why.startswith(f"its label, {stem}.{'json' if stem in bad else 'cls'}, cannot be read")
    assert source.open(source.names.index("ok.png")).shape[0] == 3


def test_a_member_that_is_twice_there_is_read_once(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for number in (1, 2):
            info = tarfile.TarInfo("a.png")
            info.size = len(picture(number))
            file.addfile(info, io.BytesIO(picture(number)))
    source = open_source(tmp_path / "x.tar")
    assert torch.equal(source.open(0), decoded(picture(1), tmp_path))
    assert reason(source, 1) == "a second member of this name"


def test_every_truncation_and_change_of_a_tar_is_one_error(tmp_path):
    members = {"a.png": 1, "a.cls": "3", "b" * 120 + ".png": 2}
    data = make_tar(tmp_path / "x.tar", members).read_bytes()
    content = len(data.rstrip(b"\0"))
    random = np.random.default_rng(0)
    for length in range(0, content - 1, 97):
        if length % 512:  # at the end of a member it is a shorter archive
            (tmp_path / "x.tar").write_bytes(data[:length])
            with pytest.raises(InputError, match=r"x\.tar: (damaged or truncated|no images)"):
                open_source(tmp_path / "x.tar")
    for _ in range(200):
        changed = bytearray(data)
        for position in random.integers(0, content, 3):
            changed[position] = random.integers(256)
        (tmp_path / "x.tar").write_bytes(changed)
        try:
            source = open_source(tmp_path / "x.tar")
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        for i in range(len(source)):
            try:
                source.open(i)
            except InputError as error:
                assert str(error).startswith(source.location(i))  # noqa: PT017


def test_a_damaged_header_in_the_middle_is_an_error(tmp_path):
    """`tarfile` takes it for the end."""
    path = make_tar(tmp_path / "x.tar", {"a.png": 1, "b.png": 2, "c.png": 3}, tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[1024] ^= 1  # each image takes a header and a block
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.tar: damaged or truncated after 'a.png' \(a damaged header\)"):
        open_source(path)


def test_a_header_that_claims_all_memory_is_refused(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 36
    (tmp_path / "x.tar").write_bytes(
        info.tobuf(tarfile.USTAR_FORMAT if info.size < 8**11 else tarfile.GNU_FORMAT)
    )
    with open(tmp_path / "x.tar", "r+b") as file:
        file.truncate(1 << 37)  # sparse
    with pytest.raises(InputError, match=r"x\.tar: damaged or truncated at its beginning \(a header has"):
        open_source(tmp_path / "x.tar")


def test_a_table_of_contents_that_claims_all_memory_is_refused(tmp_path):
    """Its length is not trusted: members are read one after the other."""
    with open(tmp_path / "x.zip", "wb") as file:
        file.truncate(1 << 33)
        file.seek(1 << 33)
        file.write(struct.pack("<4s6xHII2x", b"PK\5\6", 1, 2**32 - 2, 0))
    with pytest.raises(InputError, match=r"x\.zip: not a readable zip"):
        open_source(tmp_path / "x.zip")


def test_shards_are_read_at_their_offsets_by_workers(tmp_path):
    source = open_source(shards(tmp_path))
    here = torch.cat([loading.ImageDataset(source, 4)[i][1] for i in range(6)])
    there = list(loading.load_batches(loading.ImageDataset(source, 4), [[5, 0], [3], [1, 2, 4]], 2, False))
    assert torch.equal(torch.cat([b.images[:, 0] for b in there]), here[[5, 0, 3, 1, 2, 4]])


def test_info_and_tokenize_read_archives(tmp_path, maskgit):
    options = ("--tokenizer", "builtin", "--workers", 0, "--overwrite", "--json")
    shards(tmp_path / "shards")
    make_zip(tmp_path / "x.zip", {"cat/a.png": 1, "dog/b.png": 2})
    for path, images in (("shards/s-{008..009}.tar", 4), ("shards", 6), ("x.zip", 2)):
        told = maskgit("info", tmp_path / path, "--json")
        assert json.loads(told.stdout)["images"] == images
        done = maskgit("tokenize", tmp_path / path, tmp_path / "t.h5", *options)
        assert done.status == 0, done.stderr
        assert json.loads(done.stdout)["images"] == images


def test_tokens_of_another_resolution_are_made_from_shards(tmp_path, maskgit):
    """A pattern is found again, although no file has that name."""
    shards(tmp_path / "shards")
    out, options = tmp_path / "t.h5", ("--tokenizer", "builtin", "--workers", 0)
    assert maskgit("tokenize", tmp_path / "shards/s-{008..010}.tar", out, *options).status == 0
    made = tokens_at(out, 32, workers=0, device="cpu")
    assert open_tokens(made).meta.resolution == 32
    assert open_tokens(made).names == open_tokens(out).names
