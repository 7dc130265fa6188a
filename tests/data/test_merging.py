"""Parts of a token file and their merging: the bytes of one run, and nothing else is accepted."""

import os
import shutil

import numpy as np
import pytest
from resigned import rewrite_index
from tiny_training import count_syncs, kill_at

from maskgit_cli.config.stages import TokenizeConfig
from maskgit_cli.data import merging
from maskgit_cli.data.merging import merge
from maskgit_cli.data.tokenizing import tokenize
from maskgit_cli.errors import ArtifactError, ConfigError, InputError, MaskGITError, OutputError
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.formats.tokens import open_tokens, partial_path

SETTINGS = {"views": "random:3", "seed": 5}
RANGES = [(0, 4), (4, 5), (5, 13)]


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """Thirteen images, of which two cannot be read: one in the first part, one in the last."""
    root = tmp_path_factory.mktemp("merging") / "photos"
    shutil.copytree(images, root)
    (root / "cat" / "1.png").write_bytes(b"")
    (root / "owl" / "a-name-that-is-longer-than-all-others.png").write_text("no image")
    return root


@pytest.fixture(scope="module")
def make(folder, tokenizer):
    def call(out, start=0, stop=None, images=folder, **changes):
        config = TokenizeConfig(**SETTINGS | {"start": start, "stop": stop} | changes)
        return tokenize(images, out, tokenizer, config, batch_size=1, workers=0, device="cpu").path

    return call


@pytest.fixture(scope="module")
def whole(make, folder):
    return make(folder.parent / "whole.h5")


@pytest.fixture(scope="module")
def parts(make, folder):
    return [make(folder.parent / f"part-{first}.h5", first, stop) for first, stop in RANGES]


# --- the merged file --------------------------------------------------------------------------------


def test_parts_in_any_order_give_the_bytes_of_one_run(parts, whole, tmp_path):
    for i, order in enumerate(([0, 1, 2], [2, 0, 1])):
        out = tmp_path / f"{i}.h5"
        result = merge([parts[part] for part in order], out)
        assert out.read_bytes() == whole.read_bytes()
        assert result == (out, 11, open_tokens(whole).skipped, False)
    assert len(result.skipped) == 2
    assert sorted(os.listdir(tmp_path)) == ["0.h5", "1.h5"]


def test_a_part_has_the_images_of_its_range(parts, whole):
    tokens, everything = open_tokens(parts[2]), open_tokens(whole)
    assert tokens.names == everything.names[4:]
    assert np.array_equal(tokens.codes, everything.codes[4:])
    assert tokens.labels.tolist() == everything.labels[4:].tolist()
    assert tokens.meta.settings == everything.meta.settings | {"range": [5, 13], "listed": 13}
    assert tokens.meta.parents == everything.meta.parents


def test_a_range_may_end_past_the_last_image(make, parts, tmp_path):
    assert make(tmp_path / "t.h5", 5, 99).read_bytes() == parts[2].read_bytes()


@pytest.mark.parametrize(("start", "stop"), [(13, 14), (5, 5), (-1, 3), (6, 2)])
def test_ranges_without_images_are_refused(make, tmp_path, start, stop):
    with pytest.raises(ConfigError, match=f"--range {start}:{stop}"):
        make(tmp_path / "t.h5", start, stop)
    assert os.listdir(tmp_path) == []


def test_another_range_is_another_file(make, parts, tmp_path):
    out = shutil.copy(parts[0], tmp_path / "t.h5")
    with pytest.raises(OutputError, match=r"--range 0:4, not 0:5"):
        make(out, 0, 5)


def test_merging_copies_a_piece_at_a_time(parts, whole, tmp_path, monkeypatch):
    row = open_tokens(whole).codes[0].nbytes
    monkeypatch.setattr("maskgit_cli.formats.tokens.CHUNK_BYTES", 2 * row)
    sizes, write = [], TokenWriter.write

    def spy(self, indices, codes):
        sizes.append(len(indices))
        write(self, indices, codes)

    monkeypatch.setattr(TokenWriter, "write", spy)
    merge(parts, tmp_path / "t.h5")
    assert sizes == [2, 1, 1, 2, 2, 2, 1]
    assert (tmp_path / "t.h5").read_bytes() == whole.read_bytes()


# --- what is refused --------------------------------------------------------------------------------


def refused(parts, tmp_path, message, error=InputError):
    before = set(os.listdir(tmp_path))
    with pytest.raises(error, match=message) as raised:
        merge(parts, tmp_path / "new.h5")
    assert "\n" not in str(raised.value)
    assert set(os.listdir(tmp_path)) == before


def test_gaps_are_named(parts, tmp_path):
    refused(parts[:2], tmp_path, r"5:13 of 13; make them with .*--range 5:13")
    refused(parts[1:2], tmp_path, r"0:4, 5:13 of 13")
    refused([], tmp_path, "no parts")


