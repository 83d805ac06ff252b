"""Open and decode the image files, by several processes: what they are, and which can't be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from torch.utils.data import Dataset

from retinanet.data.annotations import CocoData
from retinanet.data.images import ImageFacts, inspect_image
from retinanet.data.readers import made_by_readers, reading
from retinanet.doctor.findings import Case
from retinanet.errors import DataError

MAX_IMAGES = 5000
"""Of a larger set, these many are opened, evenly spread over the file."""
THUMBNAIL = 32
_CHUNK = 32


class Opened(NamedTuple):
    """An image file that was opened."""

    image: int
    """Which one of the data."""
    facts: ImageFacts | DataError
    """The error where the file can't be used."""
    digest: bytes
    """Checksum of its bytes."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What the files of some images hold, in the order of the annotation file."""

    data: CocoData
    opened: list[Opened]

    def readable(self) -> Iterator[tuple[int, ImageFacts, bytes]]:
        """Index, facts and digest of each image that can be used."""
        for index, facts, digest in self.opened:
            if isinstance(facts, ImageFacts):
                yield index, facts, digest

    def case(self, detail: str, *indices: int) -> Case:
        """A case about these images."""
        ids = tuple(int(self.data.image_ids[index]) for index in indices)
        return Case(detail, ids, tuple(self.data.file_names[index] for index in indices))


def scan_images(data: CocoData, workers: int, title: str, limit: int = MAX_IMAGES) -> Scan:
    """Open the images of `data`, or `limit` of them; progress goes to stderr."""
    indices = np.unique(np.linspace(0, len(data) - 1, min(limit, len(data))).round().astype(np.int64))
    chunks = [indices[start : start + _CHUNK].tolist() for start in range(0, len(indices), _CHUNK)]
    opened: list[Opened] = []
    console = Console(stderr=True, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=len(indices))
        with reading(lambda: made_by_readers(_Files(data), chunks, workers)) as made:
            for chunk in made:
                opened += chunk
                progress.update(task, advance=len(chunk))
    return Scan(data, opened)


class _Files(Dataset[list[Opened]]):
    def __init__(self, data: CocoData) -> None:
        self.data = data

    def __getitem__(self, indices: list[int]) -> list[Opened]:
        return [_open(index, self.data.image_path(index)) for index in indices]


def _open(index: int, path: Path) -> Opened:
    try:
        facts = inspect_image(path, THUMBNAIL)
        with open(path, "rb") as file:
            return Opened(index, facts, hashlib.file_digest(file, "sha1").digest())
    except DataError as error:
        return Opened(index, error, b"")
