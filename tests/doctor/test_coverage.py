"""What is said of anchors equals what all anchors and the matcher itself give, and leads to the right advice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from doctor_data import coco

from retinanet.boxes import iou
from retinanet.config import DataConfig
from retinanet.data.annotations import CocoData
from retinanet.doctor import coverage
from retinanet.doctor.advice import advise
from retinanet.doctor.coverage import best_ious, cover, resize_targets, side_groups
from retinanet.doctor.diagnosis import Reach
from retinanet.model.anchors import cell_anchors
from retinanet.model.backbone import describe_backbone
from retinanet.model.matcher import match
from retinanet.model.network import RetinaNet
from retinanet.model.record import MatchingRecord, ModelRecord
from retinanet.types import ClassMap

RESIZE, MAX_SIZE = 128, 214


def random_data(folder: Path, seed: int, images: int = 12, longest: float = 90) -> CocoData:
    random = np.random.default_rng(seed)
    sizes = [(int(h), int(w)) for h, w in random.integers(60, 140, (images, 2))]
    boxes = []
    for image, (height, width) in enumerate(sizes, 1):
        for _ in range(random.integers(0, 8)):
            w, h = random.uniform(2, min(longest, width)), random.uniform(2, min(longest, height))
            x, y = random.uniform(0, width - w), random.uniform(0, height - h)
            boxes.append((image, int(random.integers(1, 3)), (x, y, w, h)))
    return coco(folder, sizes, boxes)


def all_anchors(canvas: torch.Tensor, anchor_scale: float) -> torch.Tensor:
    """As a network has them on a canvas (width, height)."""
    width, height = map(int, canvas.tolist())
    record = ModelRecord(
        ClassMap((1,), ("a",)), (describe_backbone("test_resnet", "live"),), cell_anchors(anchor_scale), width=8
    )
    network = RetinaNet(record).eval()
    with torch.no_grad():
        outputs = network(torch.zeros(1, 3, height, width, dtype=torch.uint8), torch.tensor([[height, width]]))
    return network.anchors(outputs)


@pytest.mark.parametrize(("seed", "anchor_scale"), [(0, 4.0), (1, 2.0)])
def test_the_best_overlap_is_that_of_all_anchors_and_who_learns_is_the_matcher_s_word(
    tmp_path: Path, seed: int, anchor_scale: float
) -> None:
    data = random_data(tmp_path, seed)
    targets = resize_targets(data, RESIZE, MAX_SIZE)
    covered = cover(targets, anchor_scale)
    seen = 0
    for image in np.unique(targets.image_of):
        rows = np.flatnonzero(targets.image_of == image)
        anchors = all_anchors(targets.canvases[rows[0]], anchor_scale)
        boxes = targets.boxes[rows]
        expected = iou(boxes[:, None], anchors).amax(1)
        assert covered.best_iou[rows] == pytest.approx(expected.numpy(), abs=1e-6)
        labels = torch.arange(len(rows))[None]
        size = torch.tensor([[1, 1]])
        _, target = match(
            anchors, boxes[None], labels, torch.zeros_like(labels, dtype=torch.bool), size, MatchingRecord()
        )
        assert np.array_equal(covered.learned[rows] == 1, np.isin(np.arange(len(rows)), target))
        seen += len(rows)
    assert seen == len(covered.best_iou) > 20
    assert 0 < covered.matched.mean() < 1


def test_boxes_are_resized_as_for_training(tmp_path: Path) -> None:
    data = coco(tmp_path, [(100, 200), (300, 150)], [(2, 1, (15, 30, 60, 90)), (1, 1, (10, 20, 50, 40))])
    targets = resize_targets(data, 50, 80)
    assert targets.image_of.tolist() == [0, 1]
    # 200×100 may be at most 80 wide, 150×300 at most 80 high: both shrink more than to 50.
    assert targets.boxes[0].tolist() == pytest.approx([4, 8, 24, 24])
    assert targets.boxes[1].tolist() == pytest.approx([4, 8, 20, 32], abs=0.01)
    assert targets.sides.tolist() == pytest.approx([np.sqrt(20 * 16), np.sqrt(16 * 24)], abs=0.01)


def test_a_crowded_box_is_missed(tmp_path: Path) -> None:
    """A sliver inside a box that has every anchor near it to itself."""
    data = coco(tmp_path, [(128, 128)], [(1, 1, (32, 32, 64, 64)), (1, 1, (63, 32.5, 1, 63))])
    targets = resize_targets(data, 128, 128)
    covered = cover(targets, 4.0)
    assert covered.matched.tolist() == [True, False]
    assert covered.missed.tolist() == [False, True]
    reach = Reach.of(covered, np.array([True, True]))
    assert (reach.boxes, reach.matched, reach.learned) == (2, 0.5, 0.5)


def test_what_the_matcher_is_not_asked_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_data(tmp_path, 2, images=60, longest=20)
    targets = resize_targets(data, RESIZE, MAX_SIZE)
    exact = cover(targets, 4.0)
    monkeypatch.setattr(coverage, "MATCHED_IMAGES", 20)
    estimate = cover(targets, 4.0)
    assert estimate.missed.sum() < exact.missed.sum()
    assert estimate.learned.mean() == pytest.approx(exact.learned.mean(), abs=0.05)


def test_side_groups() -> None:
    assert side_groups(np.array([0.5, 16, 31.9, 600])).tolist() == [0, 1, 1, 6]


def options(data: CocoData, config: DataConfig, anchor_scale: float = 4.0) -> dict[str, str]:
    targets = resize_targets(data, config.resize, config.longest)
    return {
        name: value for advice in advise(data, targets, config, anchor_scale) for name, value in advice.options.items()
    }


def grid_of_boxes(side: int, size: int, images: int, gap: int) -> list[tuple[int, int, tuple[float, ...]]]:
    places = range(gap // 2, size - side, side + gap)
    return [(image, 1, (x, y, side, side)) for image in range(1, images + 1) for x in places for y in places]


def test_advice_for_small_objects_is_a_smaller_anchor(tmp_path: Path) -> None:
    data = coco(tmp_path, [(256, 256)] * 1400, grid_of_boxes(14, 256, 4, 60))
    config = DataConfig(resize=256)
    advised = options(data, config)
    assert list(advised) == ["--anchor-scale"]
    smaller = float(advised["--anchor-scale"])
    targets = resize_targets(data, 256, 427)
    assert (best_ious(targets, smaller) >= 0.5).mean() >= (best_ious(targets, 4.0) >= 0.5).mean() + 0.03
    # With that done, there is no more to say.
    assert options(data, config, smaller) == {}


def test_advice_for_objects_that_shrink_is_a_larger_size(tmp_path: Path) -> None:
    data = coco(tmp_path, [(1024, 1024)] * 1400, grid_of_boxes(40, 1024, 4, 100))
    advised = options(data, DataConfig(resize=256, max_size=256))
    assert advised["--resize"] == "512"


def test_advice_for_few_images_is_to_fine_tune_and_for_very_few_a_smaller_batch(tmp_path: Path) -> None:
    data = coco(tmp_path, [(256, 256)] * 200, grid_of_boxes(64, 256, 200, 60))
    assert options(data, DataConfig(resize=256)) == {}
    (advice,) = advise(data, resize_targets(data, 256, 427), DataConfig(resize=256), 4.0)
    assert all(words in advice.sentence for words in ("200 images", "77 epochs", "1,000 steps", "--fine-tune"))
    few = coco(tmp_path, [(256, 256)] * 20, grid_of_boxes(64, 256, 20, 60))
    assert options(few, DataConfig(resize=256)) == {"--batch": "4"}


def test_advice_for_crowded_images_is_more_detections(tmp_path: Path) -> None:
    boxes = [(1, 1, (x, y, 40, 40)) for x in range(0, 600, 46) for y in range(0, 600, 46)]
    data = coco(tmp_path, [(640, 640)] * 1400, boxes)
    assert len(boxes) == 196
    assert options(data, DataConfig(resize=640)) == {"--detections": "300"}


def test_sound_settings_need_no_advice(tmp_path: Path) -> None:
    data = coco(tmp_path, [(256, 256)] * 1400, grid_of_boxes(64, 256, 1400, 60))
    assert options(data, DataConfig(resize=256)) == {}
