"""Class-wise greedy NMS in ONNX operators, in two forms that keep the same boxes; every shape but N is fixed.

`operator` uses ONNX's NonMaxSuppression, exact for any number of boxes. `fixed` has plain tensor operators alone, for
back ends where that operator is missing or slow, as in TensorRT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from retinanet.export.decode_graph import Candidates
from retinanet.export.nodes import FLOAT, FLOAT16, Nodes

if TYPE_CHECKING:
    import onnx_ir as ir

NMSForm = Literal["operator", "fixed"]
FIXED_CANDIDATES = 3000
"""The fixed form compares so many of the best candidates of an image, or as many as there shall be detections."""
FIXED_STEPS = 20
"""Its steps: exact where no chain of boxes, each suppressing the next, is longer by more than one.

Both are chosen from measurements on crowded photographs, in docs/export.md.
"""


def add_nms(
    op: Nodes, found: Candidates, *, classes: int, iou_threshold: float, detections: int, form: NMSForm, half: bool
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Scores `[N, D]`, boxes `[N, D, 4]`, labels int64 `[N, D]` of what survives, padded as `Detections` are.

    `half`: the fixed form multiplies matrices in fp16, where 0 and 1 are as exact.
    """
    found = _at_least(op, found, detections)
    if form == "operator":
        keep = _keep_by_operator(op, found, classes, iou_threshold, detections)
    else:
        found = _best(op, found, min(found.slots, max(FIXED_CANDIDATES, detections)))
        keep = _keep_by_fixed_point(op, found, iou_threshold, half)
    kept = _best(op, found._replace(scores=op("Mul", found.scores, keep)), detections)
    used = op("Greater", kept.scores, np.float32(0))
    boxes = op("Where", op("Unsqueeze", used, [2]), kept.boxes, np.float32(0))
    return kept.scores, boxes, op("Where", used, kept.labels, np.int64(-1))


def _at_least(op: Nodes, found: Candidates, count: int) -> Candidates:
    """`found`, filled with zeros where it has fewer than `count` rows."""
    missing = count - found.slots
    if missing <= 0:
        return found
    scores, labels = (op("Pad", values, [0, 0, 0, missing]) for values in (found.scores, found.labels))
    return Candidates(scores, op("Pad", found.boxes, [0, 0, 0, 0, missing, 0]), labels, count)


def _best(op: Nodes, found: Candidates, count: int) -> Candidates:
    """The `count` highest scores, descending, ties in their order."""
    scores, order = op.several("TopK", found.scores, [count], axis=1, outputs=2)
    rows = op("Expand", op("Unsqueeze", order, [2]), [1, 1, 4])
    boxes = op("GatherElements", found.boxes, rows, axis=1)
    return Candidates(scores, boxes, op("GatherElements", found.labels, order, axis=1), count)


def _keep_by_operator(op: Nodes, found: Candidates, classes: int, iou_threshold: float, detections: int) -> ir.Value:
    """float32 `[N, K]`, 1 for a box that is kept."""
    # Each class sees its own scores: no box has to be moved away from those of other classes, which would round it.
    of_class = op("Equal", op("Unsqueeze", found.labels, [1]), np.arange(classes)[:, None])
    scores = op("Where", of_class, op("Unsqueeze", found.scores, [1]), np.float32(0))  # [N, C, K]
    selected = op(
        "NonMaxSuppression",
        found.boxes,
        scores,
        [detections],
        np.array([iou_threshold], np.float32),
        np.zeros(1, np.float32),
    )
    places = op("Gather", selected, [0, 2], axis=1)  # [M, 2]: image and box of M survivors, each box in one class
    survivors = op("Slice", op("Shape", places), [0], [1])
    return op("ScatterND", _filled(op, op("Shape", found.scores), 0), places, _filled(op, survivors, 1))


def _keep_by_fixed_point(op: Nodes, found: Candidates, iou_threshold: float, half: bool) -> ir.Value:
    """float32 `[N, K]`, 1 for a box that is kept, of candidates in descending order.

    Greedy NMS keeps a box unless a kept box before it suppresses it. That is the one fixed point of the step below, and
    from wherever it starts, a box is settled as soon as those that suppress it are.
    """
    suppresses = _suppression(op, found, iou_threshold)
    dtype, middle = (FLOAT16, np.float16(0.5)) if half else (FLOAT, np.float32(0.5))
    suppresses = op("Cast", suppresses, to=dtype)
    usable = op("Unsqueeze", op("Greater", found.scores, np.float32(0)), [1])  # [N, 1, K]
    keep = op("Cast", usable, to=dtype)
    for _ in range(FIXED_STEPS):
        spared = op("Less", op("MatMul", keep, suppresses), middle)
        keep = op("Cast", op("And", usable, spared), to=dtype)
    return op("Cast", op("Squeeze", keep, [1]), to=FLOAT)


def _suppression(op: Nodes, found: Candidates, iou_threshold: float) -> ir.Value:
    """bool `[N, K, K]`: row i, column j says that box i, if it is kept, suppresses box j."""
    x1, y1, x2, y2 = op.several("Split", found.boxes, axis=2, num_outputs=4, outputs=4)  # each [N, K, 1]
    area = op("Mul", op("Sub", x2, x1), op("Sub", y2, y1))
    width, height = (
        op("Max", op("Sub", op("Min", high, _turned(op, high)), op("Max", low, _turned(op, low))), np.float32(0))
        for low, high in ((x1, x2), (y1, y2))
    )
    shared = op("Mul", width, height)
    union = op("Sub", op("Add", area, _turned(op, area)), shared)
    iou = op("Div", shared, op("Max", union, np.finfo(np.float32).tiny))
    labels = op("Unsqueeze", found.labels, [2])
    same = op("And", op("Equal", labels, _turned(op, labels)), op("Greater", iou, np.float32(iou_threshold)))
    order = np.arange(found.slots)
    return op("And", same, op("Less", order[:, None], order[None]))


def _turned(op: Nodes, column: ir.Value) -> ir.Value:
    """`[N, K, 1]` as `[N, 1, K]`."""
    return op("Transpose", column, perm=[0, 2, 1])


def _filled(op: Nodes, shape: ir.Value, value: float) -> ir.Value:
    """float32 of `shape`, filled with `value`."""
    return op("Expand", np.float32(value), shape)
