"""A table of wrong calls: each is refused in a line or two that names what is wrong, and changes nothing.

``VALUES`` holds wrong options of calls that are right without them; ``LINES`` holds whole calls, with what
must be named. All is relative to a copy of the workshop, in which ``fifo`` is a named pipe that nothing is
written to, ``loop`` a link to itself, and ``locked.pth`` a folder.
"""

import shlex
from collections.abc import Iterator
from typing import NamedTuple

FEATURES = "--features vqgan --tokenizer tokenizer"
HUGE, ENORMOUS = str(10**12), str(10**49)

# Right calls, by the name of the command.
BASES = {
    "tokenize": "tokenize images new.h5 --tokenizer tokenizer --workers 0",
    "merge": "merge part-0.h5 part-1.h5 new.h5",
    "train": "train tokens.h5 --out new --size tiny --steps 2 --batch-size 4 --tokenizer tokenizer "
    "--preview-every 0",
    "train-vqgan": "train-vqgan images --out new --size tiny --steps 1 --batch-size 4 --perceptual-weight 0 "
    "--workers 0 --preview-every 0 --discriminator-channels 4",
    "sample": "sample model --out new --n 2",
    "inpaint": "inpaint picture.png model --out new --box 1,1,8,8",
    "decode": "decode tokens.h5 new --tokenizer tokenizer",
    "fid": f"fid samples --ref stats.npz --out new.json {FEATURES}",
    "fid-stats": f"fid-stats images new.npz {FEATURES}",
    "export": "export run new",
    "import": "import published/MaskGIT_tiny.pth new --tokenizer published/last.ckpt "
    "--tokenizer published/model.yaml",
    "compare": "compare samples other-samples --out new.png",
    "doctor": "doctor tokens.h5 --tokenizer tokenizer --out new.png",
    "sweep": "sweep model --ref stats.npz --out new --steps 1,2 --n 2 --features vqgan",
    "bench": "bench --size tiny --tokenizer tiny --res 32 --seconds 0.01 --batch-size 1 --stages decode",
}

