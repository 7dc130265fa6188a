"""Classes of ImageNet's validation images, from Kaggle's file or the development kit."""

import numpy as np
import pytest
from scipy.io import savemat
from test_sources import Recorder, save

from maskgit_cli.data.sources import open_source
from maskgit_cli.errors import InputError

IDS = {1: "n02000000", 2: "n01000000", 3: "n03000000", 4: "n02000000"}


@pytest.fixture
def val(tmp_path):
    """Four validation images in Kaggle's layout, without their classes."""
    folder = tmp_path / "imagenet/ILSVRC/Data/CLS-LOC/val"
    for number in IDS:
        save(folder / f"ILSVRC2012_val_{number:08d}.JPEG", format="JPEG")
    return folder


def solution(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"ILSVRC2012_val_{n:08d},{i} 85 1 499 272 {i} 1 2 3 4" for n, i in reversed(ids.items())]
    path.write_text("\n".join(["ImageId,PredictionString", *lines]) + "\n")


def devkit(folder, numbers):
    """Its classes have numbers in another order than their WordNet ids; inner nodes follow."""
    folder.mkdir(parents=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in numbers))
    rows = [(1, "n03000000"), (2, "n01000000"), (3, "n02000000"), (4, "n09000000")]
    synsets = np.array(rows, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(folder / "meta.mat", {"synsets": synsets})


@pytest.mark.parametrize("place", [".", "ILSVRC", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/val"])
def test_classes_of_kaggles_file(tmp_path, val, place):
    solution(tmp_path / "imagenet" / place / "LOC_val_solution.csv", IDS)
    source = open_source(val)
    assert source.class_names == ["n01000000", "n02000000", "n03000000"]  # as the folders of train are sorted
    assert source.labels.tolist() == [1, 0, 2, 1]


@pytest.mark.parametrize("place", ["ILSVRC/Data/CLS-LOC/ILSVRC2012_devkit_t12/data", "ILSVRC/devkit/data"])
def test_classes_of_the_development_kit(tmp_path, val, place):
    devkit(tmp_path / "imagenet" / place, [3, 2, 1, 3])
    source = open_source(val)
    assert source.class_names == ["n01000000", "n02000000", "n03000000"]
    assert source.labels.tolist() == [1, 0, 2, 1]


def test_without_either_a_warning_says_so(val):
    reporter = Recorder()
    source = open_source(val, reporter=reporter)
    assert source.labels.tolist() == [-1] * 4
    assert [w for w in reporter.warnings if "LOC_val_solution.csv" in w]


def test_other_images_are_not_taken_for_them(tmp_path, val):
    save(val / "mine.JPEG", format="JPEG")
    solution(tmp_path / "imagenet/LOC_val_solution.csv", IDS)
    reporter = Recorder()
    assert open_source(val, reporter=reporter).class_names == []
    assert not reporter.warnings


def test_an_incomplete_file_is_refused(tmp_path, val):
    solution(tmp_path / "imagenet/LOC_val_solution.csv", {1: IDS[1]})
    with pytest.raises(InputError, match="ILSVRC2012_val_00000002"):
        open_source(val)


@pytest.mark.parametrize("text", ["ImageId,PredictionString\nILSVRC2012_val_00000001\n", "a,b\nx,y z\n"])
def test_another_file_is_refused(tmp_path, val, text):
    (tmp_path / "imagenet/LOC_val_solution.csv").write_text(text)
    with pytest.raises(InputError, match="line 2"):
        open_source(val)


def test_a_damaged_development_kit_is_refused(tmp_path, val):
    devkit(tmp_path / "imagenet/ILSVRC/devkit/data", [3, 2, 1, 9])
    with pytest.raises(InputError, match="9 is not"):
        open_source(val)
    (tmp_path / "imagenet/ILSVRC/devkit/data/meta.mat").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"meta\.mat"):
        open_source(val)
