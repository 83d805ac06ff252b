import pytest
import torch
from nms_cases import around_the_threshold, make_candidates
from torchvision.ops import batched_nms, box_iou

from retinanet.errors import UsageError
from retinanet.ops.nms import nms


def transcribed(scores, boxes, labels, threshold):
    """Indices that greedy NMS keeps in one image, best first."""
    overlaps = box_iou(boxes, boxes) > threshold
    kept = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        rivals = [other for other in kept if labels[other] == labels[index]]
        if scores[index] > 0 and not overlaps[index, rivals].any():
            kept.append(index)
    return kept


def assert_holds(ours, scores, boxes, labels, kept_of_images):
    """`ours` are the candidates `kept_of_images`, then padding."""
    for image, kept in enumerate(kept_of_images):
        kept = kept[: ours.scores.shape[1]]
        count = ours.count[image]
        assert count == len(kept)
        assert torch.equal(ours.scores[image, :count], scores[image, kept])
        assert torch.equal(ours.boxes[image, :count], boxes[image, kept])
        assert torch.equal(ours.labels[image, :count], labels[image, kept])
        assert (ours.scores[image, count:] == 0).all()
        assert (ours.boxes[image, count:] == 0).all()
        assert (ours.labels[image, count:] == -1).all()


@pytest.mark.parametrize(("classes", "threshold", "detections"), [(3, 0.5, 100), (1, 0.3, 20), (80, 0.7, 400)])
def test_it_is_greedy_and_ties_go_to_the_lower_position(classes, threshold, detections):
    case = make_candidates(classes=classes)
    ours = nms(*case, iou_threshold=threshold, detections=detections)
    assert_holds(ours, *case, [transcribed(*image, threshold) for image in zip(*case, strict=True)])


def test_it_keeps_what_torchvision_keeps():
    _, boxes, labels = make_candidates(batch=2, count=1000, classes=2)
    scores = torch.stack([torch.randperm(1000), torch.randperm(1000)]).float().add(1) / 1001  # no ties
    ours = nms(scores, boxes, labels.clamp(min=0))
    kept = [batched_nms(*image, 0.5).tolist() for image in zip(boxes, scores, labels.clamp(min=0), strict=True)]
    assert_holds(ours, scores, boxes, labels.clamp(min=0), kept)


def test_overlaps_are_judged_in_float32_right_at_the_threshold():
    case = around_the_threshold()
    kept = transcribed(*(values[0] for values in case), 0.5)
    assert 200 < len(kept) < 400  # on both sides
    assert_holds(nms(*case, detections=400), *case, [kept])


def test_a_chain_lets_every_other_box_live():
    x = torch.arange(60.0) * 3  # each overlaps its neighbours by 7/13, and nobody else by more than 4/16
    boxes = torch.stack([x, torch.zeros(60), x + 10, torch.full((60,), 10.0)], -1)[None]
    scores = torch.linspace(1, 0.5, 60)[None]
    assert_holds(nms(scores, boxes, torch.zeros(1, 60, dtype=torch.int64)), scores, boxes, torch.zeros(1, 60), [
        list(range(0, 60, 2))
    ])  # fmt: skip


def test_boxes_without_area_overlap_nothing():
    boxes = torch.tensor([5.0, 5, 5, 5]).expand(1, 3, 4)
    assert nms(torch.full((1, 3), 0.5), boxes, torch.zeros(1, 3, dtype=torch.int64)).count == 3


def test_candidates_that_are_not_finite_are_padding():
    scores = torch.tensor([[float("nan"), float("inf"), 0.9, 0.8, 0.0, -1.0]])
    boxes = torch.tensor([0.0, 0, 10, 10]).repeat(1, 6, 1)
    boxes[0, 2, 3] = float("inf")
    ours = nms(scores, boxes, torch.zeros(1, 6, dtype=torch.int64))
    assert_holds(ours, scores, boxes, torch.zeros(1, 6), [[3]])


def test_fewer_candidates_than_detections_leave_padding():
    scores, boxes, labels = make_candidates(count=3)
    assert nms(scores, boxes, labels).scores.shape == (2, 100)


@pytest.mark.parametrize("settings", [{"iou_threshold": 1.5}, {"iou_threshold": -0.1}, {"detections": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UsageError, match=str(*settings.values())):
        nms(*make_candidates(), **settings)
