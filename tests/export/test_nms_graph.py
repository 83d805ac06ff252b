"""Both forms of NMS in ONNX operators keep the very boxes that the reference keeps."""

from __future__ import annotations

import pytest
import torch
from graph_runner import run_graph
from torch import Tensor

from retinanet.export.decode_graph import Candidates
from retinanet.export.nms_graph import FIXED_STEPS, NMSForm, add_nms
from retinanet.ops.nms import reference

FORMS: tuple[NMSForm, ...] = ("operator", "fixed")
Boxes = tuple[Tensor, Tensor, Tensor]


def found_by(form: NMSForm, boxes: Boxes, iou: float = 0.5, detections: int = 100, half: bool = False) -> list[Tensor]:
    classes = int(boxes[2].max()) + 1
    return run_graph(
        boxes,
        lambda op, values: add_nms(
            op,
            Candidates(*values, boxes[0].shape[1]),
            classes=max(classes, 1),
            iou_threshold=iou,
            detections=detections,
            form=form,
            half=half,
        ),
    )


def assert_as_reference(
    form: NMSForm, boxes: Boxes, iou: float = 0.5, detections: int = 100, half: bool = False
) -> int:
    """Bit for bit; returns how many boxes were kept."""
    found = found_by(form, boxes, iou, detections, half)
    expected = reference.nms(*boxes, iou, detections)
    for one, other in zip(found, expected[:3], strict=True):
        assert torch.equal(one, other)
    return int(expected[3].sum())


def make_boxes(count: int, classes: int, extent: float, *, batch: int = 2, seed: int = 0) -> Boxes:
    """Random boxes around 20 pixels wide, within `extent`; scores of 1/128, so that many tie."""
    generator = torch.Generator().manual_seed(seed)
    corner = extent * torch.rand(batch, count, 2, generator=generator)
    size = 15 + 10 * torch.rand(batch, count, 2, generator=generator)
    scores = torch.randint(1, 128, (batch, count), generator=generator) / 128
    labels = torch.randint(0, classes, (batch, count), generator=generator)
    return scores, torch.cat([corner, corner + size], dim=2), labels


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("count", "classes", "extent"), [(3, 2, 100), (300, 1, 60), (300, 7, 30), (1500, 3, 300)])
@pytest.mark.parametrize("half", [False, True])
def test_random_boxes(form: NMSForm, count: int, classes: int, extent: float, half: bool) -> None:
    assert assert_as_reference(form, make_boxes(count, classes, extent), half=half) > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("iou", "detections"), [(0.1, 5), (0.9, 100), (1.0, 40), (0.5, 1)])
def test_thresholds_and_numbers_of_detections(form: NMSForm, iou: float, detections: int) -> None:
    assert_as_reference(form, make_boxes(200, 2, 60), iou, detections)


@pytest.mark.parametrize("form", FORMS)
def test_no_candidate_in_one_picture_or_in_all(form: NMSForm) -> None:
    scores, boxes, labels = make_boxes(50, 3, 60)
    scores[0] = 0
    assert assert_as_reference(form, (scores, boxes, labels)) > 0
    assert assert_as_reference(form, (torch.zeros_like(scores), torch.zeros_like(boxes), labels)) == 0


@pytest.mark.parametrize("form", FORMS)
def test_all_boxes_and_scores_are_equal(form: NMSForm) -> None:
    scores, boxes, labels = make_boxes(500, 2, 60)
    same = (torch.full_like(scores, 0.5), boxes[:, :1].expand(-1, 500, -1).contiguous(), labels)
    assert assert_as_reference(form, same) == 4  # one of each class and picture


@pytest.mark.parametrize("form", FORMS)
def test_five_thousand_overlapping_boxes(form: NMSForm) -> None:
    """Crowded beyond what photographs show, but for the number of classes and objects."""
    generator = torch.Generator().manual_seed(0)
    objects = 900 * torch.rand(1, 150, 2, generator=generator)
    corner = objects[:, torch.arange(5000) % 150] + 4 * torch.randn(1, 5000, 2, generator=generator)
    size = 60 + 4 * torch.randn(1, 5000, 2, generator=generator)
    scores = torch.rand(1, 5000, generator=generator)
    labels = torch.arange(5000)[None] % 150 % 4
    assert assert_as_reference(form, (scores, torch.cat([corner, corner + size], 2), labels)) == 100


@pytest.mark.parametrize("form", FORMS)
def test_an_overlap_at_the_threshold_is_spared(form: NMSForm) -> None:
    """IoU is exactly 1/2, which is not above 1/2."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 9]]])
    labels = torch.zeros(1, 3, dtype=torch.int64)
    assert assert_as_reference(form, (torch.tensor([[0.9, 0.8, 0.7]]), boxes, labels)) == 2


@pytest.mark.parametrize("form", FORMS)
def test_boxes_without_area(form: NMSForm) -> None:
    boxes = torch.tensor([[[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 0], [0, 0, 10, 10]]])
    assert_as_reference(form, (torch.tensor([[0.9, 0.8, 0.7, 0.6]]), boxes, torch.zeros(1, 4, dtype=torch.int64)))


@pytest.mark.parametrize("length", [FIXED_STEPS, FIXED_STEPS + 1])
def test_the_fixed_form_is_exact_for_chains_as_long_as_its_steps(length: int) -> None:
    """Each box suppresses the next alone, so of a chain every other one is kept."""
    left = 4.0 * torch.arange(length)[None, :, None]  # 12 wide, 4 apart: IoU 1/2 with the next, 1/5 with the one after
    boxes = torch.cat([left, torch.zeros_like(left), left + 12, torch.full_like(left, 10)], dim=2)
    chain = (torch.linspace(0.9, 0.5, length)[None], boxes, torch.zeros(1, length, dtype=torch.int64))
    expected = reference.nms(*chain, 0.4, 100)
    assert int(expected[3]) == -(-length // 2)
    assert torch.equal(found_by("operator", chain, 0.4)[0], expected[0])
    assert torch.equal(found_by("fixed", chain, 0.4)[0], expected[0])


def test_the_fixed_form_errs_beyond_its_steps() -> None:
    """What is documented, so that nobody takes it for exact: one of a chain of 40 is kept too many."""
    left = 4.0 * torch.arange(40)[None, :, None]
    boxes = torch.cat([left, torch.zeros_like(left), left + 12, torch.full_like(left, 10)], dim=2)
    chain = (torch.linspace(0.9, 0.5, 40)[None], boxes, torch.zeros(1, 40, dtype=torch.int64))
    assert not torch.equal(found_by("fixed", chain, 0.4)[0], reference.nms(*chain, 0.4, 100)[0])
