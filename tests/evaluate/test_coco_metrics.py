import json

import numpy as np
import pytest

from retinanet.data.coco import read_annotations
from retinanet.errors import DataError
from retinanet.evaluate import evaluate
from retinanet.predict.results import Results

BOX = [10.0, 20.0, 40.0, 40.0]


def annotated(tmp_path, annotations, category_ids=(3, 17), image_ids=(1, 2), names=None):
    """Annotations given as (id, image_id, category_id, bbox), read from a file."""
    names = names or [f"class {id_}" for id_ in category_ids]
    keys = ("id", "image_id", "category_id", "bbox")
    content = {
        "images": [{"id": id_, "file_name": f"{id_}.jpg", "width": 100, "height": 100} for id_ in image_ids],
        "categories": [{"id": id_, "name": name} for id_, name in zip(category_ids, names, strict=True)],
        "annotations": [{**dict(zip(keys, a, strict=True)), "area": 1600.0, "iscrowd": 0} for a in annotations],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return read_annotations(path, images=None)


def found(*rows):
    """Results from rows of (image_id, category_id, score), all of the same box."""
    image_ids, category_ids, scores = zip(*rows, strict=True)
    return Results(np.array(image_ids), np.array(category_ids), np.array([BOX] * len(rows)), np.array(scores))


def test_perfect_detection_and_a_class_without_ground_truth(tmp_path):
    metrics = evaluate(annotated(tmp_path, [(1, 1, 17, BOX)]), found((1, 17, 0.9)))
    assert [metrics.AP, metrics.AP50, metrics.AR1] == pytest.approx([1, 1, 1])
    assert metrics.APm == pytest.approx(1)
    assert metrics.APs == metrics.ARl == -1
    assert [(c.category_id, c.name) for c in metrics.per_class] == [(3, "class 3"), (17, "class 17")]
    assert metrics.per_class[0].AP is None
    assert metrics.per_class[1].AP == pytest.approx(1)


def test_annotation_id_zero_counts(tmp_path):
    """pycocotools stores the matched id and takes 0 for no match: such a file would score 0."""
    assert evaluate(annotated(tmp_path, [(0, 1, 3, BOX)]), found((1, 3, 0.9))).AP == pytest.approx(1)


def test_ids_too_large_for_float64(tmp_path):
    first, second = 2**60, 2**60 + 1
    data = annotated(tmp_path, [(1, first, second, BOX)], category_ids=(first, second), image_ids=(first, second))
    assert evaluate(data, found((first, second, 0.9))).AP == pytest.approx(1)
    assert evaluate(data, found((second, second, 0.9))).AP == 0
    assert evaluate(data, found((first, first, 0.9))).AP == 0


def test_box_that_is_not_finite_is_no_ground_truth(tmp_path):
    data = annotated(
        tmp_path, [(1, 1, 3, BOX), (2, 1, 3, [float("nan"), 0, 5, 5]), (3, 1, 17, [0, 0, float("inf"), 5])]
    )
    metrics = evaluate(data, found((1, 3, 0.9)))
    assert metrics.AR100 == pytest.approx(1)
    assert metrics.per_class[1].AP is None


def test_classes_of_the_same_name_stay_apart(tmp_path):
    data = annotated(tmp_path, [(1, 1, 3, BOX), (2, 2, 17, BOX)], names=["bat", "bat"])
    metrics = evaluate(data, found((1, 3, 0.9)))
    assert [c.AP for c in metrics.per_class] == [pytest.approx(1), 0]


def test_subset_leaves_the_other_images_out_on_both_sides(tmp_path):
    data = annotated(tmp_path, [(1, 1, 3, BOX), (2, 2, 3, BOX)])
    results = found((1, 3, 0.5), (2, 17, 0.9))
    assert evaluate(data, results).AP == pytest.approx(0.5, abs=0.01)
    assert evaluate(data, results, image_ids=[1]).AP == pytest.approx(1)
    assert evaluate(data, results, image_ids=[2]).AP == 0
    assert evaluate(data, results, image_ids=[]).AP == -1


def test_results_of_another_data_set(tmp_path):
    data = annotated(tmp_path, [(1, 1, 3, BOX)])
    with pytest.raises(DataError, match=r"image id 5 is not in .*annotations\.json"):
        evaluate(data, found((1, 3, 0.9), (5, 3, 0.9)))
    with pytest.raises(DataError, match=r"category ids of .*annotations\.json \(3, 17\), but found only 0, 1"):
        evaluate(data, found((1, 0, 0.9), (1, 1, 0.9)))


def test_table_and_dictionary(tmp_path):
    metrics = evaluate(annotated(tmp_path, [(1, 1, 3, BOX)], names=["猫 cat", "dog"]), found((1, 3, 0.9)))
    lines = metrics.table().splitlines()
    assert lines[0] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000"
    assert lines[-2].split() == ["猫", "cat", "3", "1.000"]
    assert lines[-1].split() == ["dog", "17", "–"]
    values = json.loads(json.dumps(metrics.as_dict()))
    assert values["AP50"] == pytest.approx(1)
    assert values["per_class"][1] == {"category_id": 17, "name": "dog", "AP": None}
