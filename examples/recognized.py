"""Classification accuracy on samples: how often a small classifier recognizes the requested class.

python examples/recognized.py emoji64 builtin samples/mine samples/others

It is trained on emoji64/train in a few minutes on a CPU, on the images and on their reconstructions, so
that the tokenizer's blur is no cue for a class. Its accuracy on emoji64/val is the upper limit.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskgit_cli import load_tokenizer
from maskgit_cli.data.sources import ImageSource, open_source

EPOCHS, BATCH, LR = 10, 64, 4e-3
SHIFT = 4  # maximum translation in training, in pixels


def classifier(classes: int) -> nn.Sequential:
    """Four convolutions at half the resolution."""
    layers: list[nn.Module] = [nn.AvgPool2d(2)]
    for before, width in ((3, 32), (32, 64), (64, 96), (96, 128)):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(2) if width == 128 else nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.4), nn.Linear(4 * 128, classes))


def labeled(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Images (N, 3, H, W) in [-1, 1], labels (N,), class names."""
    source = open_source(folder)
    return read_all(source), torch.from_numpy(source.labels.astype(np.int64)), source.class_names


def read_all(source: ImageSource) -> Tensor:
    images = [image for batch in source.batches(range(len(source)), 64) for image in batch]
    return torch.stack(images).float() / 127.5 - 1


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
            shift = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images[rows].roll(shift, (2, 3)))
            loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss:.3f}", file=sys.stderr)
    return network.eval()


@torch.no_grad()
def report(name: str, network: nn.Module, images: Tensor, labels: Tensor, names: list[str]) -> None:
    correct = (torch.cat([network(part) for part in images.split(256)]).argmax(1) == labels).float()
    by_class = (f"{names[i]} {correct[labels == i].mean():.0%}" for i in labels.unique().tolist())
    print(f"{name}: {correct.mean():.1%} of {len(labels)} ({', '.join(by_class)})", flush=True)


def main(emoji: Path, tokenizer: Path, samples: list[Path]) -> None:
    images, labels, names = labeled(emoji / "train")
    val_images, val_labels, _ = labeled(emoji / "val")
    vqgan = load_tokenizer(tokenizer).network
    network = learn(torch.cat([images, reconstructed(vqgan, images)]), labels.repeat(2), len(names))
    report("validation images", network, val_images, val_labels, names)
    report("validation images, reconstructed", network, reconstructed(vqgan, val_images), val_labels, names)
    for path in samples:
        source = open_source(path, tokenizer)
        requested = torch.from_numpy(source.labels.astype(np.int64))
        report(str(path), network, read_all(source), requested, names)


main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(argument) for argument in sys.argv[3:]])
