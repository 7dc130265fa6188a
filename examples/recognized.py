"""How often a small classifier sees in samples the class that was asked for, class by class.

python examples/recognized.py emoji64 builtin samples/mine samples/others

It learns from emoji64/train, in a few minutes on a CPU, both the pictures and what the tokenizer keeps of
them, so that it does not take a tokenizer's blur for a class. What it says of emoji64/val is its limit.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli import load_tokenizer, open_samples
from maskgit_cli.data.image_sets import open_image_set
from maskgit_cli.data.images import read_image
from maskgit_cli.data.sources import list_images

EPOCHS, BATCH, LR = 10, 64, 4e-3
SHIFT = 4  # pixels that a picture is moved by at most, in training


def classifier(classes: int) -> nn.Sequential:
    """Four convolutions on the picture at half its size."""
    layers: list[nn.Module] = [nn.AvgPool2d(2)]
    for before, width in ((3, 32), (32, 64), (64, 96), (96, 128)):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(2) if width == 128 else nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.4), nn.Linear(4 * 128, classes))


def to_model(images: list[Tensor]) -> Tensor:
    return torch.stack(images).float() / 127.5 - 1


def pictures(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Pictures (N, 3, H, W) in -1..1, labels (N,), names of the classes."""
    source = list_images(folder)
    return (
        to_model([read_image(path) for path in source.paths]),
        torch.from_numpy(source.labels.astype(np.int64)),
        source.class_names,
    )


@torch.no_grad()
def reconstructed(tokenizer: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([tokenizer.reconstruct(part).clamp(-1, 1) for part in images.split(64)])


def learn(images: Tensor, labels: Tensor, classes: int) -> nn.Sequential:
    torch.manual_seed(0)
    network = classifier(classes)
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, EPOCHS * steps)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            by = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images[rows].roll(by, (2, 3)))
            loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss:.3f}", file=sys.stderr)
    return network.eval()


@torch.no_grad()
def report(name: str, network: nn.Module, images: Tensor, labels: Tensor, names: list[str]) -> None:
    right = (torch.cat([network(part) for part in images.split(256)]).argmax(1) == labels).float()
    shares = (f"{names[i]} {right[labels == i].mean():.0%}" for i in labels.unique().tolist())
    print(f"{name}: {right.mean():.1%} of {len(labels)} ({', '.join(shares)})", flush=True)


def main(emoji: Path, tokenizer: Path, samples: list[Path]) -> None:
    images, labels, names = pictures(emoji / "train")
    held_out, truth, _ = pictures(emoji / "val")
    codec = load_tokenizer(tokenizer).network
    seen = torch.cat([images, reconstructed(codec, images)])
    network = learn(seen, labels.repeat(2), len(names))
    report("held-out pictures", network, held_out, truth, names)
    report("held-out pictures, reconstructed", network, reconstructed(codec, held_out), truth, names)
    for path in samples:
        drawn = open_image_set(path, tokenizer, torch.device("cpu"))
        pixels = [image for batch in drawn.batches(range(len(drawn)), 64) for image in batch]
        asked = torch.from_numpy(open_samples(path).tokens.labels.astype(np.int64))
        report(str(path), network, to_model(pixels), asked, names)


main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(word) for word in sys.argv[3:]])
