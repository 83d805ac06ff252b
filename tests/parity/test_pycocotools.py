"""Our metrics against pycocotools, the judge: the 12 numbers and each class's AP to 1e-9."""

import contextlib
import copy
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinanet.data.coco import read_annotations
from retinanet.evaluate import evaluate
from retinanet.predict.results import Results

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco_set(image_ids, category_ids, annotations):
    """A COCO annotation file's content; `annotations` are (image_id, category_id, bbox, area, iscrowd)."""
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    return {
        "images": [{"id": id_, "file_name": f"{id_}.jpg", "width": 640, "height": 480} for id_ in image_ids],
        "categories": [{"id": id_, "name": f"class {id_}"} for id_ in category_ids],
        "annotations": [
            {"id": index, **dict(zip(keys, values, strict=True))} for index, values in enumerate(annotations, start=1)
        ],
    }


def read(coco):
    """The set as we read it from its file, without pictures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        path.write_text(json.dumps(coco))
        return read_annotations(path, images=None)


def as_results(detections):
    return Results(
        image_ids=np.array([d["image_id"] for d in detections], dtype=np.int64),
        category_ids=np.array([d["category_id"] for d in detections], dtype=np.int64),
        xywh=np.array([d["bbox"] for d in detections], dtype=np.float64).reshape(-1, 4),
        scores=np.array([d["score"] for d in detections], dtype=np.float64),
    )


def judge(coco, detections, image_ids=None):
    """pycocotools' evaluation, and what it prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = copy.deepcopy(coco)
        truth.createIndex()
        if detections:
            found = truth.loadRes(copy.deepcopy(detections))
        else:  # loadRes raises here
            found.dataset = {**coco, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(said):
            evaluation.summarize()
    return evaluation, said.getvalue()


def assert_equal_to_judge(coco, detections, image_ids=None):
    ours = evaluate(read(coco), as_results(detections), image_ids)
    theirs, _ = judge(coco, detections, image_ids)
    for name, value in zip(NAMES, theirs.stats, strict=True):
        assert getattr(ours, name) == pytest.approx(value, abs=1e-9), name
    for index, category_id in enumerate(theirs.params.catIds):
        precision = theirs.eval["precision"][:, :, index, 0, 2]
        metric = next(metric for metric in ours.per_class if metric.category_id == category_id)
        if (precision == -1).all():
            assert metric.AP is None
        else:
            assert metric.AP == pytest.approx(precision[precision > -1].mean(), abs=1e-9)
    return ours


# Few values, so that boxes coincide, scores tie, and overlaps and areas fall just on the thresholds.
side = st.sampled_from([0, 1, 8, 31, 32, 33, 64, 96, 97, 200])
box = st.tuples(st.sampled_from([0, 4, 8, 50]), st.sampled_from([0, 4, 8, 50]), side, side).map(list)
score = st.sampled_from([0.05, 0.5, 0.9, 1.0, 0.1 + 0.2, float(np.float32(0.3)), float(np.nextafter(0.5, 1))])


@st.composite
def coco_cases(draw):
    image_ids = draw(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=4, unique=True))
    category_ids = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=3, unique=True))
    image, category = st.sampled_from(image_ids), st.sampled_from(category_ids)
    annotation = st.tuples(image, category, box, st.sampled_from([1.0, 0.5]), st.sampled_from([0, 0, 0, 1])).map(
        lambda a: (*a[:3], a[2][2] * a[2][3] * a[3], a[4])  # masks cover less than their box
    )
    annotations = draw(st.lists(annotation, max_size=12))
    keys = ("image_id", "category_id", "bbox", "score")
    boxes = st.one_of(box, st.sampled_from([a[2] for a in annotations])) if annotations else box
    detection = st.tuples(image, category, boxes, score).map(lambda values: dict(zip(keys, values, strict=True)))
    return coco_set(image_ids, category_ids, annotations), draw(st.lists(detection, max_size=25))


