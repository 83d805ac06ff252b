"""The columns of a COCO annotation file, one array each, in the file's order and not yet checked against each other."""

from __future__ import annotations

import math
import operator
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retinanet.data.coco_fields import wrong_value
from retinanet.data.json_stream import stream_members
from retinanet.errors import DataError


def _int64() -> array[int]:
    return array("q")


def _int8() -> array[int]:
    return array("b")


def _float64() -> array[float]:
    return array("d")


@dataclass
class Columns:
    """I images, M annotations."""

    categories: list[tuple[int, str]] = field(default_factory=list)
    """(id, name)."""
    image_ids: array[int] = field(default_factory=_int64)
    file_names: list[str] = field(default_factory=list)
    sizes: array[int] = field(default_factory=_int64)
    """2 I values: height, width of each."""
    annotation_ids: array[int] = field(default_factory=_int64)
    annotation_images: array[int] = field(default_factory=_int64)
    annotation_categories: array[int] = field(default_factory=_int64)
    boxes: array[float] = field(default_factory=_float64)
    """4 M values: x, y, width, height of each."""
    areas: array[float] = field(default_factory=_float64)
    """NaN where the file has none."""
    crowd: array[int] = field(default_factory=_int8)

    def keep(self, images: np.ndarray, annotations: np.ndarray) -> None:
        """Drop the images and annotations whose flags, bool `[I]` and `[M]`, are false."""
        self.file_names = [self.file_names[index] for index in np.flatnonzero(images)]
        for name in ("image_ids", "sizes"):
            setattr(self, name, _kept(getattr(self, name), images))
        for name in ("annotation_ids", "annotation_images", "annotation_categories", "boxes", "areas", "crowd"):
            setattr(self, name, _kept(getattr(self, name), annotations))

    def drop_unfinished(self) -> None:
        """Take back what was added of an image or an annotation before one of its values turned out wrong."""
        images = min(len(self.image_ids), len(self.file_names), len(self.sizes) // 2)
        del self.image_ids[images:], self.file_names[images:], self.sizes[2 * images :]
        rows = min(len(self.boxes) // 4, len(self.areas), len(self.crowd))
        for column in (self.annotation_ids, self.annotation_images, self.annotation_categories, self.areas, self.crowd):
            del column[rows:]
        del self.boxes[4 * rows :]


def read_columns(path: Path, faults: list[str] | None = None) -> Columns:
    """Stream the file at `path`. Raises `DataError` if a key is missing or holds the wrong kind of value.

    Given `faults`, an image, annotation or category that can't be read is left out, and a sentence about it added.
    """
    columns = Columns()
    readers = {"images": _add_image, "annotations": _add_annotation, "categories": _add_category}
    positions = dict.fromkeys(readers, -1)
    for key, element in stream_members(path):
        if key not in readers:
            continue
        positions[key] += 1
        if element is None and positions[key] == 0:  # an empty array
            continue
        try:
            readers[key](columns, element)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            missing = isinstance(error, KeyError)
            wrong = f"holds a value of the wrong kind ({wrong_value(key, element)}); correct it."
            what = f"lacks {error}; add it." if missing else wrong
            sentence = f"{_place(path, key, positions[key], element)} {what}"
            if faults is None:
                raise DataError(sentence) from error
            faults.append(sentence)
            columns.drop_unfinished()
    for key, position in positions.items():
        if position < 0:
            raise DataError(f"{path} should be a COCO annotation file, but lacks '{key}'; give the annotation file.")
    if not columns.image_ids:
        raise DataError(f"{path} should list images, but its list of them is empty; give the annotation file.")
    return columns


def _add_image(columns: Columns, image: dict[str, Any]) -> None:
    if image["id"] < 0:
        raise ValueError("negative ids mark slots of a batch that hold no image")
    columns.image_ids.append(image["id"])
    columns.file_names.append(_string(image["file_name"]))
    columns.sizes.extend((image["height"], image["width"]))


def _add_annotation(columns: Columns, annotation: dict[str, Any]) -> None:
    columns.annotation_ids.append(annotation["id"])
    columns.annotation_images.append(annotation["image_id"])
    columns.annotation_categories.append(annotation["category_id"])
    x, y, width, height = annotation["bbox"]
    columns.boxes.extend((x, y, width, height))
    columns.areas.append(annotation.get("area", math.nan))
    columns.crowd.append(annotation.get("iscrowd", 0))


def _add_category(columns: Columns, category: dict[str, Any]) -> None:
    columns.categories.append((operator.index(category["id"]), _string(category["name"])))


def _kept(column: array, rows: np.ndarray) -> array:
    values = np.asarray(column).reshape(len(rows), -1)
    return array(column.typecode, values[rows].tobytes())


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"expected text, found {value!r}")
    return value


def _place(path: Path, key: str, position: int, element: Any) -> str:
    named = f" (id {element['id']})" if isinstance(element, dict) and "id" in element else ""
    return f"{path}: {key}[{position}]{named}"
