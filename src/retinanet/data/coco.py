"""Read COCO annotation files, checked, in memory of a few dozen bytes per annotation."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from retinanet.data.annotations import CocoData, FlatStrings, Problem, box_status
from retinanet.data.coco_columns import Columns, read_columns
from retinanet.data.folder import present_images
from retinanet.errors import DataError
from retinanet.types import ClassMap

__all__ = ["CocoData", "read_annotations"]


def read_annotations(path: Path, images: Path | None) -> CocoData:
    """The annotations of a COCO file; `images` is the folder its file names are in, or None if pictures don't matter.

    Images that the folder lacks are dropped with their annotations and become problems. Raises `DataError` if the
    file is not COCO's (what, where), contradicts itself, or no image is left.
    """
    columns = read_columns(path)
    _check_unique(path, "image", np.asarray(columns.image_ids))
    _check_unique(path, "annotation", np.asarray(columns.annotation_ids))
    return join_columns(path, columns, images)


def join_columns(path: Path, columns: Columns, images: Path | None) -> CocoData:
    """The columns of the file at `path`, joined by their ids; otherwise as `read_annotations`, which checks the ids."""
    image_ids, annotation_ids = np.asarray(columns.image_ids), np.asarray(columns.annotation_ids)
    classes = _class_map(path, columns.categories)
    # [M], before sorting by image
    image_of = _positions(path, "image", columns.annotation_images, image_ids, annotation_ids)
    labels = _positions(path, "category", columns.annotation_categories, np.array(classes.ids), annotation_ids)
    sizes = np.asarray(columns.sizes).reshape(-1, 2)
    if (sizes <= 0).any():
        image = image_ids[(sizes <= 0).any(1).argmax()]
        raise DataError(f"{path}: image {image} should have a positive width and height, but does not; correct it.")

    names = columns.file_names
    present = np.ones(len(names), dtype=bool) if images is None else present_images(images, names)
    order = np.argsort(image_of, kind="stable")
    order = order[present[image_of[order]]]
    boxes, areas = np.asarray(columns.boxes).reshape(-1, 4)[order], np.asarray(columns.areas)[order]
    with np.errstate(invalid="ignore", over="ignore"):  # such boxes are told of by their status
        areas = np.where(np.isfinite(areas), areas, boxes[:, 2] * boxes[:, 3])
    return CocoData(
        source=path,
        images_dir=images,
        classes=classes,
        image_ids=image_ids[present],
        file_names=FlatStrings([names[index] for index in np.flatnonzero(present)]),
        sizes=sizes[present],
        offsets=np.cumsum([0, *np.bincount(image_of, minlength=len(names))[present]]),
        annotation_ids=annotation_ids[order],
        boxes=boxes,
        areas=areas,
        labels=labels[order].astype(np.int32),
        crowd=np.asarray(columns.crowd, dtype=bool)[order],
        status=box_status(boxes, sizes[image_of[order]]),
        dropped_images=tuple(
            Problem("absent image", int(image_ids[index]), f"{names[index]} is not in {images}")
            for index in np.flatnonzero(~present)
        ),
    )


def _class_map(path: Path, categories: list[tuple[int, str]]) -> ClassMap:
    if not categories:
        raise DataError(f"{path} should define categories, but its list of them is empty; add them.")
    _check_unique(path, "category", np.array([category_id for category_id, _ in categories]))
    ids, names = zip(*sorted(categories), strict=True)
    return ClassMap(ids, names)


def _check_unique(path: Path, kind: str, ids: np.ndarray) -> None:
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise DataError(f"{path}: each {kind} should have its own id, but id {repeated[0]} is repeated; renumber them.")


def _positions(path: Path, kind: str, column: array[int], ids: np.ndarray, annotation_ids: np.ndarray) -> np.ndarray:
    """Where in `ids` each of a column of the annotations stands, `[M]`."""
    wanted = np.asarray(column)
    order = np.argsort(ids, kind="stable")
    found: np.ndarray = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    undefined = ids[found] != wanted
    if undefined.any():
        first = undefined.argmax()
        raise DataError(
            f"{path}: annotation {annotation_ids[first]} names {kind} {wanted[first]}, which the file does not define "
            f"({int(undefined.sum())} such annotations); define it or remove them."
        )
    return found
