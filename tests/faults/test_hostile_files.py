"""Files made to do harm: each is refused by one clear error, soon, within memory, and nothing in it runs."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from published import DATA

from faults import gadgets, hostile_archives, hostile_images, hostile_tokens
from faults.child import PLAIN, Call
from faults.hostile_records import HOSTILE
from faults.processes import Outcome, finish
from faults.verdict import Finding, judge, limit, refusal
from faults.workshop import partial_copy

MEMORY = 2**30
FEATURES = "--features vqgan --tokenizer tokenizer"


def call(line: str, cwd: Path, seconds: float) -> Outcome:
    """A call of the command line with little memory."""
    words = (*shlex.split(line), "--quiet")
    return finish(Call(words, cwd, seconds=seconds, memory=MEMORY, environment=PLAIN))


@pytest.fixture
def copy(place, tmp_path):
    """A workshop of the test's own, in which it may change what it names."""
    return lambda *changed: partial_copy(place.workshop, tmp_path / "work", *changed)


# --- token files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*hostile_tokens.CHANGES, *hostile_tokens.FIRST_LINES])
def test_hostile_tokens(name, copy, request):
    work = copy()
    hostile_tokens.make(name, work / "tokens.h5", work / "evil.h5")
    findings = refusal(f"info evil.h5: {name}", call("info evil.h5", work, limit(request)), ("evil.h5",))
    judge(request, findings)


@pytest.mark.parametrize(
    "line",
    [
        "info hang.h5",
        "train hang.h5 --out new",
        "decode hang.h5 new",
        "export samples new",
        f"fid samples --ref stats.npz --out new.json {FEATURES}",
    ],
)
def test_a_header_in_which_hdf5_loops(line, copy, request):
    """As token file, and as the token file of samples."""
    work = copy("samples")
    for place in ("hang.h5", "samples/tokens.h5"):
        shutil.copy(DATA / "faults" / "hang.h5", work / place)
    named = ("hang.h5", "tokens.h5", "samples")
    judge(request, refusal(line, call(line, work, limit(request)), named))


# --- records, archives, tables, weights -------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(name, copy, request):
    hostile, findings = HOSTILE[name], []
    work = copy(hostile.path)
    hostile.write(work / hostile.path)
    for line in hostile.lines:
        findings += refusal(f"{line}: {name}", call(line, work, limit(request)), hostile.named)
    if (work / "owned").exists():
        findings.append(Finding("ran", name, "what the file asks for was done"))
    judge(request, findings, len(hostile.lines))


# --- pickles ----------------------------------------------------------------------------------------

IMPORTS = {
    "model": "import evil.pth new --tokenizer published/last.ckpt --tokenizer published/model.yaml",
    "tokenizer": "import published/MaskGIT_tiny.pth new --tokenizer evil.pth "
    "--tokenizer published/model.yaml",
    "inception": "fid samples --ref images --out new.json --weights evil.pth",
}


@pytest.mark.parametrize("container", gadgets.CONTAINERS)
@pytest.mark.parametrize("gadget", gadgets.GADGETS)
def test_no_pickle_runs(gadget, container, copy, request):
    work, findings = copy(), []
    marker = work / "owned"
    gadgets.make(gadget, container, work / "evil.pth", marker)
    marker.unlink(missing_ok=True)
    for line in IMPORTS.values():
        done = call(line, work, limit(request))
        findings += refusal(f"{line}: {gadget} in {container}", done, ("evil.pth",))
        if marker.exists() or list(work.glob("owned*")):
            findings.append(Finding("ran", line, f"{gadget} in {container} did what it was made to do"))
    judge(request, findings, len(IMPORTS))


@pytest.mark.parametrize("gadget", ["system", "open", "mkdir"])
def test_gadgets_work(gadget, tmp_path):
    """Where a pickle is loaded carelessly, it does what it was made to do: the tests above would see it."""
    import torch

    path = gadgets.make(gadget, "zip", tmp_path / "evil.pth", tmp_path / "owned")
    torch.load(path, weights_only=False)
    assert (tmp_path / "owned").exists()


# --- images -----------------------------------------------------------------------------------------


def test_a_hostile_folder_of_images(copy, tmp_path, request):
    """What is no image is skipped with a reason, in seconds; the others are read."""
    work, findings = copy(), []
    hostile_images.make_folder(tmp_path / "hostile")
    line = f"tokenize {tmp_path / 'hostile'} new.h5 --tokenizer tokenizer --workers 0 --json"
    done = call(line, work, 30.0)
    if done.status != 0:
        findings.append(Finding("status", line, str(done)))
        return judge(request, findings)
    facts = json.loads(done.stdout)
    readable, skipped = len(hostile_images.READABLE), facts["skipped"]
    if facts["images"] != readable:
        findings.append(Finding("count", line, f"{facts['images']} of {readable} images; skipped {skipped}"))
    judge(request, findings, readable + len(hostile_images.UNREADABLE))


@pytest.mark.parametrize("name", hostile_images.UNREADABLE)
def test_a_hostile_image_alone(name, copy, request):
    work = copy()
    (work / "hostile").mkdir()
    hostile_images.UNREADABLE[name](work / "hostile" / name)
    findings = []
    for line in (
        f"inpaint hostile/{name} model --box 0,0,4,4 --out new",
        f"inpaint picture.png model --mask hostile/{name} --out new",
        "tokenize hostile new.h5 --tokenizer tokenizer --workers 0",
        f"fid hostile --ref stats.npz --out new.json {FEATURES}",
    ):
        findings += refusal(f"{line}: {name}", call(line, work, limit(request)), (name, "hostile"))
    judge(request, findings, 4)


# --- archives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hostile_archives.REFUSED)
def test_a_hostile_archive(name, copy, request):
    work = copy()
    (work / "archives").mkdir()
    hostile_archives.REFUSED[name](work / "archives" / name)
    line = f"tokenize archives/{name} new.h5 --tokenizer tokenizer --workers 0"
    judge(request, refusal(f"{line}: {name}", call(line, work, limit(request)), (name,)))
    assert sorted(path.name for path in (work / "archives").iterdir()) == [name]


@pytest.mark.parametrize("name", ["mixed.tar", "mixed.zip"])
def test_what_is_no_image_in_an_archive_is_skipped(name, copy):
    """Nothing is extracted, inside or outside the folder."""
    work = copy()
    hostile_archives.make_mixed(work)
    before = sorted(work.parent.rglob("*.png"))
    done = call(f"tokenize {name} new.h5 --tokenizer tokenizer --workers 0 --json", work, 30.0)
    assert done.status == 0, done
    facts = json.loads(done.stdout)
    assert facts["images"] == 1
    assert len(facts["skipped"]) == 6
    assert "\x1b" not in done.stderr
    assert sorted(work.parent.rglob("*.png")) == before


def test_an_archive_of_many_members(copy, request):
    work = copy()
    hostile_archives.make_many(work / "many.zip", 100_000)
    done = call("info many.zip --json", work, limit(request))
    assert done.status == 0, done
    assert json.loads(done.stdout)["images"] == 100_000