# Wrong options. What must be named is the option, or its value.
VALUES = {
    "tokenize": f"""
        --res 0; --res -16; --res 17; --res x; --res 8.5; --res {HUGE}; --res {ENORMOUS}; --res 1e9;
        --res ''; --views both; --views ''; --views random:0; --views random:301;
        --views random:; --val-split 0; --val-split 0.6; --val-split x; --val-split nan; --range 5:5;
        --range 5; --range -1:5; --range x:5; --range 900:999; --range 0:5 --val-split 0.1; --seed -1;
        --on-error ignore; --batch-size 0; --batch-size -1;
        --batch-size x; --workers -1; --workers x; --device gpu; --device ''; --device cuda:x;
        --dtype fp8; --tokenizer missing; --tokenizer ''; --tokenizer notes; --tokenizer notes.txt;
        --tokenizer fifo; --tokenizer loop; --tokenizer samples; --nonsense 1""",
    "train": f"""
        --steps 0; --steps x; --steps 1.5; --epochs 0; --batch-size 0; --batch-size 5 --accumulate 2;
        --val-split 0; --val-split 1; --val-split 0.1 --val tokens.h5;
        --accumulate 0; --accumulate {HUGE}; --lr 0; --lr -1; --lr nan; --lr inf; --lr x; --beta1 1;
        --beta2 -1; --weight-decay -1; --warmup -1; --lr-floor 2; --clip 0; --dropout 1; --dropout nan;
        --drop-label 2; --label-smoothing 1; --mask-schedule best; --mask-schedule pow;
        --mask-schedule pow-1; --loss-on none; --ema 1; --seed -1; --seed {ENORMOUS}; --seed x;
        --checkpoint-every 0; --keep 0; --log-every 0; --res 511; --res 0; --size giant; --val missing.h5;
        --val notes.txt; --val fifo; --tokenizer missing; --tokenizer trained-tokenizer/checkpoints;
        --fid-every 1; --fid-every -1; --fid-every x; --fid-n 1; --fid-features eyes; --fid-ref stats.npz;
        --fid-every 1 --fid-features vqgan --fid-ref missing; --fid-ref '';
        --fid-every 1 --fid-features vqgan --fid-ref notes.txt;
        --init-from missing; --init-from notes; --init-from tokenizer; --out ''; --out notes;
        --out notes.txt; --out notes.txt/new; --out fifo; --out loop; --device gpu; --dtype fp8""",
    "train-vqgan": f"""
        --steps 0; --batch-size 0; --res 18; --res 0; --codebook-size 1; --codebook-size 65536;
        --codebook-size {HUGE}; --lr 0; --lr nan; --beta1 1; --warmup -1; --lr-floor -1;
        --codebook-weight -1; --commitment-weight nan; --smoothness-weight -1; --perceptual-weight -1;
        --adversarial-weight -1; --adversarial-start -1; --discriminator-channels 0;
        --discriminator-channels 1000000000; --discriminator-layers 0; --discriminator-layers 1000000000;
        --revive-after -1; --ema 1; --seed -1; --checkpoint-every 0; --keep 0; --log-every 0;
        --size giant; --workers -1; --val missing; --val notes.txt; --out ''; --out notes;
        --out notes.txt; --out fifo""",
    "sample": f"""
        --n 0; --n -1; --n x; --n 1.5; --n 1000000000; --n {HUGE}; --n {ENORMOUS}; --labels 3;
        --labels -1; --labels cat,bat; --labels 2-1; --labels ''; --labels @missing; --labels @notes;
        --labels @fifo; --labels @/dev/zero; --format jpg; --range 1; --range 0:0; --range 1:9;
        --range x:y; --range {HUGE}:{HUGE}; --steps 0; --steps 17; --steps {HUGE}; --cfg -1; --cfg nan;
        --cfg 1e300; --cfg x; --ramp up; --sm-temp 0; --sm-temp nan; --top-k -1; --gumbel -1;
        --schedule best; --noise loud; --cfg-interval 1:0; --cfg-interval 0:2; --cfg-interval x;
        --sampler best; --preset best; --preset halton --sampler raster; --sampler raster --steps 4;
        --weights best; --seed -1; --seed {ENORMOUS}; --batch-size 0; --out notes; --out notes.txt;
        --out ''; --out fifo; --out model; --out loop; --trace-as png; --trace-as gif --format tokens;
        --device gpu; --dtype fp8""",
    "inpaint": f"""
        --n 0; --n {HUGE}; --box 1,1,0,4; --box 1,1,4; --box x; --box ''; --box 1,1,4,4=;
        --box 1,1,4,4=bat; --box 900,900,4,4; --box {ENORMOUS},1,4,4; --keep-box 1,1,0,4;
        --keep-box 0,0,24,20; --keep-box 1,1,4,4=cat; --outpaint up:4; --outpaint left:-1;
        --outpaint left:x; --outpaint left:0; --outpaint left:1,left:2; --outpaint left:100000;
        --outpaint left:{HUGE}; --mask missing.png; --mask notes.txt; --mask notes; --mask fifo;
        --mask images/cat/0.png; --label 3; --label bat; --label ''; --window 0; --window {HUGE};
        --mask-rule none; --feather -1; --feather 1000000000; --seed -1; --batch-size 0; --steps 0;
        --cfg nan; --out notes; --out ''""",
    "decode": "--views second; --views ''; --batch-size 0; --batch-size x; --tokenizer missing; "
    "--tokenizer ''; --tokenizer published; --tokenizer trained-tokenizer/model.safetensors; "
    "--device gpu; --device cuda:99",
    "fid": f"""
        --ref missing; --ref notes; --ref notes.txt; --ref empty; --ref fifo; --ref ''; --ref model;
        --metrics fvd; --metrics ''; --neighbors 0; --neighbors {HUGE}; --splits 0; --splits {HUGE};
        --protocol best; --features pixels; --weights missing; --weights notes.txt; --tokenizer missing;
        --tokenizer imported/tokenizer; --batch-size 0; --out notes; --out notes.txt;
        --out notes.txt/new.json; --out ''; --out fifo; --out new.txt""",
    "fid-stats": "--features pixels; --protocol best; --tokenizer missing; --tokenizer notes; "
    "--batch-size 0; --weights missing; --weights notes.txt; --device gpu",
    "export": f"""
        --weights best; --to v2; --steps 0; --steps {HUGE}; --steps 17; --cfg nan; --preset best;
        --sampler best; --push nobody; --push a/b/c; --push ''; --license mit""",
    "import": f"""
        --heads 0; --heads -1; --heads 5; --heads {HUGE}; --heads x; --weights best; --tokenizer missing;
        --tokenizer fifo; --tokenizer notes; --tokenizer notes.txt""",
    "compare": """
        --name one; --classes bat; --classes 2-1; --classes 7; --classes @missing; --classes @fifo;
        --per-class 0; --n 0; --columns 0; --tokenizer missing; --out notes; --out notes.txt; --out '';
        --out new.txt; --out loop; --columns x""",
    "doctor": """
        --n 0; --n x; --shown 0; --shown x; --images missing; --images notes; --images fifo; --images '';
        --tokenizer missing; --tokenizer notes; --out notes; --out notes.txt; --out ''; --batch-size 0;
        --device gpu""",
    "sweep": f"""
        --steps 0; --steps 4,x; --steps 8:4:1; --steps 1:9:0; --steps 17; --steps ''; --steps 2,2;
        --cfg 0:1:0.00001; --cfg nan; --cfg 0:{HUGE}:1; --cfg x; --sampler best;
        --sampler halton --gumbel 1; --preset best; --preset raster --sampler raster; --n 1; --n 0;
        --n {ENORMOUS}; --keep some; --labels bat; --labels @fifo; --weights best; --metrics fvd;
        --ref missing; --ref notes.txt; --ref fifo; --out notes; --out ''; --out notes.txt; --seed -1;
        --batch-size 0; --inception missing; --inception notes.txt""",
    "bench": f"""
        --size giant; --tokenizer giant; --res 33; --res 0; --batch-size 0; --steps 0; --cfg -1;
        --seconds 0; --seconds nan; --stages cook; --stages ''; --res {HUGE}; --batch-size {HUGE};
        --device gpu; --dtype fp8""",
}

