"""Images read by other processes, batch by batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from maskgit_cli.data.images import read_image, views
from maskgit_cli.data.sources import Source
from maskgit_cli.errors import InputError
from maskgit_cli.runtime.interrupts import outlive_interrupts


class ImageDataset(Dataset):
    """The images of a source as (index, uint8 (V, 3, side, side) or None, reason it is None or "").

    Args:
        source: the images.
        side: side in pixels of the squares.
        kind: which :func:`views` are taken.
    """

    def __init__(self, source: Source, side: int, kind: str = "none") -> None:
        self.source = source
        self.side = side
        self.kind = kind

    def __len__(self) -> int:
        return len(self.source.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, str]:
        path = self.source.paths[index]
        try:
            return index, views(read_image(path, self.side), self.side, self.kind), ""
        except InputError as error:
            return index, None, str(error).removeprefix(f"{path}: ")


class ImageBatch(NamedTuple):
    """What :func:`collate_images` makes of B items of an :class:`ImageDataset`, R of them readable.

    Attributes:
        indices: which images these are, int64 (R,).
        images: uint8 (R, V, 3, side, side); None if R is 0.
        skipped: (index, reason) of the B - R others.
    """

    indices: Tensor
    images: Tensor | None
    skipped: list[tuple[int, str]]


def collate_images(items: list[tuple[int, Tensor | None, str]]) -> ImageBatch:
    """Join items of an :class:`ImageDataset`, for a ``DataLoader``'s ``collate_fn``."""
    images = [image for _, image, _ in items if image is not None]
    indices = torch.tensor([index for index, image, _ in items if image is not None], dtype=torch.int64)
    skipped = [(index, reason) for index, image, reason in items if image is None]
    return ImageBatch(indices, torch.stack(images) if images else None, skipped)


def load_batches(
    dataset: ImageDataset, batches: Iterable[list[int]], workers: int, pinned: bool
) -> Iterator[ImageBatch]:
    """The images of each batch of indices, read by other processes.

    Args:
        dataset: the images.
        batches: the indices; as many batches as are wanted.
        workers: number of processes; 0 reads in this one.
        pinned: put images where a GPU can fetch them by itself.

    Raises:
        InputError: a process was killed, as happens where memory runs out.
    """
    with warnings.catch_warnings():
        # The number of workers is the user's choice, even where it is more than there are cores.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=_Batches(batches),
            num_workers=workers,
            collate_fn=collate_images,
            pin_memory=pinned,
            worker_init_fn=outlive_interrupts,
        )
        iterator = iter(loader)
    try:
        yield from iterator
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a process that reads images was killed, most likely for want of memory; use fewer --workers"
        ) from error


class _Batches(Sampler[list[int]]):
    """A ``DataLoader``'s batch sampler from any iterable."""

    def __init__(self, batches: Iterable[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
