"""Token files: what is written is what is read, even after a kill; nothing else is accepted."""

import dataclasses
import errno
import os
import pickle
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from published import DATA
from resigned import rewrite_index

from maskgit_cli.errors import ArtifactError, OutputError
from maskgit_cli.formats import in_place, token_index, tokens
from maskgit_cli.formats import token_writer as token_writing
from maskgit_cli.formats.claim import Outcome, claim
from maskgit_cli.formats.token_writer import TOKENS, TokenWriter, tokens_record
from maskgit_cli.formats.tokens import TokenMeta, check_tokenizer, open_tokens
from maskgit_cli.reports.inspecting import describe

META = TokenMeta(
    codebook_size=1024,
    grid=4,
    resolution=64,
    views="flip",
    class_names=["Katze", "犬"],
    tokenizer="vqgan",
    tokenizer_sha256="ab" * 32,
    settings={"res": 64, "views": "flip", "list": [1, 2]},
    parents=[{"kind": "images", "name": "photos", "sha256": "cd" * 32}],
)
NAMES = [f"Katze/{i}.png" for i in range(5)] + ["Katze/ü.png", os.fsdecode(b"Katze/\xff.png")]
LABELS = np.array([0, 1, -1, 0, 1, 0, 0], np.int32)
CODES = np.random.default_rng(0).integers(0, 1024, (7, 2, 4, 4))


def write(path, meta=META, rows=range(7), skipped=(), **changes):
    writer = TokenWriter.create_or_resume(path, dataclasses.replace(meta, **changes), NAMES, LABELS)
    for row in rows:
        writer.write(np.array([row]), CODES[[row]])
    return writer.finish(skipped)


def outcome(path, meta=META, overwrite=False):
    """What a claim of a token file yields."""
    with claim(path, TOKENS, tokens_record(meta), overwrite=overwrite) as claimed:
        return claimed.outcome


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "t.h5")


# --- round trip -------------------------------------------------------------------------------------


def test_round_trip(path):
    file = open_tokens(path)
    assert file.meta == META
    assert len(file) == 7
    assert file.names == NAMES
    assert file.skipped == []
    assert np.array_equal(file.labels, LABELS)
    assert file.codes.dtype == np.uint16
    assert np.array_equal(file.codes, CODES)
    with pytest.raises(ValueError, match="read-only"):
        file.codes[0] = 1
    assert os.listdir(path.parent) == ["t.h5"]


def test_layout_is_what_other_readers_rely_on(path):
    with h5py.File(path) as file:
        assert set(file) == {"codes", "labels", "names", "done", "skipped", "row_crc32"}
        wanted = {"format", "version", "complete"} | {f.name for f in dataclasses.fields(TokenMeta)}
        assert set(file.attrs) == wanted
        assert (file.attrs["format"], file.attrs["version"]) == ("maskgit-tokens", 2)
        assert bool(file.attrs["complete"])
        assert file["codes"].shape == (7, 2, 4, 4)
        assert file["names"][0] == b"Katze/0.png"
        assert h5py.check_string_dtype(file["names"].dtype).encoding == "utf-8"
        assert file["done"].dtype == np.bool_
        assert file["done"][:].all()
        for name in ("codes", "labels", "names", "done", "row_crc32"):
            assert file[name].chunks is None
            assert file[name].id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
        offset = file["codes"].id.get_offset()
    raw = np.fromfile(path, "<u2", CODES.size, offset=offset)
    assert np.array_equal(raw.reshape(CODES.shape), CODES)


def test_rows_in_any_order_and_skipped_ones_left_out(tmp_path):
    write(tmp_path / "t.h5", rows=[6, 0, 3], skipped=[(NAMES[1], "empty file"), (NAMES[2], "20×10")])
    file = open_tokens(tmp_path / "t.h5")
    assert file.names == [NAMES[0], NAMES[3], NAMES[6]]
    assert np.array_equal(file.labels, LABELS[[0, 3, 6]])
    assert np.array_equal(file.codes, CODES[[0, 3, 6]])
    assert file.skipped == [(NAMES[1], "empty file"), (NAMES[2], "20×10")]