def test_overlaps_are_named(make, parts, tmp_path):
    refused([*parts, parts[1]], tmp_path, r"part-4\.h5 and .*part-4\.h5 overlap.* 4:5")
    wide = make(tmp_path / "wide.h5", 2, 6)
    refused([*parts, wide], tmp_path, r"part-0\.h5 and .*wide\.h5 overlap.* 2:4")


def test_parts_of_other_settings_or_images(make, parts, folder, tokenizer, images, tmp_path):
    for name, change, message in [
        ("views", {"views": "none"}, r"--views none, not random:3"),
        ("seed", {"seed": 6}, r"--seed 6, not 5"),
        ("images", {"images": images}, r"images [0-9a-f]{12}, not"),
    ]:
        other = make(tmp_path / f"{name}.h5", 4, 5, **change)
        refused([parts[0], other, parts[2]], tmp_path, rf"{name}\.h5 and .*part-0\.h5.*{message}")


def test_files_that_are_not_parts(parts, whole, tokens, tmp_path):
    for path in (whole, tokens):
        refused([*parts, path], tmp_path, rf"{path.name} is not a part")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(parts[1].read_bytes()[:-9])
    refused([parts[0], cut, parts[2]], tmp_path, r"cut\.h5 is truncated", ArtifactError)


RANGES_THAT_CANNOT_BE = [
    *({"range": value} for value in ([4, 6], [4, 99], [4], "4:5", [5, 4], [4, 5.0], [False, True])),
    *({"listed": value} for value in (None, "13", 4)),
]


@pytest.mark.parametrize("settings", RANGES_THAT_CANNOT_BE)
def test_ranges_that_cannot_be(parts, tmp_path, settings):
    path = shutil.copy(parts[1], tmp_path / "odd.h5")
    rewrite_index(path, lambda index: index["attributes"]["settings"].update(settings))
    refused([parts[0], path, parts[2]], tmp_path, r"odd\.h5 is (not a part|damaged)", MaskGITError)


def test_a_part_is_not_replaced(parts, tmp_path):
    copies = [shutil.copy(part, tmp_path / part.name) for part in parts]
    before = [path.read_bytes() for path in copies]
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"part-5\.h5 is a part itself"):
            merge(copies, copies[2], overwrite=overwrite)
    assert [path.read_bytes() for path in copies] == before


# --- running it again -------------------------------------------------------------------------------


def test_again_is_already_complete(parts, whole, tmp_path):
    out = shutil.copy(whole, tmp_path / "t.h5")
    before = out.stat().st_mtime_ns
    assert merge(parts, out) == (out, 11, open_tokens(whole).skipped, True)
    assert out.stat().st_mtime_ns == before
    merge(parts, out, overwrite=True)
    assert out.stat().st_mtime_ns > before


def test_killed_at_any_write_it_resumes_to_the_same_bytes(parts, whole, tmp_path):
    moments = count_syncs(merge, parts, tmp_path / "undisturbed.h5")
    resumed = []
    for moment in range(1, moments + 1):
        out = tmp_path / f"{moment}.h5"
        assert kill_at(moment, merge, parts, out)
        resumed.append(merge(parts, out).resumed)
        assert out.read_bytes() == whole.read_bytes()
    assert True in resumed
    names = {f"{moment}.h5" for moment in range(1, moments + 1)}
    assert set(os.listdir(tmp_path)) == names | {"undisturbed.h5"}


def test_rows_of_a_part_that_was_made_again_are_written_again(parts, tokenizer, tmp_path, monkeypatch):
    """As if another machine had rounded one token otherwise."""
    out, finish = tmp_path / "t.h5", TokenWriter.finish

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenWriter, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        merge(parts, out)
    monkeypatch.setattr(TokenWriter, "finish", finish)
    assert partial_path(out).exists()
    old = open_tokens(parts[1])
    again = TokenWriter.create_or_resume(tmp_path / "again.h5", old.meta, old.names, old.labels)
    again.write(np.arange(1), (old.codes + 1) % old.meta.codebook_size)
    again.finish(old.skipped)
    rows, write = [], TokenWriter.write
    monkeypatch.setattr(TokenWriter, "write", lambda self, i, c: rows.extend(i.tolist()) or write(self, i, c))
    assert merge([parts[0], tmp_path / "again.h5", parts[2]], out).resumed
    assert rows == [3]
    assert np.array_equal(open_tokens(out).codes[3], (old.codes[0] + 1) % old.meta.codebook_size)


def test_the_output_is_locked(parts, tmp_path):
    with merging.claim(tmp_path / "t.h5", merging.TOKENS, {}), pytest.raises(OutputError, match="in use"):
        merge(parts, tmp_path / "t.h5")


def test_the_command(parts, whole, tmp_path, maskgit):
    done = maskgit("merge", *parts, tmp_path / "t.h5")
    assert (done.status, done.stdout) == (0, f"{tmp_path / 't.h5'}\n")
    assert (tmp_path / "t.h5").read_bytes() == whole.read_bytes()
