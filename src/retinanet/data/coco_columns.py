"""The columns of a COCO annotation file, one array each, in the file's order and not yet checked against each other."""

from __future__ import annotations

import math
import operator
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


def read_columns(path: Path) -> Columns:
    """Stream the file at `path`. Raises `DataError` if a key is missing or holds the wrong kind of value."""
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
        except KeyError as error:
            raise DataError(f"{_place(path, key, positions[key], element)} lacks {error}; add it.") from error
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            what = f"holds a value of the wrong kind ({error})"
            raise DataError(f"{_place(path, key, positions[key], element)} {what}; correct it.") from error
    for key, position in positions.items():
        if position < 0:
            raise DataError(f"{path} should be a COCO annotation file, but lacks '{key}'; give the annotation file.")
    if not columns.image_ids:
        raise DataError(f"{path} should list images, but its list of them is empty; give the annotation file.")
    return columns


def _add_image(columns: Columns, image: dict[str, Any]) -> None:
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


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"expected text, found {value!r}")
    return value


def _place(path: Path, key: str, position: int, element: Any) -> str:
    named = f" (id {element['id']})" if isinstance(element, dict) and "id" in element else ""
    return f"{path}: {key}[{position}]{named}"
