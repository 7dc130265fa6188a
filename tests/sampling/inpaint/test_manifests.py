"""Manifests: the columns of a line, their defaults, and every kind of error."""

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


def test_a_line_with_all_columns(read, tmp_path):
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


def test_defaults(read):
    text = 'Image , box,seed\none.png,"0,0,1,1"\n\ntwo.png,"0,0,1,1",4\nthree.png,"0,0,1,1",\n'
    edits = read(text, seed=10, label="dog", window=8)
    assert [(edit.seed, edit.name, edit.line) for edit in edits] == [
        (10, "one", 2),
        (4, "two", 4),
        (12, "three", 5),
    ]
    assert {(edit.label, edit.window, edit.mask, edit.outpaint) for edit in edits} == {("dog", 8, None, None)}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "empty"),
        ("image\n", "no lines"),
        ("image,color\na.png,red\n", "line 1: unknown column 'color'"),
        ("image,box,box\n", "line 1: the column 'box'"),
        ("mask,box\n", "line 1: has no column 'image'"),
        ("image,box\na.png,1,2,3,4\n", "line 2: has 5 cells for 2 columns"),
        ("image,box\n,\n,x\n", "line 3: "),
        ('image,box\na.png,"1,2,3"\n', "line 2: box: '1,2,3'"),
        ('image,box\na.png,"1,2,3,0"\n', "line 2: --box 1,2,3,0: "),
        (
            'image,keep_box\na.png,"1,2,3,4=cat"\n',
            "line 2: --keep-box 1,2,3,4=cat: ",
        ),
        ("image,outpaint\na.png,left:x\n", "line 2: outpaint: 'left:x'"),
        ("image,outpaint\na.png,left:0\n", "line 2: --outpaint 0: "),
        ("image,seed\na.png,-1\n", "line 2: seed -1: "),
        ("image,seed\na.png,18446744073709551616\n", "line 2: seed 18446744073709551616: "),
        ("image,seed\na.png," + "9" * 5000 + "\n", "line 2: seed 9999"),
        ("image,seed\na.png,1.5\n", "line 2: seed 1.5: "),
        ("image,window\na.png,0\n", "line 2: window 0: "),
        ('image\n"a.png\n', "not a readable CSV"),
    ],
)
def test_unusable_lines(read, text, shown):
    with pytest.raises(InputError) as caught:
        read(text)
    assert f"edits.csv: {shown}" in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv"):
        read_manifest(tmp_path / "absent.csv", InpaintConfig())
    with pytest.raises(InputError, match=tmp_path.name):
        read_manifest(tmp_path, InpaintConfig())
    Path(tmp_path / "odd.csv").write_bytes(b"image\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"odd\.csv"):
        read_manifest(tmp_path / "odd.csv", InpaintConfig())
