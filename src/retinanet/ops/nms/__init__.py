"""Class-wise greedy non-maximum suppression of a whole batch, in fixed shapes."""

import torch
from torch import Tensor
from torch.library import triton_op

from retinanet.errors import UsageError
from retinanet.ops.backend import kernels_available
from retinanet.ops.nms import reference
from retinanet.types import Detections


def nms(
    scores: Tensor, boxes: Tensor, labels: Tensor, *, iou_threshold: float = 0.5, detections: int = 100
) -> Detections:
    """The `detections` best boxes of each image, of which no two of one class overlap by more than the threshold.

    Candidates are taken by descending score, ties by position; a candidate dies when its IoU with a kept box of its
    class exceeds the threshold. Scores that are not positive are padding, as is a score or box that is not finite.

    Args:
        scores: float32 `[N, K]`.
        boxes: float32 `[N, K, 4]`, pixels, x1 ≤ x2 and y1 ≤ y2.
        labels: int64 `[N, K]`, class indices.
        iou_threshold: 0 ≤ threshold ≤ 1.
        detections: D, how many survive at most.

    Returns:
        `Detections` of D rows, on the canvas that the boxes were on.

    Raises:
        UsageError: `iou_threshold` or `detections` is out of its range.
    """
    if not 0 <= iou_threshold <= 1:
        raise UsageError(f"The IoU threshold of NMS must lie in 0…1, not {iou_threshold}; 0.5 is usual.")
    if detections < 1:
        raise UsageError(f"The number of detections an image must be at least 1, not {detections}; 100 is usual.")
    assert scores.dtype == boxes.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert scores.shape == labels.shape
    assert boxes.shape == (*scores.shape, 4)
    return Detections(*_nms(scores, boxes, labels, iou_threshold, detections))


@triton_op("retinanet::nms", mutates_args=())
def _nms(
    scores: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float, detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    run = reference.nms
    if scores.is_cuda and kernels_available():
        from retinanet.ops.nms import triton

        run = triton.nms
    return run(scores, boxes, labels, iou_threshold, detections)
