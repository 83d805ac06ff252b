import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nms_cases import around_the_threshold, make_candidates

from retinanet.boxes import iou
from retinanet.ops.nms import reference
from retinanet.ops.nms import triton as kernels

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),  # of the interpreter's numpy
]
ALL_BUCKETS = kernels.BUCKETS


@pytest.fixture(autouse=True)
def few_buckets(monkeypatch, device):
    """The interpreter runs one program after the other. Few buckets also hold more classes each."""
    if device == "cpu":
        monkeypatch.setattr(kernels, "BUCKETS", 4)


def run(candidates, device, iou_threshold=0.5, detections=100):
    results = kernels.nms(*(values.to(device) for values in candidates), iou_threshold, detections)
    return [result.cpu() for result in results]


def assert_kernels_agree(candidates, device, iou_threshold=0.5, detections=100):
    """Bit for bit: NMS computes nothing that it returns."""
    expected = reference.nms(*candidates, iou_threshold, detections)
    for result, other in zip(run(candidates, device, iou_threshold, detections), expected, strict=True):
        assert torch.equal(result, other)
    return expected[3]


@pytest.mark.parametrize("classes", [1, 3, 80, 1203])
def test_any_number_of_classes(classes, device, monkeypatch):
    monkeypatch.setattr(kernels, "BUCKETS", ALL_BUCKETS)
    assert_kernels_agree(make_candidates(count=500, classes=classes), device)


@pytest.mark.parametrize(("iou_threshold", "detections"), [(0.0, 100), (0.3, 7), (0.5, 400), (1.0, 1)])
def test_any_threshold_and_number_of_detections(iou_threshold, detections, device):
    assert_kernels_agree(make_candidates(classes=2, size=40), device, iou_threshold, detections)


@pytest.mark.parametrize("count", [1, 7, 33, 1025])
def test_any_number_of_candidates(count, device):
    assert_kernels_agree(make_candidates(count=count), device)


@pytest.mark.parametrize("iou_threshold", [0.3, 1 / 3, 0.5, 0.95])
def test_overlaps_right_at_the_threshold(iou_threshold, device):
    candidates = around_the_threshold(iou_threshold)
    assert 200 < assert_kernels_agree(candidates, device, iou_threshold, detections=400) < 400


def test_at_threshold_zero_the_least_overlap_suppresses(device):
    boxes = torch.tensor([[[0.0, 0, 4000, 4000], [3999.9998, 3999.9998, 8000, 8000], [4000, 0, 8000, 3999]]])
    candidates = torch.tensor([[0.9, 0.8, 0.7]]), boxes, torch.zeros(1, 3, dtype=torch.int64)
    assert 0 < iou(boxes[0, 0], boxes[0, 1]) < 1e-14
    assert assert_kernels_agree(candidates, device, iou_threshold=0.0) == 2


def test_five_thousand_identical_boxes_leave_one(device):
    scores, _, labels = make_candidates(batch=1, count=5000, classes=1)
    identical = torch.tensor([3.0, 4, 50, 60]).repeat(1, 5000, 1)
    assert assert_kernels_agree((scores, identical, labels), device) == 1


def test_equal_scores_go_to_the_lower_position(device):
    scores, boxes, labels = make_candidates(classes=1, size=40)
    assert_kernels_agree((torch.full_like(scores, 0.5), boxes, labels), device)


def test_a_chain_of_overlaps(device):
    x = torch.arange(300.0) * 3
    boxes = torch.stack([x, torch.zeros(300), x + 10, torch.full((300,), 10.0)], -1)[None]
    candidates = torch.linspace(1, 0.5, 300)[None], boxes, torch.zeros(1, 300, dtype=torch.int64)
    assert assert_kernels_agree(candidates, device, detections=200) == 150


def test_boxes_without_area(device):
    scores, boxes, labels = make_candidates()
    boxes[..., 2] = boxes[..., 0]
    assert_kernels_agree((scores, boxes, labels), device)


def test_all_padding(device):
    scores, boxes, labels = make_candidates()
    assert (assert_kernels_agree((scores * 0, boxes * 0, labels * 0 - 1), device) == 0).all()


def test_what_is_not_finite_is_padding(device):
    scores, boxes, labels = make_candidates()
    scores[:, :3] = torch.tensor([float("nan"), float("inf"), -1.0])
    boxes[0, scores[0].argmax(), 1] = float("nan")
    boxes[1, 100:110, 2] = float("inf")
    assert_kernels_agree((scores, boxes, labels), device)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 200),
    classes=st.integers(1, 70),
    size=st.sampled_from([20.0, 100.0, 1000.0]),
    iou_threshold=st.floats(0, 1),
    detections=st.integers(1, 120),
)
def test_whatever_the_candidates(seed, count, classes, size, iou_threshold, detections):
    candidates = make_candidates(count=count, classes=classes, size=size, seed=seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert_kernels_agree(candidates, device, iou_threshold, detections)


def test_permuting_the_batch_permutes_the_result(device):
    candidates = make_candidates(batch=4)
    order = torch.tensor([2, 0, 3, 1])
    for result, other in zip(
        run(candidates, device), run([values[order] for values in candidates], device), strict=True
    ):
        assert torch.equal(result[order], other)


def test_what_is_suppressed_overlaps_a_better_one_of_its_class(device):
    scores, boxes, labels = make_candidates(batch=1, classes=2, size=20)
    kept_scores, kept_boxes, kept_labels, count = (result[0] for result in run((scores, boxes, labels), device))
    assert count < 100  # so that nothing is missing for want of room
    kept_boxes, kept_labels, kept_scores = kept_boxes[:count], kept_labels[:count], kept_scores[:count]
    for score, box, label in zip(scores[0], boxes[0], labels[0], strict=True):
        if score > 0 and not (kept_boxes == box).all(-1).any():
            killers = (kept_labels == label) & (iou(kept_boxes, box) > 0.5) & (kept_scores >= score)
            assert killers.any()
