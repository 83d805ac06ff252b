import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.errors import DataError, UsageError
from retinanet.predict.results import Results, concatenate, read_results, results_writer, to_results, write_image_list
from retinanet.types import ClassMap, Detections

CLASSES = ClassMap((3, 17, 44), ("cat", "dog", "鳥"))


def detections(scores, boxes, labels, count):
    return Detections(torch.tensor(scores), torch.tensor(boxes), torch.tensor(labels), torch.tensor(count))


def two_images_and_a_blank():
    box, none = [1.0, 2.0, 11.5, 22.25], [0.0] * 4
    return detections(
        scores=[[0.9, 0.5, 0.0], [0.8, 0.0, 0.0], [0.7, 0.0, 0.0]],
        boxes=[[box, box, none], [box, none, none], [box, none, none]],
        labels=[[2, 0, -1], [1, -1, -1], [0, -1, -1]],
        count=[2, 1, 1],
    )


def random_results(seed, rows):
    rng = np.random.default_rng(seed)
    found = detections(
        scores=-np.sort(-rng.random((1, rows)), axis=1).astype(np.float32),
        boxes=np.sort(rng.random((1, rows, 2, 2)) * 800, axis=2).reshape(1, rows, 4).astype(np.float32),
        labels=rng.integers(0, 3, (1, rows)),
        count=[rows],
    )
    return to_results(found, torch.tensor([seed]), CLASSES)


def assert_same(a, b):
    for one, other in zip(vars(a).values(), vars(b).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_used_rows_with_their_ids_and_no_blank_slot():
    results = to_results(two_images_and_a_blank(), torch.tensor([1 << 40, 7, -1]), CLASSES)
    assert results.image_ids.tolist() == [1 << 40, 1 << 40, 7]
    assert results.category_ids.tolist() == [44, 3, 17]
    assert results.scores.tolist() == [0.9, 0.5, 0.8]
    assert results.xywh.tolist() == [[1.0, 2.0, 10.5, 20.25]] * 3


def test_image_id_zero_is_an_image():
    assert len(to_results(two_images_and_a_blank(), torch.tensor([0, 1, 2]), CLASSES)) == 4


def test_rounding_moves_no_corner_by_more_than_a_thousandth():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((50, 2, 2)) * 3000, axis=1).reshape(1, 50, 4).astype(np.float32)
    found = detections([[0.123456789] * 50], corners, [[0] * 50], [50])
    results = to_results(found, torch.tensor([1]), CLASSES)
    back = np.concatenate([results.xywh[:, :2], results.xywh[:, :2] + results.xywh[:, 2:]], axis=1)
    assert np.abs(back - corners[0]).max() <= 0.001 + 1e-9
    assert results.scores[0] == 0.123457
    assert all(len(str(number).partition(".")[2]) <= 3 for number in results.xywh.flatten().tolist())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=5))
def test_file_holds_exactly_what_is_in_memory(tmp_path_factory, sizes):
    """So metrics of the file equal those that were printed."""
    parts = [random_results(seed, rows) for seed, rows in enumerate(sizes)]
    path = tmp_path_factory.mktemp("results") / "detections.json"
    with results_writer(path) as write:
        for part in parts:
            write(part)
    assert_same(read_results(path), concatenate(parts))
    entries = json.loads(path.read_text())
    assert len(entries) == sum(sizes)
    assert all(set(entry) == {"image_id", "category_id", "bbox", "score"} for entry in entries)


def test_no_detections_are_an_empty_list(tmp_path):
    with results_writer(tmp_path / "detections.json"):
        pass
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert read_results(tmp_path / "detections.json").xywh.shape == (0, 4)
    assert concatenate([]).image_ids.dtype == np.int64


def test_nothing_half_written(tmp_path):
    path = tmp_path / "detections.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), results_writer(path) as write:  # noqa: PT012
        write(random_results(1, 5))
        raise KeyboardInterrupt
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("detections.json", "old")]
    with pytest.raises(UsageError, match="no folder"), results_writer(tmp_path / "missing" / "detections.json"):
        pass


def test_extreme_scores_stay_json(tmp_path):
    found = detections([[1.0, 1e-5, 1e-20]], [[[0.0, 0.0, 1e5, 1e-4]] * 3], [[0, 1, 2]], [3])
    with results_writer(tmp_path / "detections.json") as write:
        write(to_results(found, torch.tensor([1]), CLASSES))
    assert [entry["score"] for entry in json.loads((tmp_path / "detections.json").read_text())] == [1.0, 1e-5, 0.0]


def test_image_list_makes_results_readable_by_coco_tools(tmp_path):
    images = [{"id": 0, "file_name": "a.jpg", "width": 30, "height": 20}, {"id": 1, "file_name": "鳥/\udcff.jpg"}]
    path = write_image_list(tmp_path / "detections.json", iter(images), CLASSES)
    assert path == tmp_path / "detections.images.json"
    content = json.loads(path.read_text())
    assert content["images"] == images
    assert content["categories"][2] == {"id": 44, "name": "鳥"}
    assert content["annotations"] == []


GOOD = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5.5], "score": 1}


def test_read_accepts_integers_and_extra_keys(tmp_path):
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([{**GOOD, "id": 4}]))
    assert_same(read_results(path), Results(np.array([1]), np.array([3]), np.array([[0, 0, 5, 5.5]]), np.array([1.0])))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not JSON"),
        ("[{]", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (b"\xff\xfe\x00[", "is not JSON"),
        ({"annotations": [GOOD]}, "holds {'annotations'"),
        (None, "holds None"),
        ([GOOD, 5], "it is 5"),
        ([{**GOOD, "image_id": "a.jpg"}], "\"image_id\" is 'a.jpg'"),
        ([{**GOOD, "category_id": 1.5}], '"category_id" is 1.5'),
        ([{**GOOD, "category_id": True}], '"category_id" is True'),
        ([{**GOOD, "image_id": 1 << 70}], '"image_id" is 1180'),
        ([{key: GOOD[key] for key in ("image_id", "category_id", "bbox")}], 'no "score"'),
        ([{**GOOD, "score": None}], '"score" is None'),
        ([{**GOOD, "score": float("nan")}], '"score" is nan'),
        ([{**GOOD, "score": 10**400}], '"score" is 1000'),
        ([{**GOOD, "bbox": [1, 2, 3]}], r'"bbox" is \[1, 2, 3\]'),
        ([{**GOOD, "bbox": [1, 2, 3, "4"]}], '"bbox" is'),
        ([{**GOOD, "bbox": [1, 2, float("inf"), 4]}], '"bbox" is'),
        ([{**GOOD, "bbox": [1, 2, -3, 4]}], '"bbox" is'),
    ],
)
def test_read_refuses_what_are_not_coco_results(tmp_path, content, sentence):
    path = tmp_path / "detections.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=rf"detections\.json.*{sentence}") as caught:
        read_results(path)
    assert "\n" not in str(caught.value)


def test_read_names_a_file_that_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"missing\.json: No such file"):
        read_results(tmp_path / "missing.json")
