import json

import numpy as np
import pytest
import torch

from retinanet.errors import DataError
from retinanet.predict.results import Results, concatenate, read_results, to_results
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


GOOD = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5.5], "score": 1}


def test_no_results_are_empty_columns():
    assert concatenate([]).image_ids.dtype == np.int64
    assert concatenate([]).xywh.shape == (0, 4)


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
