"""Reading annotation files: what comes out, what is dropped and reported, and what each mistake is told as."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet.data.coco import read_annotations
from retinanet.data.coco_columns import read_columns
from retinanet.errors import DataError


def image(image_id, name, width=100, height=80):
    return {"id": image_id, "file_name": name, "width": width, "height": height}


def annotation(annotation_id, image_id, category_id, bbox, **more):
    return {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def document():
    """Ids in no order and with gaps; image 9 has no annotation."""
    return {
        "info": {"year": 2026},
        "images": [image(7, "b.jpg"), image(9, "a.jpg", 40, 60), image(2, "sub/c.jpg")],
        "annotations": [
            annotation(5, 2, 44, [10, 20, 30, 40], area=700, iscrowd=1, segmentation=[[1, 2, 3]]),
            annotation(3, 7, 3, [1.5, 2.5, 10, 20]),
            annotation(11, 2, 17, [0, 0, 5, 5], area=25.0, iscrowd=0),
        ],
        "categories": [{"id": 44, "name": "triangle"}, {"id": 3, "name": "disc"}, {"id": 17, "name": "square"}],
    }


@pytest.fixture
def read(tmp_path):
    def read(content, images=None):
        path = tmp_path / "annotations.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_annotations(path, images)

    return read


@pytest.mark.parametrize("reverse", [False, True], ids=["", "annotations before images"])
def test_columns(read, reverse):
    top = document()
    data = read(dict(reversed(top.items())) if reverse else top)
    assert (data.classes.ids, data.classes.names) == ((3, 17, 44), ("disc", "square", "triangle"))
    assert data.image_ids.tolist() == [7, 9, 2]
    assert [data.file_names[i] for i in range(3)] == ["b.jpg", "a.jpg", "sub/c.jpg"]
    assert data.sizes.tolist() == [[80, 100], [60, 40], [80, 100]]
    assert data.offsets.tolist() == [0, 1, 1, 3]
    assert data.annotation_ids.tolist() == [3, 5, 11]
    assert data.boxes.tolist() == [[1.5, 2.5, 10, 20], [10, 20, 30, 40], [0, 0, 5, 5]]
    assert data.areas.tolist() == [200, 700, 25]
    assert data.labels.tolist() == [0, 2, 1]
    assert data.crowd.tolist() == [False, True, False]
    assert data.usable.all()
    assert not list(data.problems)
    assert data.problem_counts() == ""


def test_training_boxes_are_corners(read):
    corners, labels, crowd = read(document()).training_boxes(2)
    assert corners.dtype == np.float32
    assert corners.tolist() == [[10, 20, 40, 60], [0, 0, 5, 5]]
    assert labels.tolist() == [2, 1]
    assert crowd.tolist() == [True, False]
    corners, labels, crowd = read(document()).training_boxes(1)
    assert corners.shape == (0, 4)
    assert len(labels) == len(crowd) == 0


def test_bad_boxes_are_dropped_or_clipped_for_training_and_kept_for_evaluation(read, tmp_path):
    kinds = {
        1: ("good", [0, 0, 100, 80]),
        2: ("good", [0, 0, 100.9, 80]),  # rounding, not worth a report
        3: ("clipped box", [-10, 5, 50, 200]),
        4: ("box outside the image", [100, 10, 20, 20]),
        5: ("box outside the image", [10, -30, 20, 20]),
        6: ("degenerate box", [10, 10, 0, 5]),
        7: ("degenerate box", [10, 10, 5, -5]),
        8: ("degenerate box", [99, 10, 1e-9, 5]),  # vanishes in float32
        9: ("box not finite", [float("nan"), 10, 5, 5]),
        10: ("box not finite", [0, 0, float("inf"), 5]),
    }
    top = document()
    top["annotations"] = [annotation(key, 7, 3, bbox) for key, (_, bbox) in kinds.items()]
    data = read(top)
    assert {problem.id: problem.kind for problem in data.problems} == {
        key: kind for key, (kind, _) in kinds.items() if kind != "good"
    }
    corners, _, _ = data.training_boxes(0)
    assert corners.tolist() == [[0, 0, 100, 80], [0, 0, 100, 80], [0, 5, 40, 80]]
    np.testing.assert_array_equal(data.boxes, [bbox for _, bbox in kinds.values()])
    assert data.problem_counts() == ("clipped box: 1, box outside the image: 2, degenerate box: 3, box not finite: 2")
    data.write_report(tmp_path / "report.tsv")
    lines = (tmp_path / "report.tsv").read_text().splitlines()
    assert len(lines) == 1 + 8
    assert lines[1] == "clipped box\t3\tbbox [-10.0, 5.0, 50.0, 200.0] in image 7 (b.jpg)"


def test_training_needs_one_usable_box(read):
    data = read(document())
    data.check_trainable()
    top = document()
    top["annotations"] = [annotation(1, 7, 3, [0, 0, 0, 0]), annotation(2, 7, 3, [0, 0, 9, 9], iscrowd=1)]
    with pytest.raises(DataError, match=r"none is usable \(degenerate box: 1"):
        read(top).check_trainable()
    with pytest.raises(DataError, match=r"none is usable \(3 images, no boxes\)"):
        read({**top, "annotations": []}).check_trainable()


def test_images_without_annotations_are_ordinary(read):
    data = read({**document(), "annotations": []})
    assert data.offsets.tolist() == [0, 0, 0, 0]
    assert data.boxes.shape == (0, 4)


def test_absent_images_are_dropped_with_their_annotations_and_reported(read, tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (100, 80)).save(folder / "sub" / "c.jpg")
    Image.new("RGB", (40, 60)).save(folder / "a.jpg")
    data = read(document(), folder)
    assert data.image_ids.tolist() == [9, 2]
    assert data.image_path(1) == folder / "sub" / "c.jpg"
    assert data.offsets.tolist() == [0, 0, 2]
    assert data.annotation_ids.tolist() == [5, 11]
    assert data.problem_counts() == "absent image: 1"
    assert [tuple(problem) for problem in data.problems] == [("absent image", 7, f"b.jpg is not in {folder}")]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "is empty"),
        (lambda folder: (folder.mkdir(), (folder / "other.jpg").touch()), "holds none of the 3 .*first is b.jpg"),
        (lambda folder: folder.touch(), "is a file"),
    ],
)
def test_an_image_folder_of_no_use(read, tmp_path, prepare, message):
    prepare(tmp_path / "images")
    with pytest.raises(DataError, match=message):
        read(document(), tmp_path / "images")


def drop(*path):
    def change(top):
        for key in path[:-1]:
            top = top[key]
        del top[path[-1]]

    return change


def put(value, *path):
    def change(top):
        for key in path[:-1]:
            top = top[key]
        top[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("images"), "lacks 'images'"),
        (drop("annotations"), "lacks 'annotations'"),
        (drop("categories"), "lacks 'categories'"),
        (drop("images", 1, "file_name"), r"images\[1\] \(id 9\) lacks 'file_name'"),
        (drop("images", 0, "id"), r"images\[0\] lacks 'id'"),
        (drop("images", 2, "width"), r"images\[2\] \(id 2\) lacks 'width'"),
        (drop("annotations", 2, "bbox"), r"annotations\[2\] \(id 11\) lacks 'bbox'"),
        (drop("annotations", 0, "image_id"), r"annotations\[0\] \(id 5\) lacks 'image_id'"),
        (drop("annotations", 0, "category_id"), "lacks 'category_id'"),
        (drop("categories", 0, "name"), r"categories\[0\] \(id 44\) lacks 'name'"),
        (put([], "images"), "list of them is empty"),
        (put([], "categories"), "list of them is empty"),
        (put(9, "images", 0, "id"), "image should have its own id, but id 9 is repeated"),
        (put(3, "annotations", 0, "id"), "annotation should have its own id, but id 3 is repeated"),
        (put(17, "categories", 0, "id"), "category should have its own id, but id 17 is repeated"),
        (put(1, "annotations", 1, "image_id"), "annotation 3 names image 1, which"),
        (put(99, "annotations", 1, "image_id"), "annotation 3 names image 99, which"),
        (put(4, "annotations", 2, "category_id"), "annotation 11 names category 4, which"),
        (put("7", "annotations", 0, "image_id"), r"annotations\[0\] \(id 5\) holds a value of the wrong kind"),
        (put(2**70, "annotations", 0, "id"), f"id should be an integer of 64 bits, but is {2**70}"),
        (put([1, 2, 3], "annotations", 0, "bbox"), r"\(id 5\) .*bbox should be four numbers, but is \[1, 2, 3\]\)"),
        (put([1, 2, None, 3], "annotations", 0, "bbox"), r"four numbers, but is \[1, 2, None, 3\]"),
        (put(None, "annotations", 0, "bbox"), "bbox should be four numbers, but is None"),
        (put("big", "annotations", 0, "area"), "area should be a number, but is 'big'"),
        (put("no", "annotations", 0, "iscrowd"), "iscrowd should be 0 or 1, but is 'no'"),
        (put("x" * 999, "annotations", 0, "bbox"), r"but is 'x{59}…\)"),
        (put(0, "images", 1, "height"), "image 9 should have a positive width and height"),
        (
            put(-1, "images", 1, "id"),
            r"images\[1\] \(id -1\) .*id should be an integer of 64 bits, 0 or more, but is -1",
        ),
        (put(10.5, "images", 1, "height"), r"images\[1\] \(id 9\) holds a value .*height should be .*, but is 10.5"),
        (put(12, "images", 1, "file_name"), "file_name should be text, but is 12"),
        (put("", "images", 1, "file_name"), "file_name should be text, but is ''"),
        (put("text", "images", 1), r"images\[1\] holds a value .*\(it should be an object, but is 'text'\)"),
        (put(5, "images"), r"images\[0\] holds a value of the wrong kind"),
        (put("3", "categories", 1, "id"), r"categories\[1\] \(id 3\) holds a value of the wrong kind"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(read, change, message):
    top = document()
    change(top)
    with pytest.raises(DataError, match=message) as caught:
        read(top)
    assert "annotations.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_an_annotation_file(read):
    with pytest.raises(DataError, match="not a COCO annotation file: expected an object"):
        read([{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 1}])
    with pytest.raises(DataError, match="line 1, column"):
        read(json.dumps(document())[:-30])


PEAK = """
import resource, sys
from pathlib import Path
from retinanet.data.coco import read_annotations
from retinanet.data.coco_columns import read_columns
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = read_annotations(Path(sys.argv[1]), None)
print(len(data.boxes), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_a_large_file_is_read_in_a_fraction_of_its_size(tmp_path):
    """A file of 1 GB must take less than 4 GiB: here, less than the file's own size (json.load takes several)."""
    path = tmp_path / "large.json"
    record = annotation(0, 1, 1, [1.5, 2.5, 30.25, 40.125], area=1213.78125, iscrowd=0, segmentation=[[0.125] * 30])
    template = json.dumps(record)[len('{"id": 0') :]
    count = 60_000
    with open(path, "w") as file:
        file.write('{"images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}], ')
        file.write('"categories": [{"id": 1, "name": "a"}], "annotations": [')
        file.writelines(f'{"," if i else ""}{{"id": {i}{template}' for i in range(count))
        file.write("]}")
    size = Path(path).stat().st_size
    assert size > 20e6
    run = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    boxes, peak = map(int, run.stdout.split())
    assert boxes == count
    assert peak < size


def test_records_that_cannot_be_read_can_be_left_out(tmp_path):
    top = document()
    top["images"].insert(1, {"id": 1, "file_name": "no-size.jpg", "width": 5})
    top["annotations"][1]["bbox"] = [1, 2, "3", 4]
    top["categories"][0] = {"id": "44", "name": "triangle"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(top))
    faults = []
    columns = read_columns(path, faults)
    for fault, place in zip(faults, ["images[1]", "annotations[1]", "categories[0]"], strict=True):
        assert place in fault
    path.write_text(json.dumps(document()))
    whole = read_columns(path)
    whole.categories.pop(0)
    whole.keep(np.array([True, True, True]), np.array([True, False, True]))
    assert columns == whole


def test_images_and_annotations_can_be_dropped(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(document()))
    columns = read_columns(tmp_path / "a.json")
    columns.keep(np.array([False, True, True]), np.array([True, False, True]))
    assert list(columns.image_ids) == [9, 2]
    assert columns.file_names == ["a.jpg", "sub/c.jpg"]
    assert list(columns.sizes) == [60, 40, 80, 100]
    assert list(columns.annotation_ids) == [5, 11]
    assert list(columns.boxes) == [10, 20, 30, 40, 0, 0, 5, 5]
    assert list(columns.crowd) == [1, 0]


def test_a_box_of_huge_sides_brings_no_warning_of_ours(read, recwarn):
    top = document()
    huge = annotation(1, 7, 3, [0, 0, 1e308, 1e308])
    huge.pop("area", None)
    top["annotations"] = [huge]
    data = read(top)
    assert [problem.kind for problem in data.problems] == ["clipped box"]
    assert not recwarn.list
