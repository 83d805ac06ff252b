import pytest
import torch
from torchvision.ops import box_iou

from retinanet.model.anchors import cell_anchors, grid_anchors
from retinanet.model.matcher import BACKGROUND, IGNORED, match
from retinanet.model.record import MatchingRecord


def some_anchors() -> torch.Tensor:
    cells = torch.tensor(cell_anchors()[:2])
    levels = zip(cells, (8, 16), strict=True)
    return torch.cat([grid_anchors(cell, (64 // s, 64 // s), (s, s), 0.5) for cell, s in levels])


def targets(*images: list[tuple[list[float], int, bool]], slots: int = 32):
    boxes, labels = torch.zeros(len(images), slots, 4), torch.full((len(images), slots), -1)
    crowd = torch.zeros(len(images), slots, dtype=torch.bool)
    for image, objects in enumerate(images):
        for slot, (box, label, is_crowd) in enumerate(objects):
            boxes[image, slot], labels[image, slot], crowd[image, slot] = torch.tensor(box), label, is_crowd
    return boxes, labels, crowd, torch.tensor([[64, 64]] * len(images))


def slow_match(anchors, boxes, labels, crowd, image_sizes, matching):
    """The rules of the docstrings, one anchor and one box at a time."""
    expected = torch.full((len(boxes), len(anchors)), IGNORED)
    for image in range(len(boxes)):
        if 0 in image_sizes[image].tolist():
            continue
        real = [k for k in range(boxes.shape[1]) if labels[image, k] >= 0 and not crowd[image, k]]
        ious = box_iou(boxes[image], anchors)
        best_of_box = {k: ious[k].max().item() for k in real}
        for m, anchor in enumerate(anchors):
            overlaps = {k: ious[k, m].item() for k in real}
            best = max(overlaps, key=lambda k: (overlaps[k], -k), default=None)
            highest = overlaps[best] if best is not None else 0.0
            is_best = any(overlaps[k] == best_of_box[k] > 0 for k in real)
            if highest >= matching.positive_iou or (matching.low_quality and is_best):
                expected[image, m] = labels[image, best]
            elif highest < matching.negative_iou and not any(
                crowd[image, k] and share_inside(anchor, boxes[image, k]) >= 0.5 for k in range(boxes.shape[1])
            ):
                expected[image, m] = BACKGROUND
    return expected


def share_inside(anchor, box) -> float:
    width = min(anchor[2], box[2]) - max(anchor[0], box[0])
    height = min(anchor[3], box[3]) - max(anchor[1], box[1])
    area = (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
    return float(max(width, 0) * max(height, 0) / area)


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_rules_applied_one_by_one(seed, low_quality):
    generator = torch.Generator().manual_seed(seed)
    images = []
    for count in (13, 5, 0):
        corners = torch.rand(count, 2, generator=generator) * 48
        boxes = torch.cat([corners, corners + 3 + torch.rand(count, 2, generator=generator) * 40], dim=1).tolist()
        images.append([(box, slot % 4, slot % 5 == 2) for slot, box in enumerate(boxes)])
    arguments = (some_anchors(), *targets(*images), MatchingRecord(low_quality=low_quality))
    _, labels = match(*arguments)
    expected = slow_match(*arguments)
    assert torch.equal(labels, expected)
    assert {BACKGROUND, IGNORED} < set(expected.unique().tolist())


def test_thresholds_are_met_exactly():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 25], [0, 0, 10, 26]])  # IoU 1, 0.5, 0.4, <0.4
    _, labels = match(anchors, *targets([([0.0, 0, 10, 10], 1, False)]), MatchingRecord())
    assert labels.tolist() == [[1, 1, IGNORED, BACKGROUND]]


def test_ties_go_to_the_lower_box_within_and_across_chunks():
    anchors = torch.tensor([[0.0, 0, 10, 10], [40, 40, 50, 50]])
    twins = [([0.0, 0, 10, 10], slot % 3, False) for slot in range(20)]
    far = [([40.0, 40, 50, 50], 7, False)]
    matched, labels = match(anchors, *targets(far + twins), MatchingRecord())
    assert matched.tolist() == [[1, 0]]
    assert labels.tolist() == [[0, 7]]


def test_a_low_quality_anchor_keeps_the_box_it_overlaps_most():
    # The small box's best anchor overlaps the large box more: it stays the large box's, as torchvision has it.
    anchors = torch.tensor([[0.0, 0, 20, 20], [100, 100, 120, 120]])
    matched, labels = match(
        anchors, *targets([([0.0, 0, 4, 4], 0, False), ([0.0, 0, 20, 21], 1, False)]), MatchingRecord()
    )
    assert labels.tolist() == [[1, BACKGROUND]]
    assert matched[0, 0] == 1


def test_a_box_that_no_anchor_touches_makes_nothing_positive():
    for box in ([500.0, 500, 520, 520], [10.0, 10, 10, 10]):  # far outside, and without area
        _, labels = match(some_anchors(), *targets([(box, 0, False)]), MatchingRecord())
        assert (labels == BACKGROUND).all()


def test_crowds_ignore_what_lies_inside_them_and_are_never_positive():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 5, 10, 15], [0, 6, 10, 16], [20, 0, 30, 10]])
    objects = [([0.0, 0, 40, 10], 1, True), ([20.0, 0, 30, 10], 2, False)]
    _, labels = match(anchors, *targets(objects), MatchingRecord())
    assert labels.tolist() == [[IGNORED, IGNORED, BACKGROUND, 2]]


def test_blank_images_are_ignored_and_empty_ones_are_background():
    boxes, labels, crowd, sizes = targets([([0.0, 0, 30, 30], 0, False)], [], [])
    sizes[0] = 0
    sizes[2, 1] = 0
    _, labels = match(some_anchors(), boxes, labels, crowd, sizes, MatchingRecord())
    assert [set(row.tolist()) for row in labels] == [{IGNORED}, {BACKGROUND}, {IGNORED}]
