"""Folders of images: those without annotations, and which of an annotation file's images are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retinanet.data.annotations import CocoData, FlatStrings, Problem
from retinanet.data.images import IMAGE_SUFFIXES, image_size
from retinanet.errors import DataError


def images_only(path: Path) -> CocoData:
    """The image, or all images of the folder tree, at `path`, without annotations: ids 1, 2, … in order of the paths.

    Images whose header can't be read are dropped and become problems. Raises `DataError` if no image is left.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give an image, or a folder of images.")
    folder, names = (path, walk_images(path)) if path.is_dir() else (path.parent, [path.name])
    sizes, kept, dropped = [], [], []
    for image_id, name in enumerate(names, start=1):
        try:
            sizes.append(image_size(folder / name))
            kept.append(image_id)
        except DataError as error:
            dropped.append(Problem("unreadable image", image_id, str(error)))
    if not kept:
        raise DataError(f"No image of {path} can be used; the first of {len(dropped)}: {dropped[0].detail}")
    return CocoData(
        source=path,
        images_dir=folder,
        classes=None,
        image_ids=np.array(kept, np.int64),
        file_names=FlatStrings([names[image_id - 1] for image_id in kept]),
        sizes=np.array(sizes, np.int64),
        offsets=np.zeros(len(kept) + 1, np.int64),
        annotation_ids=np.empty(0, np.int64),
        boxes=np.empty((0, 4)),
        areas=np.empty(0),
        labels=np.empty(0, np.int32),
        crowd=np.empty(0, bool),
        status=np.empty(0, np.uint8),
        dropped_images=tuple(dropped),
    )


def walk_images(folder: Path) -> list[str]:
    """Paths relative to `folder` of all image files in its tree, sorted. Raises `DataError` if there is none."""
    if not folder.is_dir():
        raise DataError(f"The image folder {folder} does not exist; give the folder that holds the images.")
    names = [
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, files in os.walk(folder, followlinks=True)
        for name in files
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    ]
    if not names:
        raise DataError(f"The image folder {folder} holds no image; give the folder that holds the images.")
    return sorted(names)


def present_images(folder: Path, names: Sequence[str]) -> np.ndarray:
    """bool `[I]`: which of the file names lie in `folder`. Raises `DataError` if none does.

    Each folder is listed once, because asking for each file is slow on network drives.
    """
    if not folder.is_dir():
        raise DataError(f"The image folder {folder} does not exist; give the folder that holds the images.")
    listings: dict[str, set[str]] = {}
    present = np.zeros(len(names), dtype=bool)
    for index, name in enumerate(names):
        parent, base = os.path.split(name)
        if parent not in listings:
            where = folder / parent
            listings[parent] = set(os.listdir(where)) if where.is_dir() else set()
        present[index] = base in listings[parent]
    if not present.any():
        what = "is empty" if not any(folder.iterdir()) else f"holds none of the {len(names)} annotated images"
        raise DataError(f"The image folder {folder} {what} (the first is {names[0]}); give the folder they are in.")
    return present
