"""Manifests: what a line means, what it leaves to the command, and every way in which it can be wrong."""

from pathlib import Path

import pytest

from maskgit_cli.config.inpaint import Box, InpaintConfig, Outpaint
from maskgit_cli.errors import InputError
from maskgit_cli.sampling.inpaint.manifests import read_manifest


@pytest.fixture
def read(tmp_path):
    def read(text, **config):
        path = tmp_path / "edits.csv"
        path.write_text(text, encoding="utf-8-sig")
        return read_manifest(path, InpaintConfig(**config))

    return read


def test_a_line_says_everything(read, tmp_path):
    (edit,) = read(
        "seed,image,mask,box,keep_box,outpaint,label,window,name\n"
        '18446744073709551615,a\\b.png,m.png,"1,2,3,4=red fox, Vulpes; 5,6,7,8","1,2,1,1","left:3,top:4",cat,'
        "64,mine\n"
    )
    assert edit.image == tmp_path / "a/b.png"
    assert edit.mask == tmp_path / "m.png"
    assert edit.box == (Box(1, 2, 3, 4, "red fox, Vulpes"), Box(5, 6, 7, 8))
    assert edit.keep_box == (Box(1, 2, 1, 1),)
    assert edit.outpaint == Outpaint(left=3, top=4)
    assert (edit.label, edit.seed, edit.window, edit.name, edit.line) == ("cat", 2**64 - 1, 64, "mine", 2)


def test_what_a_line_leaves_out(read):
    text = 'Image , box,seed\none.png,"0,0,1,1"\n\ntwo.png,"0,0,1,1",4\nthree.png,"0,0,1,1",\n'
    edits = read(text, seed=10, label="dog", window=8)
    assert [(edit.seed, edit.name, edit.line) for edit in edits] == [
        (10, "one", 2),
        (4, "two", 4),
        (12, "three", 5),
    ]
    assert {(edit.label, edit.window, edit.mask, edit.outpaint) for edit in edits} == {("dog", 8, None, None)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; its first line names the columns: image,mask,box"),
        ("image\n", "no line below the names of the columns"),
        ("image,color\na.png,red\n", "line 1: unknown column 'color'; there are image, mask"),
        ("image,box,box\n", "line 1: has the column 'box' twice"),
        ("mask,box\n", "line 1: has no column 'image'"),
        ("image,box\na.png,1,2,3,4\n", "line 2: has 5 cells for 2 columns; quote cells with commas"),
        ("image,box\n,\n,x\n", "line 3: names no image"),
        ('image,box\na.png,"1,2,3"\n', "line 2: box: '1,2,3' is not X,Y,W,H"),
        ('image,box\na.png,"1,2,3,0"\n', "line 2: --box 1,2,3,0: width and height must be 1 or more"),
        (
            'image,keep_box\na.png,"1,2,3,4=cat"\n',
            "line 2: --keep-box 1,2,3,4=cat: what is kept has no class",
        ),
        ("image,outpaint\na.png,left:x\n", "line 2: outpaint: 'left:x' is not SIDE:PIXELS"),
        ("image,outpaint\na.png,left:0\n", "line 2: --outpaint 0: must be at least one pixel"),
        ("image,seed\na.png,-1\n", "line 2: seed -1: must be a whole number, between 0 and 2^64 - 1"),
        ("image,seed\na.png,18446744073709551616\n", "line 2: seed 18446744073709551616: must be"),
        ("image,seed\na.png," + "9" * 5000 + "\n", "line 2: seed 9999"),
        ("image,seed\na.png,1.5\n", "line 2: seed 1.5: must be a whole number"),
        ("image,window\na.png,0\n", "line 2: window 0: must be a whole number, 1 or more"),
        ('image\n"a.png\n', "not a readable CSV"),
    ],
)
def test_lines_that_cannot_be_used(read, text, message):
    with pytest.raises(InputError) as caught:
        read(text)
    assert f"edits.csv: {message}" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv: no such file"):
        read_manifest(tmp_path / "absent.csv", InpaintConfig())
    with pytest.raises(InputError, match="not a readable CSV"):
        read_manifest(tmp_path, InpaintConfig())
    Path(tmp_path / "odd.csv").write_bytes(b"image\n\xff\xfe\n")
    with pytest.raises(InputError, match="not a readable CSV"):
        read_manifest(tmp_path / "odd.csv", InpaintConfig())
