"""What the data are, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from retinanet.data.annotations import CocoData, clipped_corners
from retinanet.doctor.class_checks import class_counts
from retinanet.doctor.scan import Scan


class Spread(NamedTuple):
    """Least, 1 %, median, 99 % and greatest of a number."""

    least: float
    low: float
    median: float
    high: float
    most: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        """Of `[n]` values; zeros where there are none."""
        if not len(values):
            return cls(0, 0, 0, 0, 0)
        return cls(*(float(value) for value in np.quantile(values, (0, 0.01, 0.5, 0.99, 1))))


class ClassProfile(NamedTuple):
    """One class."""

    id: int
    name: str
    boxes: int
    images: int
    side: Spread
    """Square root of the boxes' area, in pixels of the original."""


@dataclass(frozen=True)
class Profile:
    """Boxes are those that training can use, crowds apart."""

    images: int
    opened: int
    """Images whose files were looked at: all, or a sample."""
    formats: dict[str, int]
    """Of the opened files, such as 'JPEG RGB' → 120."""
    sizes: dict[str, int]
    """The most frequent declared sizes, such as '640×480' → 80."""
    width: Spread
    height: Spread
    aspect: Spread
    """Width over height of the images."""
    boxes: int
    crowds: int
    empty: int
    """Images without any annotation."""
    objects: Spread
    """Boxes in an image."""
    side: Spread
    box_aspect: Spread
    """Width over height of the boxes."""
    classes: tuple[ClassProfile, ...]


def make_profile(data: CocoData, scan: Scan) -> Profile:
    """Count and measure."""
    usable = data.usable & ~data.crowd
    image_of = np.repeat(np.arange(len(data)), np.diff(data.offsets))[usable]
    corners = clipped_corners(data.boxes[usable], data.sizes[image_of])
    wide, high = (corners[:, 2:] - corners[:, :2]).astype(np.float64).T
    side = np.sqrt(wide * high)
    formats = Counter(f"{facts.format} {facts.mode}" for _, facts, _ in scan.readable())
    sizes, counts = np.unique(data.sizes, axis=0, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:3]
    return Profile(
        images=len(data),
        opened=len(scan.opened),
        formats=dict(formats.most_common()),
        sizes={f"{sizes[index, 1]}×{sizes[index, 0]}": int(counts[index]) for index in frequent},
        width=Spread.of(data.sizes[:, 1]),
        height=Spread.of(data.sizes[:, 0]),
        aspect=Spread.of(data.sizes[:, 1] / data.sizes[:, 0]),
        boxes=int(usable.sum()),
        crowds=int(data.crowd.sum()),
        empty=int((np.diff(data.offsets) == 0).sum()),
        objects=Spread.of(np.bincount(image_of, minlength=len(data))),
        side=Spread.of(side),
        box_aspect=Spread.of(wide / high),
        classes=_classes(data, data.labels[usable], image_of, side),
    )


def _classes(data: CocoData, labels: np.ndarray, image_of: np.ndarray, side: np.ndarray) -> tuple[ClassProfile, ...]:
    assert data.classes is not None
    order = np.argsort(labels, kind="stable")
    counts = class_counts(data)
    members = np.split(order, np.cumsum(counts)[:-1])
    return tuple(
        ClassProfile(category_id, name, len(rows), len(np.unique(image_of[rows])), Spread.of(side[rows]))
        for category_id, name, rows in zip(data.classes.ids, data.classes.names, members, strict=True)
    )
