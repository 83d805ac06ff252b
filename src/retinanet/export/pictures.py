"""The pictures that an export looks at, and how the network gets them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from retinanet.data.batching import assemble
from retinanet.data.folder import images_only
from retinanet.data.images import read_image
from retinanet.data.synthetic import make_dataset
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.preprocess import fit_to_canvas
from retinanet.types import Batch

VERIFIED = 8
"""So many pictures are compared: more take longer than they tell."""


def verification_pictures(images: Path | None, canvas: tuple[int, int]) -> list[Tensor]:
    """uint8 `[3, h, w]` each: at most `VERIFIED` of `images`, or made-up ones. Raises `DataError` as `read_image`."""
    return list(_made_up(canvas)) if images is None else [read_image(path) for path in choose(images, VERIFIED)]


def choose(images: Path, count: int) -> list[Path]:
    """At most `count` of the images, spread evenly over them. Raises `DataError` as `images_only`."""
    data = images_only(images)
    indices = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int)
    return [data.image_path(index) for index in indices.tolist()]


def batch_of(pictures: list[Tensor], size: int, record: ArtifactRecord) -> Batch:
    """The pictures on the record's canvas, prepared as in training, filled with blank slots up to `size`."""
    placed = [fit_to_canvas(picture, record.resize, record.max_size, record.canvas) for picture in pictures]
    return assemble(record.canvas, [*placed, *[None] * (size - len(placed))])


def _made_up(canvas: tuple[int, int]) -> Iterator[Tensor]:
    """Pictures of shapes: some fill the canvas, others only its height or its width."""
    height, width = canvas
    aspects = (width / height, 1.0, 0.5 * width / height, 2.0 * width / height)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        make_dataset(pictures, VERIFIED, min(canvas), seed=0, aspects=aspects, empty=0)
        for path in sorted(pictures.iterdir()):
            yield read_image(path)
