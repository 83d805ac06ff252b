"""The made-up data set keeps its promises."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from retinanet.data.coco import read_annotations
from retinanet.data.synthetic import CATEGORIES, make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "train"
    return make_dataset(folder, 60, 64, seed=3, aspects=(1.0, 1.5, 0.5)), folder


def test_it_reads_without_a_problem(dataset):
    data = read_annotations(*dataset)
    assert len(data) == 60
    assert not list(data.problems)
    assert dict(zip(data.classes.ids, data.classes.names, strict=True)) == CATEGORIES
    assert set(data.labels) == {0, 1, 2}
    for index in range(6):
        with Image.open(data.image_path(index)) as picture:
            assert picture.size[::-1] == tuple(data.sizes[index])
    assert {tuple(size) for size in data.sizes.tolist()} == {(64, 64), (64, 96), (128, 64)}
    assert data.sizes.min(1).tolist() == [64] * 60


def test_empty_pictures_and_overlaps_occur(dataset):
    data = read_annotations(*dataset)
    counts = np.diff(data.offsets)
    assert 1 <= (counts == 0).sum() <= 15
    assert counts.max() >= 4
    overlaps = 0
    for index in range(len(data)):
        corners, _, _ = data.training_boxes(index)
        low = np.maximum(corners[:, None, :2], corners[None, :, :2])
        high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
        overlaps += ((high > low).all(-1).sum() - len(corners)) // 2
    assert overlaps > 10


def test_extents_and_areas(dataset):
    data = read_annotations(*dataset)
    assert (data.boxes[:, 2:].max(1) <= 0.5 * 64 + 2).all()
    assert (data.areas <= data.boxes[:, 2:].prod(1)).all()
    # Of a shape in full sight the area is its class's share of the box.
    fill = [np.median((data.areas / data.boxes[:, 2:].prod(1))[data.labels == label]) for label in range(3)]
    np.testing.assert_allclose(fill, [np.pi / 4, 1, 0.5], atol=0.07)


def test_shapes_stand_out_in_the_pixels(dataset):
    """A box's middle is more saturated than its picture's border: the boxes are where the shapes are."""
    data = read_annotations(*dataset)
    higher = []
    for index in range(len(data)):
        corners, labels, _ = data.training_boxes(index)
        with Image.open(data.image_path(index)) as picture:
            saturation = np.asarray(picture.convert("HSV"))[..., 1].astype(float)
        border = np.concatenate([saturation[:3].ravel(), saturation[-3:].ravel()]).mean()
        for x1, y1, x2, y2 in corners.astype(int):
            x, y = (x1 + x2) // 2, (y1 + y2) // 2
            higher.append(saturation[y - 1 : y + 2, x - 1 : x + 2].mean() > border)
        assert len(labels) == len(corners)
    assert np.mean(higher) > 0.85


def test_seeds(dataset, tmp_path):
    path, folder = dataset
    again = make_dataset(tmp_path / "again" / "train", 60, 64, seed=3, aspects=(1.0, 1.5, 0.5))
    assert again.read_text() == path.read_text()
    assert (again.with_suffix("") / "00007.jpg").read_bytes() == (folder / "00007.jpg").read_bytes()
    for other in (make_dataset(tmp_path / "train", 5, 64, seed=4), make_dataset(tmp_path / "val", 5, 64, seed=3)):
        assert json.loads(other.read_text())["annotations"] != json.loads(path.read_text())["annotations"]
        assert (other.with_suffix("") / "00000.jpg").read_bytes() != (folder / "00000.jpg").read_bytes()


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "retinanet.data.synthetic", str(tmp_path / "out"), "--train", "3", "--val", "2"]
    subprocess.run([*command, "--size", "48"], check=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train", "train.json", "val", "val.json"]
    assert len(read_annotations(tmp_path / "out" / "val.json", tmp_path / "out" / "val")) == 2