@settings(max_examples=150, deadline=None)
@given(coco_cases())
def test_small_sets_full_of_ties(case):
    assert_equal_to_judge(*case)


def random_case(seed):
    """Like photographs: each object found several times, more or less exactly, and over 100 detections an image."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(10**9, size=10, replace=False).tolist()
    category_ids = rng.choice(90, size=6, replace=False).tolist()
    annotations, detections = [], []
    for image_id in image_ids:
        for _ in range(rng.integers(0, 9)):
            bbox = rng.random(4) * np.array([400, 400, 1, 1]) + np.array([0, 0, 1, 1]) * rng.choice([5, 30, 150])
            category_id = int(rng.choice(category_ids[:-1]))  # the last has no ground truth
            annotations.append((image_id, category_id, bbox.tolist(), bbox[2] * bbox[3] * 0.7, int(rng.random() < 0.2)))
            for _ in range(rng.choice([0, 3, 40])):
                guess = bbox + rng.normal(size=4) * bbox[2] * rng.choice([0, 0.02, 0.1])
                detections.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id if rng.random() < 0.8 else int(rng.choice(category_ids)),
                        "bbox": guess.clip(min=0).tolist(),
                        "score": float(np.float32(rng.random()).round(rng.integers(1, 8))),
                    }
                )
    rng.shuffle(detections)
    return coco_set(image_ids, category_ids, annotations), detections


@pytest.mark.parametrize("seed", range(12))
def test_random_sets(seed):
    coco, detections = random_case(seed)
    ours = assert_equal_to_judge(coco, detections)
    assert 0 < ours.AP < 1  # the case says something


@pytest.mark.parametrize("seed", range(3))
def test_subset_of_images(seed):
    coco, detections = random_case(seed)
    image_ids = [image["id"] for image in coco["images"]]
    assert_equal_to_judge(coco, detections, image_ids[3:7])
    assert_equal_to_judge(coco, detections, image_ids[:1])


def test_the_hundred_best_of_many_ties():
    boxes = [[x, 0, 10, 10] for x in range(0, 1300, 10)]
    coco = coco_set([5], [1], [(5, 1, bbox, 100.0, 0) for bbox in boxes])
    detections = [{"image_id": 5, "category_id": 1, "bbox": bbox, "score": 0.5} for bbox in boxes]
    assert assert_equal_to_judge(coco, detections).AR100 == pytest.approx(100 / 130)


def test_ties_between_images_go_by_image_id_not_by_the_order_of_files():
    coco = coco_set([9, 2], [1], [(9, 1, [0, 0, 50, 50], 2500.0, 0)])
    detections = [{"image_id": id_, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.5} for id_ in (9, 2)]
    assert assert_equal_to_judge(coco, detections).AP == pytest.approx(0.5)


@pytest.mark.parametrize("annotations", [[], [(1, 7, [0, 0, 50, 50], 2500.0, 0)], [(1, 7, [0, 0, 50, 50], 2500.0, 1)]])
def test_no_detections(annotations):
    ours = assert_equal_to_judge(coco_set([1, 2], [7, 8], annotations), [])
    counted = any(not iscrowd for *_, iscrowd in annotations)
    assert ours.AP == ours.AR100 == (0 if counted else -1)
    assert ours.APl == -1


def test_detections_of_undefined_categories_are_left_out():
    coco = coco_set([1], [7], [(1, 7, [0, 0, 50, 50], 2500.0, 0)])
    detections = [
        {"image_id": 1, "category_id": id_, "bbox": [0, 0, 50, 50], "score": score}
        for id_, score in ((6, 0.9), (7, 0.5))
    ]
    assert assert_equal_to_judge(coco, detections).AP == pytest.approx(1)


def test_table_begins_as_pycocotools_prints_it():
    coco, detections = random_case(0)
    _, printed = judge(coco, detections)
    table = evaluate(read(coco), as_results(detections)).table()
    assert table.splitlines()[:12] == printed.splitlines()
