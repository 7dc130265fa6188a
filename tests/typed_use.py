"""Every public name, used as a program with strict types uses it; `test_package.py` runs mypy on this file.

It is never imported: what it writes down is what a type checker must accept.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import maskgit_cli
from maskgit_cli import (
    PRESETS,
    SIZES,
    VQGAN,
    BenchConfig,
    Box,
    CompareConfig,
    ConfidenceConfig,
    DoctorConfig,
    GoogleSamplerConfig,
    HaltonSamplerConfig,
    ImageModel,
    Images,
    InpaintConfig,
    MaskGIT,
    MaskGITError,
    Outpaint,
    RasterConfig,
    SampleConfig,
    SamplerConfig,
    ScoreConfig,
    SweepConfig,
    TokenizeConfig,
    TrainConfig,
    TransformerConfig,
    VQGANConfig,
    VQGANTrainConfig,
    bench,
    compare,
    confidence_sampler,
    decode,
    describe,
    diagnose,
    dry_run,
    export,
    fid_stats,
    google_sampler,
    halton_sampler,
    import_weights,
    inpaint,
    load,
    load_model,
    load_tokenizer,
    merge,
    open_samples,
    open_tokens,
    pull,
    raster_sampler,
    sample,
    score,
    score_diff,
    sweep,
    tokenize,
    train,
    train_vqgan,
    verify,
)


def files() -> str:
    tokenized = tokenize("images", "tokens.h5", "builtin", TokenizeConfig(views="flip"))
    merge(["part-0.h5", "part-1.h5"], "tokens.h5")
    run: Path = train(tokenized.path, "runs/mine", {"steps": 8}, init_from=Path("models/paper"))
    run = train(["tokens.h5", "more.h5"], config=TrainConfig(steps=8))
    hours: float = dry_run("tokens.h5", {"steps": 8}).hours
    made: Path = train_vqgan("images", "tokenizers/mine", VQGANTrainConfig(steps=8))
    sampled = sample("builtin", "samples/a", SampleConfig(labels=["smileys", 3]), {"cfg": 3.0})
    edited = inpaint("image.png", run, config=InpaintConfig(box=(Box(0, 0, 8, 8, 3),), label="smileys"))
    decoded = decode("tokens.h5", "decoded", made)
    scores = score(sampled, "images", ScoreConfig(features="vqgan"), tokenizer="builtin")
    statistics: Path = fid_stats(["images", sampled], "reference.npz")
    swept = sweep([run], {"cfg": [0, 3]}, statistics, "sweep", SweepConfig(n=4))
    compared = compare([sampled, edited, decoded.path], "compared.png", CompareConfig(classes=["cat", 1]))
    balance: dict[str, int] = diagnose(tokenized.path, config=DoctorConfig(n=8), tokenizer=made).classes
    model: Path = import_weights(["model.pth"], "models/theirs", tokenizer="tokenizer.ckpt")
    model = export(pull("maskgit-256"), "models/mine", sampler=ConfidenceConfig(steps=8))
    speed = bench(BenchConfig(stages=("sample",)))
    damage = verify(model).damage
    lines: list[str] = score_diff(sampled, scores.path or "scores.json").lines()
    names = [*lines, *(str(path) for path in (swept.path, compared.path, scores.path))]
    return f"{describe(model)} {speed} {damage} {names} {balance} {hours} {maskgit_cli.__version__}"


def memory(photo: Image.Image, pixels: np.ndarray, mask: torch.Tensor) -> float:
    model: ImageModel = load("builtin", device="cpu")
    images: Images = model.sample(["smileys", 3], n=4, seed=0, trace=True, cfg=3.0, steps=12)
    first: Image.Image = images[0]
    several: list[Image.Image] = [*images[1:3], first, images.grid()]
    assert images.trace is not None
    masks: np.ndarray = images.trace.masks
    edited = model.inpaint(photo, mask, label=3, n=2, sampler="halton")
    edited = model.inpaint(pixels, box=(8, 8, 16, 16), outpaint=Outpaint(left=8))
    edited = model.inpaint("photo.jpg", box=[(8, 8, 16, 16), (0, 0, 8, 8)], outpaint={"left": 8})
    tokens: torch.Tensor = model.encode([photo, pixels, *several])
    images = model.decode(tokens)
    sample(model, config=SampleConfig(n=1))
    inpaint(photo, model, mask=mask, config=InpaintConfig(outpaint=Outpaint(left=8)))
    return score(images, edited).metrics["fid"] + float(masks.mean())


def networks(tokens: torch.Tensor) -> torch.Tensor:
    size, grid = SIZES["tiny"], {"codebook_size": 512, "classes": 9, "grid": 8}
    sizes = TransformerConfig(size.width, size.depth, size.heads, size.mlp_width, **grid)
    network, vqgan = MaskGIT(sizes), VQGAN(VQGANConfig())
    opened, tokenizer = load_model("builtin"), load_tokenizer("builtin")
    labels = indices = torch.zeros(len(tokens), dtype=torch.int64)
    chosen: SamplerConfig = PRESETS["small-64"]

    def predict(tokens: torch.Tensor, labels: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(tokens, labels, drop)
        return logits

    confidence_sampler(predict, tokens, labels, indices, ConfidenceConfig(steps=4), 0, 512)
    halton_sampler(predict, tokens, labels, indices, HaltonSamplerConfig(steps=4), 0, 512)
    google_sampler(predict, tokens, labels, indices, GoogleSamplerConfig(steps=4), 0, 512)
    tokens = raster_sampler(predict, tokens, labels, indices, RasterConfig(), 0, 512)
    stored = torch.from_numpy(open_tokens("tokens.h5").codes[:, 0].astype(np.int64))
    sampled = open_samples(Path("samples/a")).tokens
    print(chosen.cfg, opened.resolution, tokenizer.config.factor, stored.shape, len(sampled))
    return vqgan.decode(tokens)


def mistakes(model: ImageModel) -> None:
    """A type checker refuses these; an ignored error that is none is an error itself."""
    print(maskgit_cli.no_such_name)  # type: ignore[attr-defined]
    sample(3)  # type: ignore[arg-type]
    load(model="builtin", weight="raw")  # type: ignore[call-arg]
    model.sample(labels=1.5)  # type: ignore[arg-type]


try:
    files()
except MaskGITError as error:
    print(error)