# Whole calls, and what must be named.
LINES = {
    "tokenize": "IMAGES",
    "tokenize images": "TOKENS",
    "tokenize images a.h5 b.h5": "b.h5",
    "tokenise images new.h5": "tokenize",
    "--nonsense": "--nonsense",
    "--procs 0 info tokens.h5": "--procs",
    "--procs -1 info tokens.h5": "--procs",
    "--procs x info tokens.h5": "--procs",
    "--procs 1000000000 info missing": "--procs",
    "tokenize missing new.h5 --tokenizer tokenizer": "missing",
    "tokenize '' new.h5 --tokenizer tokenizer": "IMAGES",
    "tokenize notes.txt new.h5 --tokenizer tokenizer": "notes.txt",
    "tokenize notes new.h5 --tokenizer tokenizer": "notes",
    "tokenize empty new.h5 --tokenizer tokenizer": "empty",
    "tokenize fifo new.h5 --tokenizer tokenizer": "fifo",
    "tokenize fifo.csv new.h5 --tokenizer tokenizer": "fifo.csv",
    "tokenize loop new.h5 --tokenizer tokenizer": "loop",
    "tokenize /dev/zero new.h5 --tokenizer tokenizer": "/dev/zero",
    "tokenize images '' --tokenizer tokenizer": "TOKENS",
    "tokenize images notes --tokenizer tokenizer": "notes",
    "tokenize images notes.txt --tokenizer tokenizer": "notes.txt",
    "tokenize images notes.txt/new.h5 --tokenizer tokenizer": "notes.txt",
    "tokenize images fifo --tokenizer tokenizer": "fifo",
    "tokenize images loop --tokenizer tokenizer": "loop",
    "tokenize images images --tokenizer tokenizer": "images",
    "tokenize images flip.h5 --tokenizer tokenizer": "flip.h5",
    f"tokenize images {'x' * 300}.h5 --tokenizer tokenizer": "x" * 40,
    "merge": "PART",
    "merge part-0.h5": "PART",
    "merge part-0.h5 new.h5": "6:",
    "merge part-1.h5 new.h5": "0:6",
    "merge part-0.h5 part-1.h5": "part-1.h5",
    "merge part-0.h5 part-1.h5 part-0.h5 new.h5": "overlap",
    "merge part-0.h5 part-1.h5 part-0.h5 --overwrite": "part-0.h5",
    "merge part-0.h5 other-part.h5 new.h5": "--views",
    "merge tokens.h5 new.h5": "tokens.h5",
    "merge samples/tokens.h5 new.h5": "samples/tokens.h5",
    "merge missing.h5 new.h5": "missing.h5",
    "merge notes.txt new.h5": "notes.txt",
    "merge fifo new.h5": "fifo",
    "merge hang.h5 new.h5": "hang.h5",
    "merge part-0.h5 part-1.h5 notes": "notes",
    "merge part-0.h5 part-1.h5 notes.txt": "notes.txt",
    "merge part-0.h5 part-1.h5 flip.h5": "flip.h5",
    "merge part-0.h5 part-1.h5 ''": "TOKENS",
    "train": "TOKENS",
    "train missing.h5 --out new": "missing.h5",
    "train notes.txt --out new": "notes.txt",
    "train fifo --out new": "fifo",
    "train images --out new": "images",
    "train '' --out new": "TOKENS",
    "train hang.h5 --out new": "hang.h5",
    "train stats.npz --out new": "stats.npz",
    "train-vqgan missing --out new": "missing",
    "train-vqgan notes.txt --out new": "notes.txt",
    "train-vqgan empty --out new": "empty",
    "train-vqgan fifo --out new": "fifo",
    "sample missing --out new": "missing",
    "sample '' --out new": "MODEL",
    "sample notes --out new": "notes",
    "sample notes.txt --out new": "notes.txt",
    "sample tokenizer --out new": "tokenizer",
    "sample samples --out new": "samples",
    "sample fifo --out new": "fifo",
    "sample piped --out new": "piped",
    "sample model extra --out new": "extra",
    "inpaint missing.png model --box 1,1,4,4 --out new": "missing.png",
    "inpaint notes model --box 1,1,4,4 --out new": "notes",
    "inpaint notes.txt model --box 1,1,4,4 --out new": "notes.txt",
    "inpaint fifo model --box 1,1,4,4 --out new": "fifo",
    "inpaint fifo.csv model --out new": "fifo.csv",
    "inpaint /dev/zero model --box 1,1,4,4 --out new": "/dev/zero",
    "inpaint picture.png model --out new": "--box",
    "inpaint picture.png missing --box 1,1,4,4 --out new": "missing",
    "inpaint labels.csv model --out new": "labels.csv",
    "inpaint edits.csv model --box 1,1,4,4 --out new": "--box",
    "decode missing.h5 new": "missing.h5",
    "decode notes.txt new": "notes.txt",
    "decode fifo new": "fifo",
    "decode hang.h5 new": "hang.h5",
    "decode tokens.h5 '' --tokenizer tokenizer": "OUT",
    "decode tokens.h5 notes --tokenizer tokenizer": "notes",
    "decode tokens.h5 notes.txt --tokenizer tokenizer": "notes.txt",
    "decode tokens.h5 fifo --tokenizer tokenizer": "fifo",
    "decode tokens.h5": "OUT",
    f"fid missing --ref stats.npz --out new.json {FEATURES}": "missing",
    f"fid notes.txt --ref stats.npz --out new.json {FEATURES}": "notes.txt",
    f"fid fifo --ref stats.npz --out new.json {FEATURES}": "fifo",
    f"fid fifo.npz --ref stats.npz --out new.json {FEATURES}": "fifo.npz",
    f"fid hang.h5 --ref stats.npz --out new.json {FEATURES}": "hang.h5",
    f"fid /dev/zero --ref stats.npz --out new.json {FEATURES}": "/dev/zero",
    "fid samples": "--ref",
    "fid stats.npz --ref stats.npz --out new.json --weights notes.txt": "--weights",
    "fid stats.npz --ref stats.npz --out new.json --tokenizer tokenizer": "--tokenizer",
    "fid images --ref images --out new.json --tokenizer tokenizer": "--tokenizer",
    f"fid-stats missing new.npz {FEATURES}": "missing",
    f"fid-stats images new.txt {FEATURES}": "new.txt",
    f"fid-stats images notes {FEATURES}": "notes",
    f"fid-stats images notes.txt/new.npz {FEATURES}": "notes.txt",
    f"fid-stats images '' {FEATURES}": "REF",
    f"fid-stats images stats.npz {FEATURES}": "stats.npz",
    f"fid-stats stats.npz fifo.npz new.npz {FEATURES}": "fifo.npz",
    f"fid-stats images fifo {FEATURES}": "fifo",
    "fid-stats images": "SOURCE",
    "export missing new": "missing",
    "export notes new": "notes",
    "export notes.txt new": "notes.txt",
    "export samples new": "samples",
    "export run notes": "notes",
    "export run notes --overwrite": "notes",
    "export run notes.txt": "notes.txt",
    "export run ''": "OUT",
    "export run run --overwrite": "run",
    "export tokenizer new --steps 4": "sampl",
    "import missing.pth new": "missing.pth",
    "import fifo new": "fifo",
    "import fifo.yaml new": "fifo.yaml",
    "import locked.pth new": "locked.pth",
    "import notes.txt new": "notes.txt",
    "import /dev/zero new": "/dev/zero",
    "import published/MaskGIT_tiny.pth new": "--tokenizer",
    "import published/model.yaml new": "weights",
    "import published/halton.pth new --tokenizer published/llamagen.pt": "--heads",
    "import published/halton.pth published/halton.pth new": "halton.pth",
    "import published/MaskGIT_tiny.pth notes --tokenizer published/llamagen.pt": "notes",
    "import stats.npz new": "stats.npz",
    "import ''": "FILES",
    "compare": "SOURCES",
    "compare samples --out new.png": "two",
    "compare samples missing --out new.png": "missing",
    "compare samples notes.txt --out new.png": "notes.txt",
    "compare samples fifo --out new.png": "fifo",
    "compare samples hang.h5 --out new.png": "hang.h5",
    "compare samples images --out new.png": "images",
    "fid-diff": "A.json",
    "fid-diff scores.json": "B.json",
    "fid-diff missing.json scores.json": "missing.json",
    "fid-diff scores.json notes.txt": "notes.txt",
    "fid-diff scores.json fifo": "fifo",
    "fid-diff scores.json images": "images",
    "fid-diff model/config.json scores.json": "config.json",
    "doctor": "TOKENS.h5",
    "doctor missing.h5 --out new.png": "missing.h5",
    "doctor notes.txt --out new.png": "notes.txt",
    "doctor fifo --out new.png": "fifo",
    "doctor hang.h5 --out new.png": "hang.h5",
    "doctor images --out new.png": "images",
    "sweep missing --ref stats.npz --out new --steps 1,2 --features vqgan": "missing",
    "sweep model --ref stats.npz --out new --features vqgan": "--steps",
    "sweep model --out new --steps 1,2": "--ref",
    "sweep model model --ref stats.npz --out new --steps 1,2 --features vqgan": "model",
    "info": "PATH",
    "info missing": "missing",
    "info ''": "PATH",
    "info notes.txt": "notes.txt",
    "info fifo": "fifo",
    "info fifo.npz": "fifo.npz",
    "info fifo.csv": "fifo.csv",
    "info fifo.h5": "fifo.h5",
    "info fifo.json": "fifo.json",
    "info fifo.safetensors": "fifo.safetensors",
    "info piped": "piped",
    "info loop": "loop",
    "info hang.h5": "hang.h5",
    "info /dev/zero": "/dev/zero",
    "pull": "NAME",
    "pull nothing": "nothing",
    "pull maskgit-265": "maskgit-256",
    "pull a/b/c --out new": "a/b/c",
    "pull ''": "NAME",
    "pull user/missing --out new": "user/missing",
    "pull user/missing --out notes": "notes",
    "pull maskgit-256 --out new --offline": "--offline",
    "demo notes.txt": "notes.txt",
    "demo ''": "OUT",
    "demo fifo": "fifo",
}


class WrongCall(NamedTuple):
    """A call that is refused.

    Attributes:
        name: of the case, short.
        line: the command line.
        named: texts of which one must be in what it says.
    """

    name: str
    line: str
    named: tuple[str, ...]


def _short(text: str) -> str:
    return text.replace(ENORMOUS, "10^49").replace(HUGE, "10^12").replace("x" * 300, "xxx")


def _wrong_options() -> Iterator[WrongCall]:
    for command, text in VALUES.items():
        for words in filter(None, (part.strip() for part in " ".join(text.split()).split(";"))):
            option, *values = shlex.split(words)
            named = (option, *(value.lstrip("@") for value in values if len(value) > 1))
            yield WrongCall(f"{command} .. {_short(words)}", f"{BASES[command]} {words}", named)


WRONG_CALLS = [*_wrong_options(), *(WrongCall(_short(line), line, (text,)) for line, text in LINES.items())]
