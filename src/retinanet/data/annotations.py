"""Images and their annotations as flat arrays.

Nothing here is one Python object per annotation: lists of objects cost gigabytes on large files, and again in every
worker process that touches their reference counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from retinanet.data.images import read_image
from retinanet.errors import DataError
from retinanet.files import atomic_write
from retinanet.types import ClassMap
from retinanet.words import counted

GOOD, CLIPPED, OUTSIDE, DEGENERATE, NOT_FINITE = range(5)
"""What training makes of a box; up to `CLIPPED` it is usable."""

_KINDS = ("good", "clipped box", "box outside the image", "degenerate box", "box not finite")
_OVERHANG = 1.0  # pixels by which a box may stand out before its clipping is reported: annotators round


class Problem(NamedTuple):
    """Something of an annotation file that was dropped or changed."""

    kind: str
    id: int
    """Of the annotation, or, where the kind says so, of the image."""
    detail: str


class FlatStrings:
    """Strings in one block of bytes; index them from 0."""

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._block = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._block[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")


@dataclass(frozen=True, eq=False)
class CocoData:
    """I images in the file's order and M annotations, sorted by image."""

    source: Path
    """The annotation file, or the folder or file of images that have no annotations."""
    images_dir: Path | None
    classes: ClassMap | None
    """Categories in order of id; None without annotations."""
    image_ids: np.ndarray
    """int64 `[I]`."""
    file_names: FlatStrings
    """I names, relative to `images_dir`."""
    sizes: np.ndarray
    """int64 `[I, 2]`, (height, width) as declared."""
    offsets: np.ndarray
    """int64 `[I + 1]`: image i has the annotations offsets[i] … offsets[i + 1] - 1."""
    annotation_ids: np.ndarray
    """int64 `[M]`."""
    boxes: np.ndarray
    """float64 `[M, 4]`, (x, y, width, height) just as the file has them."""
    areas: np.ndarray
    """float64 `[M]`, the file's, or width times height where it has none."""
    labels: np.ndarray
    """int32 `[M]`, class index."""
    crowd: np.ndarray
    """bool `[M]`."""
    status: np.ndarray
    """uint8 `[M]`: `GOOD`, `CLIPPED`, …"""
    dropped_images: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def usable(self) -> np.ndarray:
        """bool `[M]`: whether training can use the box."""
        return self.status <= CLIPPED

    def image_path(self, index: int) -> Path:
        """Where the picture of image `index` lies."""
        assert self.images_dir is not None, "read_annotations was not given the images"
        return self.images_dir / self.file_names[index]

    def read(self, index: int) -> Tensor:
        """The picture of image `index`, as `read_image` gives it. Raises `DataError` as that does."""
        return read_image(self.image_path(index))

    def indices_of(self, image_ids: np.ndarray) -> np.ndarray:
        """Where the images of these ids `[K]`, which must be there, stand: int64 `[K]`."""
        found: np.ndarray = self._by_id[np.searchsorted(self.image_ids, image_ids, sorter=self._by_id)]
        return found

    @cached_property
    def _by_id(self) -> np.ndarray:
        return np.argsort(self.image_ids, kind="stable")

    def training_boxes(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of image `index`: corners float32 `[k, 4]` clipped to it, labels int64 `[k]` and crowd flags bool `[k]`."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        usable = self.status[rows] <= CLIPPED
        corners = clipped_corners(self.boxes[rows][usable], self.sizes[index])
        return corners, self.labels[rows][usable].astype(np.int64), self.crowd[rows][usable]

    def check_trainable(self) -> None:
        """Raise `DataError` unless at least one box can be trained on."""
        if not (self.usable & ~self.crowd).any():
            boxes = "all boxes are crowds" if len(self.boxes) else "no boxes"
            found = self.problem_counts() or f"{counted(len(self), 'image')}, {boxes}"
            raise DataError(f"{self.source} should hold boxes to train on, but none is usable ({found}); correct it.")

    @property
    def problems(self) -> Iterator[Problem]:
        """All that was dropped or changed, made as it is asked for."""
        yield from self.dropped_images
        image_of = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        for row in np.flatnonzero(self.status != GOOD):
            image = image_of[row]
            detail = f"bbox {self.boxes[row].tolist()} in image {self.image_ids[image]} ({self.file_names[image]})"
            yield Problem(_KINDS[self.status[row]], int(self.annotation_ids[row]), detail)

    def problem_counts(self) -> str:
        """One line for the log, such as 'degenerate box: 3, absent image: 1'; empty when all is well."""
        per_status = np.bincount(self.status, minlength=len(_KINDS))
        counts = dict(zip(_KINDS[1:], per_status[1:].tolist(), strict=True))
        for problem in self.dropped_images:
            counts[problem.kind] = counts.get(problem.kind, 0) + 1
        return ", ".join(f"{kind}: {count}" for kind, count in counts.items() if count)

    def write_report(self, path: Path, more: Iterable[Problem] = ()) -> None:
        """Write every problem, and those of `more`, as a line of tab-separated kind, id and detail."""
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("kind\tid\tdetail\n")
            file.writelines(
                f"{problem.kind}\t{problem.id}\t{problem.detail}\n" for problem in chain(self.problems, more)
            )


def clipped_corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """COCO boxes `[k, 4]` as float32 corners `[k, 4]`, cut to their pictures' `sizes` (h, w), `[2]` or `[k, 2]`."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    np.clip(corners, 0, sizes[..., [1, 0, 1, 0]], out=corners)
    return corners.astype(np.float32)


def box_status(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`GOOD`, `CLIPPED`, … as uint8 `[M]`, for COCO boxes `[M, 4]` in pictures of `sizes` `[M, 2]` (h, w)."""
    status = np.full(len(boxes), GOOD, np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is overruled below
        near, far, limit = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], sizes[:, ::-1]
        status[(np.maximum(-near, far - limit) > _OVERHANG).any(1)] = CLIPPED
        # Judged in float32, so that a box that collapses in the training's precision is not trained on.
        corners = clipped_corners(boxes, sizes)
        status[(corners[:, 2:] <= corners[:, :2]).any(1)] = DEGENERATE
        status[(boxes[:, 2:] > 0).all(1) & ((far <= 0) | (near >= limit)).any(1)] = OUTSIDE
    status[~np.isfinite(boxes).all(1)] = NOT_FINITE
    return status
