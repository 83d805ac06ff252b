"""Folders of images that have no annotations."""

import numpy as np
import pytest
from PIL import Image

from retinanet.data.folder import images_only, walk_images
from retinanet.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for name, size in (("b.jpg", (40, 30)), ("a/z.PNG", (10, 20)), ("a/b/c.tif", (5, 5))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_the_tree_is_walked_in_order(folder):
    assert walk_images(folder) == ["a/b/c.tif", "a/z.PNG", "b.jpg"]


def test_images_only(folder):
    data = images_only(folder)
    assert data.classes is None
    assert data.image_ids.tolist() == [1, 2, 3]
    assert data.sizes.tolist() == [[5, 5], [20, 10], [30, 40]]
    assert data.image_path(1) == folder / "a/z.PNG"
    corners, labels, crowd = data.training_boxes(2)
    assert corners.shape == (0, 4)
    assert corners.dtype == np.float32
    assert len(labels) == len(crowd) == 0


def test_a_single_file(folder):
    data = images_only(folder / "b.jpg")
    assert data.image_path(0) == folder / "b.jpg"
    assert data.sizes.tolist() == [[30, 40]]


def test_unreadable_images_are_reported_and_keep_their_id(folder):
    (folder / "a/b/c.tif").write_bytes(b"")
    data = images_only(folder)
    assert data.image_ids.tolist() == [2, 3]
    assert data.file_names[0] == "a/z.PNG"
    (problem,) = data.problems
    assert problem.kind == "unreadable image"
    assert problem.id == 1
    assert "c.tif is not an image" in problem.detail


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match="absent does not exist"):
        images_only(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no image"):
        images_only(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        walk_images(tmp_path / "absent")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("not an image")
    with pytest.raises(DataError, match=r"No image of .* the first of 2: .*a\.jpg is not an image"):
        images_only(tmp_path)
