"""The inputs of all cases: small artifacts of every kind, made by the commands themselves."""

import shlex
import shutil
from pathlib import Path

from filelock import FileLock
from PIL import Image, ImageDraw
from published import GOOGLE, HALTON, V1

from faults.child import Call
from faults.processes import finish

TOKENIZER = (
    "--size tiny --res 16 --codebook-size 12 --batch-size 4 --perceptual-weight 0 --workers 0 "
    "--adversarial-start 1 --discriminator-channels 4 --warmup 1 --preview-every 0 --log-every 1"
)
TRAINING = "--size tiny --batch-size 8 --warmup 1 --log-every 1 --tokenizer tokenizer"
FEATURES = "--features vqgan --tokenizer tokenizer"
CLASSES = ("cat", "dog", "owl")

# What makes the workshop, in order. All names are relative to it.
COMMANDS = (
    f"train-vqgan images --out trained-tokenizer --steps 2 --checkpoint-every 1 {TOKENIZER}",
    "export trained-tokenizer tokenizer",
    "tokenize images tokens.h5 --tokenizer tokenizer --workers 0",
    "tokenize images flip.h5 --tokenizer tokenizer --workers 0 --views flip",
    "tokenize images part-0.h5 --tokenizer tokenizer --workers 0 --range 0:6",
    "tokenize images part-1.h5 --tokenizer tokenizer --workers 0 --range 6:99",
    "tokenize images other-part.h5 --tokenizer tokenizer --workers 0 --range 0:99 --views flip",
    f"train tokens.h5 --out run --steps 4 --checkpoint-every 2 --preview-every 4 {TRAINING}",
    "export run model --steps 3",
    "export run other-model --half",
    "sample model --out samples --n 6 --format npz",
    "sample model --out other-samples --n 6 --seed 1",
    "sample model --out traced --n 2 --steps 2 --trace",
    f"fid-stats images stats.npz --with-features {FEATURES}",
    f"fid-stats samples other-stats.npz {FEATURES}",
    f"fid samples --ref stats.npz --out scores.json {FEATURES}",
    "sweep model --ref stats.npz --out sweep --steps 1,2 --n 4 --features vqgan",
    "decode tokens.h5 decoded --tokenizer tokenizer",
    "import published/MaskGIT_tiny.pth imported --tokenizer published/last.ckpt "
    "--tokenizer published/model.yaml",
)


def make(root: Path) -> Path:
    """Write the workshop at ``root``, once; other processes wait for it."""
    with FileLock(root.with_name(root.name + ".lock")):
        if not root.exists():
            work = root.with_name(root.name + "-unfinished")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            _make(work)
            work.rename(root)
    return root


def _make(root: Path) -> None:
    draw_images(root / "images")
    copy_published(root / "published")
    Image.open(root / "images/cat/0.png").resize((24, 20)).save(root / "picture.png")
    mask = Image.new("1", (24, 20))
    mask.paste(1, (2, 2, 10, 10))
    mask.save(root / "mask.png")
    (root / "labels.csv").write_text(
        "".join(f"images/{kind}/{i}.png,{kind}\n" for kind in CLASSES for i in range(4))
    )
    (root / "edits.csv").write_text(
        'image,box,label,seed\npicture.png,"1,1,8,8",cat,3\nimages/dog/1.png,"0,0,6,6;2,2,9,9",dog,4\n'
    )
    (root / "classes.txt").write_text("cat\nowl\n")
    (root / "notes.txt").write_text("precious")
    (root / "notes").mkdir()
    (root / "notes/letter.txt").write_text("Dear all,")
    (root / "empty").mkdir()
    for line in COMMANDS:
        done = finish(Call(tuple(shlex.split(line)), root, seconds=120))
        assert done.status == 0, f"maskgit {line}: {done}"


def draw_images(root: Path) -> None:
    """A folder of 12 images of several sizes, four in each of three classes."""
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(4):
            image = Image.new("RGB", (20 + 2 * i, 24), (60 * i, 80 * label, 200))
            ImageDraw.Draw(image).ellipse((2 + i, 4, 14 + i, 18), fill=(255, 220 - 90 * label, 40 * i))
            image.save(root / name / f"{i}.png")


def copy_published(root: Path) -> None:
    """Small files as the authors of published weights made them."""
    root.mkdir()
    for path in (V1.transformer, *V1.tokenizer):
        shutil.copy(path, root)
    shutil.copy(HALTON.transformer, root / "halton.pth")
    shutil.copy(HALTON.tokenizer[0], root / "llamagen.pt")
    for path in (GOOGLE.transformer, *GOOGLE.tokenizer):
        shutil.copy(path, root)


def partial_copy(workshop: Path, root: Path, *changed: str) -> Path:
    """A workshop at ``root`` in which the parts that hold ``changed`` are copies, and the others links."""
    root.mkdir(parents=True)
    parts = {Path(name).parts[0] for name in changed}
    for path in workshop.iterdir():
        if path.name not in parts:
            (root / path.name).symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, root / path.name)
        else:
            shutil.copy(path, root)
    return root