def test_large_files_are_copied_and_checked_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK_BYTES", 140)  # two rows and a bit
    monkeypatch.setattr(token_index, "CHUNK_BYTES", 140)
    assert np.array_equal(open_tokens(write(tmp_path / "t.h5")).codes, CODES)


def test_no_time_in_the_bytes(path, tmp_path):
    time.sleep(1.1)  # HDF5 stores times in seconds, if it stores them
    assert write(tmp_path / "u.h5").read_bytes() == path.read_bytes()


def test_ten_thousand_classes_with_long_names(tmp_path):
    names = [f"a class whose name is rather long, number {i}" for i in range(10_000)]
    write(tmp_path / "t.h5", class_names=names)
    assert open_tokens(tmp_path / "t.h5").meta.class_names == names


def test_a_pickled_file_maps_its_codes_again(path):
    file = open_tokens(path)
    assert file.codes.shape == CODES.shape
    assert file.names == NAMES
    pickled = pickle.dumps(file)
    assert CODES[0].astype("<u2").tobytes() not in pickled
    copy = pickle.loads(pickled)
    assert np.array_equal(copy.codes, CODES)
    assert copy.sha256 == file.sha256


# --- interruptions ----------------------------------------------------------------------------------


def test_resumes_where_it_stopped(path, tmp_path):
    writer = TokenWriter.create_or_resume(tmp_path / "u.h5", META, NAMES, LABELS)
    writer.write(np.array([4, 1]), CODES[[4, 1]])
    del writer
    assert not (tmp_path / "u.h5").exists()
    again = TokenWriter.create_or_resume(tmp_path / "u.h5", META, NAMES, LABELS)
    assert np.flatnonzero(again.done).tolist() == [1, 4]
    rest = np.flatnonzero(~again.done)
    again.write(rest, CODES[rest])
    assert again.finish().read_bytes() == path.read_bytes()


def test_two_writers_fill_one_file(path, tmp_path):
    first, second = (TokenWriter.create_or_resume(tmp_path / "u.h5", META, NAMES, LABELS) for _ in range(2))
    first.write(np.arange(0, 7, 2), CODES[0::2])
    second.write(np.arange(1, 7, 2), CODES[1::2])
    assert first.finish().read_bytes() == path.read_bytes()


def test_codes_reach_the_file_before_they_are_called_done(tmp_path, monkeypatch):
    writer = TokenWriter.create_or_resume(tmp_path / "t.h5", META, NAMES, LABELS)
    monkeypatch.setattr(token_writing.os, "fsync", lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        writer.write(np.array([0]), CODES[[0]])
    monkeypatch.undo()
    again = TokenWriter.create_or_resume(tmp_path / "t.h5", META, NAMES, LABELS)
    assert not again.done.any()


def test_killed_between_rename_and_removal(path):
    leftover = TokenWriter.create_or_resume(path, META, NAMES, LABELS)
    assert leftover.partial.exists()
    assert outcome(path) is Outcome.COMPLETE
    assert os.listdir(path.parent) == ["t.h5"]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"settings": {"res": 64, "views": "flip", "list": [1, 3]}}, "--list 1:2, not 1:3"),
        ({"resolution": 128}, "resolution 64, not 128"),
        ({"tokenizer_sha256": "ee" * 32}, "tokenizer abababababab, not eeeeeeeeeeee"),
        ({"parents": [{"kind": "images", "name": "photos", "sha256": "ff" * 32}]}, "images cdcd.*, not ffff"),
        ({"class_names": ["a class " * 20, "b"]}, "class_names Katze:犬, not a class"),
    ],
)
def test_other_settings_than_those_of_an_existing_file(path, tmp_path, change, difference):
    other = dataclasses.replace(META, **change)
    with pytest.raises(OutputError, match=rf"t\.h5 exists .*{difference}.*--overwrite"):
        outcome(path, other)
    TokenWriter.create_or_resume(tmp_path / "u.h5", META, NAMES, LABELS)
    with pytest.raises(OutputError, match=rf"u\.h5 was started .*{difference}.*--overwrite"):
        outcome(tmp_path / "u.h5", other)
    assert outcome(tmp_path / "u.h5", META) is Outcome.RESUME
    assert outcome(tmp_path / "u.h5", other, overwrite=True) is Outcome.NEW
    assert TokenWriter.create_or_resume(tmp_path / "u.h5", other, NAMES, LABELS).meta == other


