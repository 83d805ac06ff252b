"""ATSS against the paper's algorithm, written out line by line."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from retinanet.model.anchors import cell_anchors, grid_anchors
from retinanet.model.atss import NEAREST, match_adaptively
from retinanet.model.matcher import BACKGROUND, IGNORED

STRIDES = (8, 16, 32, 64, 128)


def levels(height: int, width: int) -> list[Tensor]:
    """Anchors of each level on a canvas; the coarsest grids have fewer cells than a box has candidates."""
    grids = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    cells = torch.tensor(cell_anchors())
    return [
        grid_anchors(cell, grid, (stride, stride), 0.5)
        for cell, grid, stride in zip(cells, grids, STRIDES, strict=True)
    ]


def algorithm_1(levels: list[Tensor], boxes: list[Tensor], per_cell: int) -> dict[int, int]:
    """Anchor → box, for the positives: the paper's algorithm, with every anchor of a cell a candidate."""
    anchors = torch.cat(levels)
    ious = box_iou(torch.stack(boxes), anchors)
    chosen: dict[int, int] = {}
    for g, box in enumerate(boxes):  # line 1
        candidates: list[int] = []  # C_g
        first = 0
        for level in levels:  # lines 3 to 5: the k nearest of each level, by the L2 distance of the centres
            centres = (level[::per_cell, :2] + level[::per_cell, 2:]) / 2
            offsets = centres - (box[:2] + box[2:]) / 2
            distance = offsets.square().sum(1).tolist()
            nearest = sorted(range(len(distance)), key=lambda cell: (distance[cell], cell))[:NEAREST]
            candidates += [first + cell * per_cell + a for cell in nearest for a in range(per_cell)]
            first += len(level)
        values = [float(ious[g, c]) for c in candidates]  # line 7
        threshold = statistics.mean(values) + statistics.stdev(values)  # lines 8 to 10
        for c, value in zip(candidates, values, strict=True):  # lines 11 to 15
            centre = (anchors[c, :2] + anchors[c, 2:]) / 2
            inside = box[0] < centre[0] < box[2] and box[1] < centre[1] < box[3]
            if value >= threshold and inside and (c not in chosen or value > float(ious[chosen[c], c])):
                chosen[c] = g  # of several boxes, the one of highest IoU
    return chosen


def random_boxes(count: int, generator: torch.Generator, height: int, width: int) -> Tensor:
    sides = torch.tensor([width, height], dtype=torch.float32)
    corner = torch.rand(count, 2, generator=generator) * sides * 0.8
    size = torch.rand(count, 2, generator=generator).square() * sides * 0.7 + 3
    return torch.cat([corner, torch.minimum(corner + size, sides)], dim=1)


def run(levels: list[Tensor], boxes: Tensor, labels: Tensor, crowd: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    return match_adaptively(torch.cat(levels), [len(level) // 9 for level in levels], boxes, labels, crowd, sizes)


@pytest.mark.parametrize(("height", "width"), [(192, 256), (96, 416), (32, 64)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_papers_algorithm(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors, slots = levels(height, width), 64
    counts = (40, 5, 0)
    boxes, labels = torch.zeros(3, slots, 4), torch.full((3, slots), -1)
    for image, count in enumerate(counts):
        boxes[image, :count] = random_boxes(count, generator, height, width)
        labels[image, :count] = torch.arange(count) % 7
    crowd = torch.zeros(3, slots, dtype=torch.bool)
    # Boxes with ties: on whole cells, one the copy of another.
    boxes[0, 1], boxes[0, 2] = torch.tensor([8.0, 8, 40, 24]), torch.tensor([8.0, 8, 40, 24])

    matched, target = run(anchors, boxes, labels, crowd, torch.tensor([[height, width]] * 3))

    for image, count in enumerate(counts):
        expected = algorithm_1(anchors, list(boxes[image, :count]), 9) if count else {}
        positive = (target[image] >= 0).nonzero()[:, 0].tolist()
        # A threshold is met to the last bit or not, by the order of a sum: allow one anchor to differ.
        assert len(set(positive) ^ set(expected)) <= 1
        same = set(positive) & set(expected)
        assert {c: int(matched[image, c]) for c in same} == {c: expected[c] for c in same}
        assert all(target[image, c] == labels[image, expected[c]] for c in same)
        assert (target[image][[c for c in range(len(target[image])) if c not in positive]] == BACKGROUND).all()
    assert (target[0] >= 0).sum() > 40


def test_crowds_blanks_and_empty_images() -> None:
    anchors = levels(96, 128)
    boxes, labels = torch.zeros(3, 32, 4), torch.full((3, 32), -1)
    crowd = torch.zeros(3, 32, dtype=torch.bool)
    boxes[0, :2] = torch.tensor([[0.0, 0, 64, 96], [80, 20, 120, 70]])
    labels[0, :2] = torch.tensor([2, 1])
    crowd[0, 0] = True
    boxes[1, 0], labels[1, 0] = torch.tensor([80.0, 20, 120, 70]), 1
    sizes = torch.tensor([[96, 128], [0, 0], [96, 128]])
    _, target = run(anchors, boxes, labels, crowd, sizes)
    assert set(target[0].tolist()) == {IGNORED, BACKGROUND, 1}
    centres = (torch.cat(anchors)[:, :2] + torch.cat(anchors)[:, 2:]) / 2
    assert (centres[target[0] == IGNORED, 0] <= 64).all()
    assert set(target[1].tolist()) == {IGNORED}
    assert set(target[2].tolist()) == {BACKGROUND}


@pytest.mark.parametrize("box", [[500.0, 500, 520, 520], [10.0, 10, 10, 40], [9.0, 9, 11, 11]])
def test_a_box_without_a_cells_centre_has_no_positive(box: list[float]) -> None:
    anchors = levels(96, 128)
    boxes, labels = torch.tensor([[box]]), torch.tensor([[0]])
    _, target = run(anchors, boxes, labels, torch.zeros(1, 1, dtype=torch.bool), torch.tensor([[96, 128]]))
    assert (target == BACKGROUND).all()
