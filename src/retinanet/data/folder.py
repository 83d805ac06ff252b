"""Folders of images: those without annotations, and which of an annotation file's images are there."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retinanet.data.annotations import CocoData, FlatStrings, Problem
from retinanet.data.images import IMAGE_SUFFIXES, image_size
from retinanet.data.video import VIDEO_SUFFIXES, read_video
from retinanet.errors import DataError


def images_only(path: Path) -> CocoData:
    """The images at `path` (see `find_images`) without annotations: ids 1, 2, … in their order; or a video's frames.

    Images whose header can't be read are dropped and become problems. Raises `DataError` if no image is left.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return read_video(path)
    folder, names = find_images(path)
    sizes, kept, dropped = [], [], []
    for image_id, name in enumerate(names, start=1):
        try:
            sizes.append(image_size(os.path.join(folder, name)))
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


def find_images(path: Path) -> tuple[Path, list[str]]:
    """A folder, and the images at `path` by their names relative to it.

    `path` is one image, a folder (its tree is searched, sorted), a .txt file with a path a line (relative to the
    working directory, in its order), or a pattern such as `photos/**/*.jpg` (sorted). Raises `DataError` if it is none.
    """
    if path.is_dir():
        return path, walk_images(path)
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
        except OSError as error:
            raise DataError(f"Cannot read the list of images {path} ({error.strerror}); check the path.") from error
        names = [line.strip() for line in lines if line.strip()]
        if not names:
            raise DataError(f"The list {path} should name an image a line, but is empty.")
        return Path(), names
    if path.exists():
        return path.parent, [path.name]
    names = sorted(name for name in glob.iglob(str(path), recursive=True) if not os.path.isdir(name))
    if not names:
        raise DataError(f"{path} does not exist; give an image, a folder, a list of images (.txt) or a pattern.")
    return Path(), names


def walk_images(folder: Path) -> list[str]:
    """Paths relative to `folder` of all image files in its tree, sorted. Raises `DataError` if there is none."""
    _require_folder(folder)
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
    _require_folder(folder)
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


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise DataError(f"The image folder {folder} {what}; give the folder that holds the images.")