def test_tuples_names_and_versions_make_no_difference(path):
    settings = {**META.settings, "list": (1, 2)}
    parents = [{**META.parents[0], "name": "moved"}]
    same = dataclasses.replace(META, settings=settings, parents=parents, created_by="x", tokenizer="moved")
    assert outcome(path, same) is Outcome.COMPLETE


def test_other_images_over_an_unfinished_file(tmp_path):
    TokenWriter.create_or_resume(tmp_path / "t.h5", META, NAMES, LABELS)
    for names, labels in [(NAMES[::-1], LABELS), (NAMES, LABELS[::-1])]:
        with pytest.raises(OutputError, match=r"other images or labels.*--overwrite"):
            TokenWriter.create_or_resume(tmp_path / "t.h5", META, names, labels)


def test_a_finished_file_stays_until_its_replacement_is_complete(path):
    before = path.read_bytes()
    with claim(path, TOKENS, tokens_record(META), overwrite=True) as claimed:
        assert claimed.outcome is Outcome.REPLACE
        TokenWriter.create_or_resume(path, META, NAMES, LABELS).write(np.arange(3), CODES[4:])
        assert path.read_bytes() == before
    with claim(path, TOKENS, tokens_record(META), overwrite=True) as claimed:  # the same command again
        assert claimed.outcome is Outcome.REPLACE
        writer = TokenWriter.create_or_resume(path, META, NAMES, LABELS)
        assert writer.done.sum() == 3
        writer.write(np.arange(3, 7), CODES[3::-1])
        writer.finish()
    assert np.array_equal(open_tokens(path).codes, np.concatenate([CODES[4:], CODES[3::-1]]))
    assert os.listdir(path.parent) == ["t.h5"]


def test_damaged_partial(tmp_path):
    (tmp_path / "t.h5.partial").write_bytes(b"rubbish")
    with pytest.raises(OutputError, match=r"t\.h5.*not a token file.*--overwrite"):
        outcome(tmp_path / "t.h5")
    assert outcome(tmp_path / "t.h5", overwrite=True) is Outcome.NEW
    TokenWriter.create_or_resume(tmp_path / "t.h5", META, NAMES, LABELS)


def test_files_of_something_else(tmp_path):
    assert outcome(tmp_path / "t.h5") is Outcome.NEW
    (tmp_path / "t.h5").write_bytes(b"rubbish")
    with pytest.raises(OutputError, match=r"not a token file.*--overwrite"):
        outcome(tmp_path / "t.h5")
    assert outcome(tmp_path / "t.h5", overwrite=True) is Outcome.REPLACE


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(in_place.os, "posix_fallocate", full_disk, raising=False)
    with pytest.raises(OutputError, match="the disk is full"):
        TokenWriter.create_or_resume(tmp_path / "t.h5", META, NAMES, LABELS)
    assert os.listdir(tmp_path) == []


def test_full_disk_on_the_way_and_at_the_end(path, tmp_path, monkeypatch):
    writer = TokenWriter.create_or_resume(tmp_path / "u.h5", META, NAMES, LABELS)
    monkeypatch.setattr(in_place.os, "pwrite", full_disk)
    with pytest.raises(OutputError, match="the disk is full"):
        writer.write(np.arange(7), CODES)
    assert not writer.done.any()
    monkeypatch.undo()
    writer.write(np.arange(7), CODES)
    monkeypatch.setattr(in_place.os, "pwrite", full_disk)
    with pytest.raises(OutputError, match="the disk is full"):
        writer.finish()
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["t.h5", "u.h5.partial"]
    again = TokenWriter.create_or_resume(tmp_path / "u.h5", META, NAMES, LABELS)
    assert again.finish().read_bytes() == path.read_bytes()


