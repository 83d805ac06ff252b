"""The report's numbers against pycocotools, against hotcoco reading the same files, and against slow counting."""

from __future__ import annotations

import json
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from report_cases import CATEGORY_IDS, random_case, read, write

from retinanet.report.figures import NO_THRESHOLD, Figures, measure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def figures(folder: Path) -> Figures:
    return measure(*read(folder))


@pytest.fixture(scope="module")
def reference(folder: Path) -> COCOeval:
    """pycocotools'."""
    truth = COCO(str(folder / "annotations.json"))
    evaluator = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


@pytest.fixture(scope="module")
def from_files(folder: Path) -> hotcoco.COCOeval:
    """hotcoco's own way from files, with the files' ids."""
    truth = hotcoco.COCO(str(folder / "annotations.json"))
    evaluator = hotcoco.COCOeval(truth, truth.load_res(str(folder / "results.json")), "bbox")
    evaluator.run()
    return evaluator


def test_the_twelve_numbers(figures: Figures, reference: COCOeval) -> None:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert [getattr(figures.metrics, name) for name in names] == pytest.approx(reference.stats.tolist(), abs=1e-12)


def test_precision_recall_curves(figures: Figures, reference: COCOeval) -> None:
    expected = reference.eval["precision"][:, :, :, 0, 2]
    assert (expected > 0).any()
    for index, of_class in enumerate(figures.classes):
        np.testing.assert_allclose(of_class.curves, expected[:, :, index], atol=1e-12)


def test_ap_by_class_and_size(figures: Figures, reference: COCOeval) -> None:
    def mean(values: np.ndarray) -> float | None:
        return values[values > -1].mean() if (values > -1).any() else None

    precision, recall = reference.eval["precision"][..., 2], reference.eval["recall"][..., 2]
    for index, of_class in enumerate(figures.classes):
        assert of_class.AP == pytest.approx(mean(precision[:, :, index, 0]), abs=1e-12)
        assert of_class.AP50 == pytest.approx(mean(precision[0, :, index, 0]), abs=1e-12)
        assert of_class.AP75 == pytest.approx(mean(precision[5, :, index, 0]), abs=1e-12)
        for area, value in enumerate((of_class.APs, of_class.APm, of_class.APl), start=1):
            assert value == pytest.approx(mean(precision[:, :, index, area]), abs=1e-12)
        assert of_class.AR100 == pytest.approx(mean(recall[:, index, 0]), abs=1e-12)
    assert figures.classes[3].AP is None  # never annotated
    assert figures.classes[2].AP == 0  # never found


def test_tide_and_calibration(figures: Figures, from_files: hotcoco.COCOeval) -> None:
    expected = from_files.tide_errors()
    assert figures.tide["counts"] == expected["counts"]
    assert figures.tide["delta_ap"] == pytest.approx(expected["delta_ap"], abs=1e-12)
    assert min(expected["counts"].values()) > 0
    calibration = from_files.calibration()
    assert figures.calibration["ece"] == pytest.approx(calibration["ece"], abs=1e-12)
    assert figures.calibration["bins"] == calibration["bins"]
    for of_class in figures.classes:
        assert of_class.calibration_error == pytest.approx(calibration["per_category"].get(of_class.name), abs=1e-12)


def test_suggested_thresholds(
    figures: Figures, folder: Path, reference: COCOeval, from_files: hotcoco.COCOeval
) -> None:
    """No other score gives a better F1; precision and recall are those of what stays above it."""
    matched = outcomes(reference)
    best = []
    for index, of_class in enumerate(figures.classes[:2]):
        scores, right = matched[index]

        def f1(threshold: float, scores=scores, right=right, objects=of_class.objects) -> float:
            kept = scores >= threshold
            return 2 * right[kept].sum() / (kept.sum() + objects)

        assert of_class.threshold is not None
        best.append(f1(of_class.threshold))
        assert best[-1] == pytest.approx(max(f1(score) for score in scores), abs=0.01)  # recall in steps of 0.01
        kept = scores >= of_class.threshold
        assert of_class.precision == pytest.approx(right[kept].mean())
        assert of_class.recall == pytest.approx(right[kept].sum() / of_class.objects)
    assert sum(best) / 3 == pytest.approx(from_files.f_scores()["F1_50"], abs=0.01)  # the third class has 0
    assert figures.classes[2].threshold is figures.classes[3].threshold is None
    assert figures.classes[3].recall is None


