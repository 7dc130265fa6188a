"""Labels of ImageNet's validation images, in the layouts in which they are distributed."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from maskgit_cli.data.sources import open_source
from maskgit_cli.data.sources.imagenet_val import GROUND_TRUTH, META, SOLUTION
from maskgit_cli.errors import InputError

# Sorted, as training folders number them; the development kit has its own numbers.
IDS = ["n01440764", "n02119789", "n03995372"]
DEVKIT_NUMBERS = {5: IDS[0], 1: IDS[1], 3: IDS[2]}
# Of four validation images.
TRUTH = [IDS[2], IDS[0], IDS[2], IDS[1]]
NAMES = [f"ILSVRC2012_val_{i:08d}" for i in range(1, 5)]


class Recorder:
    """A reporter that remembers its warnings."""

    def __init__(self):
        self.warnings = []

    def info(self, text):
        pass

    def warn(self, text):
        self.warnings.append(text)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


@pytest.fixture
def kaggle(tmp_path):
    """Kaggle's layout, without the labels."""
    data = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    for wordnet_id in IDS:
        picture(data / "train" / wordnet_id / f"{wordnet_id}_1.JPEG")
    for name in NAMES:
        picture(data / "val" / f"{name}.JPEG")
    return tmp_path


def solution(*, order=(2, 0, 3, 1)):
    """Kaggle's CSV, which is not in the images' order."""
    rows = [f"{NAMES[i]},{TRUTH[i]} 85 1 499 272 {TRUTH[i]} 0 0 9 9 " for i in order]
    return "\n".join(["ImageId,PredictionString", *rows]) + "\n"


def write_devkit(folder):
    folder.mkdir(parents=True, exist_ok=True)
    number_of = {wordnet_id: number for number, wordnet_id in DEVKIT_NUMBERS.items()}
    (folder / GROUND_TRUTH).write_text("".join(f"{number_of[wordnet_id]}\n" for wordnet_id in TRUTH))
    synsets = np.array(
        [(number, wordnet_id, "words") for number, wordnet_id in DEVKIT_NUMBERS.items()],
        [("ILSVRC2012_ID", "f8"), ("WNID", object), ("words", object)],
    )
    savemat(folder / META, {"synsets": synsets})


def labels_of(path):
    reporter = Recorder()
    source = open_source(path, reporter=reporter)
    return [source.class_names[label] if label >= 0 else None for label in source.labels], source, reporter


@pytest.mark.parametrize(
    "where", [".", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/val"]
)
def test_kaggles_labels(kaggle, where):
    (kaggle / where / SOLUTION).write_text(solution())
    found, source, reporter = labels_of(kaggle / "ILSVRC/Data/CLS-LOC/val")
    assert found == TRUTH
    assert source.class_names == open_source(kaggle).class_names == IDS
    assert reporter.warnings == []


@pytest.mark.parametrize("where", ["ILSVRC2012_devkit_t12/data", "ILSVRC/Data/CLS-LOC/val", "ILSVRC/data"])
def test_the_labels_of_the_development_kit(kaggle, where):
    write_devkit(kaggle / where)
    found, source, _ = labels_of(kaggle / "ILSVRC/Data/CLS-LOC/val")
    assert (found, source.class_names) == (TRUTH, IDS)


def test_a_relative_path_and_classes_without_validation_images(kaggle, monkeypatch):
    """The training folders number the classes, also where the validation images lack some."""
    (kaggle / SOLUTION).write_text(solution())
    for i in (0, 2, 3):
        (kaggle / "ILSVRC/Data/CLS-LOC/val" / f"{NAMES[i]}.JPEG").unlink()
    (kaggle / SOLUTION).write_text(solution(order=(1,)))
    monkeypatch.chdir(kaggle / "ILSVRC/Data/CLS-LOC")
    found, source, _ = labels_of(type(kaggle)("val"))
    assert (found, source.class_names) == ([IDS[0]], IDS)


def test_images_without_labels_are_reported(kaggle):
    val = kaggle / "ILSVRC/Data/CLS-LOC/val"
    found, source, reporter = labels_of(val)
    assert (found, source.class_names) == ([None] * 4, [])
    assert SOLUTION in reporter.warnings[0]
    (kaggle / SOLUTION).write_text(solution(order=(0, 1)))
    found, source, reporter = labels_of(val)
    assert found == [*TRUTH[:2], None, None]
    assert "2 of 4" in reporter.warnings[0]


def test_other_flat_folders_need_no_labels(kaggle, tmp_path):
    picture(tmp_path / "photos" / "a.png")
    _, source, reporter = labels_of(tmp_path / "photos")
    assert (source.class_names, reporter.warnings) == ([], [])


@pytest.mark.parametrize(
    "text", ["ImageId,PredictionString\nx,cat 1 2 3 4\n", "a,b\n1,2\n", "ImageId\n\x00\n"]
)
def test_a_damaged_list_of_labels(kaggle, text):
    (kaggle / SOLUTION).write_text(text)
    with pytest.raises(InputError, match=SOLUTION):
        open_source(kaggle / "ILSVRC/Data/CLS-LOC/val")


def test_a_damaged_development_kit(kaggle):
    write_devkit(kaggle)
    val = kaggle / "ILSVRC/Data/CLS-LOC/val"
    (kaggle / GROUND_TRUTH).write_text("5\n7\n")
    with pytest.raises(InputError, match="class 7"):
        open_source(val)
    (kaggle / META).write_bytes(b"no matrix")
    with pytest.raises(InputError, match=META):
        open_source(val)