def test_file_systems_that_cannot_reserve(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(in_place.os, "posix_fallocate", refuse, raising=False)
    assert np.array_equal(open_tokens(write(tmp_path / "t.h5")).codes, CODES)


def test_a_folder_is_made_and_one_is_never_replaced(tmp_path):
    write(tmp_path / "new/folder/t.h5")
    with pytest.raises(OutputError, match="new exists and is a folder"):
        outcome(tmp_path / "new", overwrite=True)


# --- what readers refuse ----------------------------------------------------------------------------


def dataset(name, **values):
    return lambda index: index["datasets"][name].update(values)


def attribute(name, value):
    return lambda index: index["attributes"].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(complete=False), "not finished"),
        (lambda index: index["attributes"].pop("grid"), "its grid is not int"),
        (attribute("views", "three"), "has views 'three'"),
        (attribute("settings", "{"), "its settings is not dict"),
        (attribute("class_names", ["one"]), "a label outside its 1 classes"),
        (attribute("codebook_size", 512), "token [0-9]+ is outside its codebook of 512"),
        (attribute("resolution", 66), "grid 4 of resolution 66"),
        (attribute("grid", 8), r"its codes are uint16 \(7, 2, 4, 4\), not uint16 \(7, 2, 8, 8\)"),
        (lambda index: index["datasets"].pop("codes"), "should not have codes"),
        (dataset("codes", dtype="|u1"), "its codes are uint8"),
        (dataset("codes", dtype=">u2"), "nothing usable about codes"),
        (dataset("codes", sha256="0" * 64), "its codes differ"),
        (dataset("labels", shape=[6]), r"its codes are .*\(7, 2, 4, 4\), not uint16 \(6,"),
        (dataset("labels", shape=[0]), "holds no images"),
        (dataset("names", shape=[6]), "its names are"),
        (dataset("names", dtype="<i4"), "its names are int32"),
        (dataset("skipped", shape=[2, 3]), "its skipped are"),
        (lambda index: index.update(bytes=index["bytes"] + 1), "truncated or damaged"),
    ],
)
def test_readers_refuse(path, change, message):
    rewrite_index(path, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        open_tokens(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def flip(path, offset, bit=0):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def place(path, name):
    """Offset of a dataset."""
    with h5py.File(path) as file:
        return file[name].id.get_offset()


def test_every_byte_is_covered(path):
    """One flipped bit anywhere is refused: in the index, in HDF5's own structures, in every dataset."""
    whole = path.read_bytes()
    for offset in range(0, len(whole), 13):
        flip(path, offset, offset % 8)
        with pytest.raises(ArtifactError, match=r"damaged|not a token file|version"):
            open_tokens(path)
        path.write_bytes(whole)
    assert np.array_equal(open_tokens(path).codes, CODES)


def test_damaged_rows_are_named(path):
    for row in (1, 2, 5):
        flip(path, place(path, "codes") + row * CODES[0].size * 2 + 7)
    with pytest.raises(ArtifactError, match="rows 1-2, 5 of 7 differ from their checksums"):
        open_tokens(path)


def test_ranges_of_rows():
    assert tokens.ranges(np.array([4])) == "4"
    assert tokens.ranges(np.array([0, 1, 2, 7, 9, 10])) == "0-2, 7, 9-10"
    assert tokens.ranges(np.arange(0, 20, 2)) == "0, 2, 4, 6 and 6 more ranges"


def test_hdf5_is_not_asked(path):
    """Readers need the index alone: zeros over the header, in which HDF5 loops, do not matter to them."""
    superblock = path.read_bytes().index(b"\x89HDF")
    data = bytearray(path.read_bytes())
    data[superblock : superblock + 2048] = bytes(2048)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="its metadata do not match their digest"):
        open_tokens(path)
    rewrite_index(path, lambda index: None, block=superblock)
    assert np.array_equal(open_tokens(path).codes, CODES)


def test_version_1_is_refused_with_what_to_do():
    with pytest.raises(ArtifactError, match=r"version 1 .* reads version 2; write it again"):
        open_tokens(DATA / "faults" / "hang.h5")


def test_damaged_rows_of_an_unfinished_file_are_written_again(path, tmp_path):
    writer = TokenWriter.create_or_resume(tmp_path / "u.h5", META, NAMES, LABELS)
    writer.write(np.arange(5), CODES[:5])
    with h5py.File(writer.partial) as file:
        offset = file["codes"].id.get_offset()
    flip(writer.partial, offset + 3 * CODES[0].size * 2)
    with pytest.warns(UserWarning, match=r"rows 3 of .* are written again"):
        again = TokenWriter.create_or_resume(tmp_path / "u.h5", META, NAMES, LABELS)
    assert np.flatnonzero(~again.done).tolist() == [3, 5, 6]
    rest = np.flatnonzero(~again.done)
    again.write(rest, CODES[rest])
    assert again.finish().read_bytes() == path.read_bytes()


def test_rows_that_change_before_the_file_is_finished(tmp_path):
    writer = TokenWriter.create_or_resume(tmp_path / "u.h5", META, NAMES, LABELS)
    writer.write(np.arange(7), CODES)
    with h5py.File(writer.partial) as file:
        offset = file["codes"].id.get_offset()
    flip(writer.partial, offset)
    with pytest.raises(ArtifactError, match=r"rows 0 of .* differ from their checksums"):
        writer.finish()
    assert writer.partial.exists()
    assert not (tmp_path / "u.h5").exists()


def test_class_names_fill_a_larger_block(tmp_path):
    write(tmp_path / "t.h5", class_names=[f"{i} " * 20 for i in range(1000)])
    with h5py.File(tmp_path / "t.h5") as file:
        assert file.userblock_size >= 2**16
        assert np.array_equal(file["codes"][:], CODES)
    assert len(open_tokens(tmp_path / "t.h5").meta.class_names) == 1000


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.999])
def test_truncated(path, part):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ArtifactError, match="truncated or damaged"):
        open_tokens(path)


