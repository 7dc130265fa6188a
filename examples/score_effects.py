"""How preparation, number and classes of images act on a Fréchet distance, measured on images of your own.

python examples/score_effects.py PHOTOGRAPHS IMAGES --res 128 --features efficientnet-lite0

PHOTOGRAPHS are images of many sizes: each variant holds the same ones, prepared in another way, and is
compared with them as the protocol `adm` prepares them: what is measured is the effect of that alone.
IMAGES is an ImageFolder of squares: halves of it are compared with each other, so that the distance of
infinitely many images would be 0.
"""

import argparse
import io
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from maskgit_cli import ScoreConfig, fid_stats, score
from maskgit_cli.data.images import fit_square
from maskgit_cli.data.sources import ImageSource, open_source
from maskgit_cli.scoring.preparation import crop_adm

SIZES = (250, 500, 1000, 2000)


def resized(image: Tensor, size: tuple[int, int], method: Image.Resampling) -> Tensor:
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size, method)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def nearest_crop(image: Tensor, res: int) -> Tensor:
    height, width = image.shape[1:]
    scale = res / min(height, width)
    scaled = resized(image, (round(width * scale), round(height * scale)), Image.Resampling.NEAREST)
    return fit_square(scaled, res)


def variants(res: int) -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "cropped, bilinear instead of bicubic": lambda x: fit_square(x, res),
        "cropped, nearest pixels instead of bicubic": lambda x: nearest_crop(x, res),
        "squeezed to a square instead of cropped": lambda x: resized(x, (res, res), Image.Resampling.BICUBIC),
        "cropped at half the resolution, enlarged": lambda x: crop_adm(crop_adm(x, res // 2), res),
        "cropped, JPEG of quality 95": lambda x: jpeg(crop_adm(x, res), 95),
        "cropped, JPEG of quality 75": lambda x: jpeg(crop_adm(x, res), 75),
    }


def save(folder: Path, images: Iterable[Tensor]) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:05d}.png", compress_level=1)
    return folder


def subset(source: ImageSource, numbers: np.ndarray, folder: Path) -> Path:
    return save(folder, (source.open(int(i)) for i in np.sort(numbers)))


def balanced(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """As many images of each class as the smallest one has among these."""
    least = min(np.bincount(labels[numbers]))
    return np.concatenate([numbers[labels[numbers] == label][:least] for label in range(labels.max() + 1)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photographs", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--res", type=int, default=256)
    parser.add_argument("--features", default="inception")
    given = parser.parse_args()
    config = ScoreConfig(features=given.features, metrics=("fid",))

    def distance(samples: Path, ref: Path) -> float:
        ((_, value),) = score(samples, ref, config, out=root / f"{samples.name}.json").metrics.items()
        return value

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        photographs = open_source(given.photographs)
        cropped = replace(config, res=given.res)
        ref = fid_stats([given.photographs], root / "photographs.npz", cropped)
        for i, (name, prepare) in enumerate(variants(given.res).items()):
            folder = save(root / f"variant-{i}", map(prepare, map(photographs.open, range(len(photographs)))))
            print(f"{name}: {distance(folder, ref):.3f}", flush=True)
        images = open_source(given.images)
        order = np.random.default_rng(0).permutation(len(images))
        half = len(order) // 2
        ref = fid_stats([subset(images, order[half:], root / "other-half")], root / "other-half.npz", config)
        for n in (*(n for n in SIZES if n < half), half):
            print(f"n {n}: {distance(subset(images, order[:n], root / f'n-{n}'), ref):.3f}", flush=True)
        even = balanced(images.labels, order[:half])
        natural = order[: len(even)]
        for name, numbers in (("natural", natural), ("equal", even)):
            found = distance(subset(images, numbers, root / name), ref)
            print(f"{len(numbers)} images, classes in {name} shares: {found:.3f}", flush=True)


main()
