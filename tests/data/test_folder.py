"""Folders of images that have no annotations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet.data.folder import images_only, walk_images
from retinanet.errors import DataError


def save(path: Path, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


@pytest.fixture
def folder(tmp_path):
    for name, size in (("b.jpg", (40, 30)), ("a/z.PNG", (10, 20)), ("a/b/c.tif", (5, 5))):
        save(tmp_path / name, size)
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


def listed(path: Path) -> list[str]:
    data = images_only(path)
    assert data.image_ids.tolist() == list(range(1, len(data) + 1))
    return [str(data.image_path(index)) for index in range(len(data))]


def test_a_list_keeps_its_order_and_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a b.png", "deep/c.png"):
        save(tmp_path / name)
    (tmp_path / "lists").mkdir()
    absolute = tmp_path / "deep" / "c.png"
    (tmp_path / "lists" / "some.txt").write_text(f"b.png\n\n  a b.png \r\n{absolute}\nb.png")
    assert listed(Path("lists/some.txt")) == ["b.png", "a b.png", str(absolute), "b.png"]


def test_a_list_may_name_what_is_not_there_but_not_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "some.txt").write_text(f"{tmp_path}/missing.png\n{tmp_path}/a.png\n")
    data = images_only(tmp_path / "some.txt")
    assert data.image_ids.tolist() == [2]
    assert [problem.id for problem in data.dropped_images] == [1]
    (tmp_path / "some.txt").write_text("\n \n")
    with pytest.raises(DataError, match="empty"):
        images_only(tmp_path / "some.txt")
    with pytest.raises(DataError, match=r"none\.txt"):
        images_only(tmp_path / "none.txt")


def test_a_pattern(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "deep/er/c.png", "deep/d.gif", "e[1].png"):
        save(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    assert listed(tmp_path / "*.png") == [str(tmp_path / name) for name in ("a.png", "b.png", "e[1].png")]
    assert listed(tmp_path / "**" / "*.*") == sorted(
        str(tmp_path / name) for name in ("a.png", "b.png", "deep/er/c.png", "deep/d.gif", "e[1].png")
    )
    assert listed(tmp_path / "e[1].png") == [str(tmp_path / "e[1].png")]  # a file's own name is no pattern
    with pytest.raises(DataError, match="a pattern"):
        images_only(tmp_path / "*.jpg")