def test_a_file_one_may_not_read_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "t.h5").write_bytes(b"x")

    def refuse(*_, **__):
        raise PermissionError  # root may read everything

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ArtifactError, match=r"t.h5 cannot be read: no permission"):
        open_tokens(tmp_path / "t.h5")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"x" * 5000])
def test_not_hdf5(tmp_path, content):
    (tmp_path / "t.h5").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not a token file; `maskgit tokenize`"):
        open_tokens(tmp_path / "t.h5")


def test_missing_folder_or_unfinished(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        open_tokens(tmp_path / "t.h5")
    with pytest.raises(ArtifactError, match="not a token file"):
        open_tokens(tmp_path)
    writer = TokenWriter.create_or_resume(tmp_path / "t.h5", META, NAMES, LABELS)
    for unfinished in (tmp_path / "t.h5", writer.partial):
        with pytest.raises(ArtifactError, match="not finished"):
            open_tokens(unfinished)


def test_another_tokenizer():
    check_tokenizer(META, "ab" * 32)
    with pytest.raises(ArtifactError, match=r"tokenizer vqgan .*abababababab.*cdcdcdcdcdcd"):
        check_tokenizer(META, "cd" * 32)


def test_info_distinguishes_an_unfinished_file_from_an_absent_one(tmp_path):
    path = tmp_path / "tokens.h5"
    writer = TokenWriter.create_or_resume(path, META, NAMES, LABELS)
    writer.write(np.array([0]), CODES[[0]])
    del writer
    with pytest.raises(ArtifactError, match=r"tokens\.h5 is not finished"):
        describe(path)
    write(path, rows=range(1, 7))
    assert describe(path)["images"] == 7