def outcomes(reference: COCOeval) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per class the scores of judged detections, and whether each is right at IoU 0.50."""
    per_class: list[list[tuple[float, bool]]] = [[] for _ in CATEGORY_IDS]
    for each in reference.evalImgs:
        if each and each["aRng"] == [0, 1e10]:
            ignored, found = each["dtIgnore"][0].astype(bool), each["dtMatches"][0] > 0
            place = CATEGORY_IDS.index(each["category_id"])
            per_class[place] += [
                (score, bool(right))
                for score, right, skip in zip(each["dtScores"], found, ignored, strict=True)
                if not skip
            ]
    return [(np.array([s for s, _ in rows]), np.array([r for _, r in rows], dtype=bool)) for rows in per_class]


def test_confusion_matrix(figures: Figures, folder: Path, reference: COCOeval) -> None:
    """Greedy by score over all classes, slowly; detections that COCO gives to crowds are left out."""
    in_crowds = {
        id_
        for each in reference.evalImgs
        if each and each["aRng"] == [0, 1e10]
        for id_, ignored in zip(each["dtIds"], each["dtIgnore"][0], strict=True)
        if ignored
    }
    assert in_crowds
    limits = {id_: c.threshold or NO_THRESHOLD for id_, c in zip(CATEGORY_IDS, figures.classes, strict=True)}
    truth = [a for a in json.loads((folder / "annotations.json").read_text())["annotations"] if not a["iscrowd"]]
    found = [
        detection
        for index, detection in enumerate(json.loads((folder / "results.json").read_text()), start=1)
        if detection["score"] >= limits[detection["category_id"]] and index not in in_crowds
    ]
    expected = np.zeros((5, 5), dtype=np.int64)
    taken: set[int] = set()
    for detection in sorted(found, key=lambda each: -each["score"]):
        near = [
            (iou(detection["bbox"], each["bbox"]), each)
            for each in truth
            if each["image_id"] == detection["image_id"] and each["id"] not in taken
        ]
        overlap, nearest = max(near, key=lambda pair: pair[0], default=(0, None))
        row = 4
        if nearest and overlap >= 0.5:
            taken.add(nearest["id"])
            row = CATEGORY_IDS.index(nearest["category_id"])
        expected[row, CATEGORY_IDS.index(detection["category_id"])] += 1
    for each in truth:
        expected[CATEGORY_IDS.index(each["category_id"]), 4] += each["id"] not in taken
    np.testing.assert_array_equal(figures.confusion, expected)


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def test_nothing_to_measure(tmp_path: Path) -> None:
    box = {"image_id": 100, "category_id": 3, "bbox": [10, 10, 50, 50]}
    nothing_found = measure(*read(write(tmp_path, [box], [])))
    assert nothing_found.metrics.AP == nothing_found.classes[0].AP == 0
    assert nothing_found.classes[0].threshold is None
    assert nothing_found.confusion[0].tolist() == [0, 0, 0, 0, 1]
    nothing_annotated = measure(*read(write(tmp_path, [], [{**box, "score": 0.9}])))
    assert [c.AP for c in nothing_annotated.classes] == [None] * 4
    assert nothing_annotated.confusion[4].tolist() == [1, 0, 0, 0, 0]
    assert measure(*read(write(tmp_path, [], [], images=1))).confusion.sum() == 0
