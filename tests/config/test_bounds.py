"""Largest values: a mistyped number is an error of one line, and nothing is created."""

import shlex

import pytest

from maskgit_cli.config.inpaint import InpaintConfig, Outpaint
from maskgit_cli.config.networks import SIZES, TransformerConfig
from maskgit_cli.errors import ConfigError

HUGE = (10**9, 10**12, 10**49)


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize(
    "call",
    [
        "tokenize IMAGES new.h5 --tokenizer TOKENIZER --res {}",
        "train TOKENS --out new --batch-size {}",
        "train-vqgan IMAGES --out new --size tiny --discriminator-channels {}",
        "train-vqgan IMAGES --out new --size tiny --discriminator-layers {}",
        "sample RUN --out new --n {}",
        "inpaint IMAGE RUN --box 1,1,4,4 --out new --n {}",
        "inpaint IMAGE RUN --box 1,1,4,4 --out new --feather {}",
        "inpaint IMAGE RUN --out new --outpaint left:{}",
        "fid IMAGES --ref IMAGES --features vqgan --out new.json --neighbors {}",
        "fid IMAGES --ref IMAGES --features vqgan --out new.json --splits {}",
        "sweep RUN --ref IMAGES --features vqgan --out new --n {}",
        "bench --res {}",
        "bench --batch-size {}",
    ],
)
def test_numbers_beyond_use(call, number, images, tokens, run, tokenizer, tmp_path, monkeypatch, maskgit):
    monkeypatch.chdir(tmp_path)
    names = {"IMAGES": images, "TOKENS": tokens, "RUN": run, "TOKENIZER": tokenizer}
    names["IMAGE"] = next(images.rglob("*.png"))
    arguments = shlex.split(call.format(number))
    outcome = maskgit(*(names.get(word, word) for word in arguments))
    assert outcome.status in (1, 2)
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    option = next(word for word in reversed(arguments) if word.startswith("--"))
    assert option in outcome.stderr
    assert "--debug" not in outcome.stderr
    assert not list(tmp_path.iterdir())


def test_limits_leave_room_for_what_is_used():
    InpaintConfig(outpaint=Outpaint(left=16384))
    with pytest.raises(ConfigError, match="left:16385"):
        InpaintConfig(outpaint=Outpaint(left=16385))
    size = list(SIZES.values())[-1]
    TransformerConfig(8 * size.width, 4 * size.depth, 64, 8 * size.mlp_width, 65535, 10_000_000, 1024)
