"""Decode in ONNX operators: what `ops/decode/reference.py` means, arranged so that little is sorted and moved.

N images, A anchors a cell, C classes, S cells of a level, k = `top_n` or all of the level's if fewer. Shapes but N are
known. ONNX's TopK puts the lower index first among equals, which is what ties are decided by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retinanet.boxes import MAX_LOG_SIZE
from retinanet.export.nodes import FLOAT, INT64, Nodes, divmod_

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST = np.finfo(np.float32).max


class Candidates(NamedTuple):
    """K boxes of each image; unused ones have score 0."""

    scores: ir.Value
    """float32 `[N, K]`, level after level, descending within each."""
    boxes: ir.Value
    """float32 `[N, K, 4]` on the canvas."""
    labels: ir.Value
    """int64 `[N, K]`; means nothing where the score is 0."""
    slots: int
    """K."""


def add_decode(
    op: Nodes,
    logits: Sequence[ir.Value],
    deltas: Sequence[ir.Value],
    image_sizes: ir.Value,
    cell_anchors: np.ndarray,
    strides: Sequence[tuple[float, float]],
    *,
    centre_offset: float,
    logit_threshold: float,
    top_n: int,
) -> Candidates:
    """Candidates of all levels; the arguments are those of the reference, `cell_anchors` float32 `[L, A, 4]`."""
    limit = op("Cast", op("Gather", image_sizes, [1, 0, 1, 0], axis=1), to=FLOAT)
    limit = op("Unsqueeze", limit, [1])  # [N, 1, 4]: width, height, width, height
    scores, corners, labels, count = [], [], [], 0
    for level, stride in enumerate(strides):
        per_cell = len(cell_anchors[level])
        logit, anchor, cell, label, found = _best(op, logits[level], per_cell, top_n)
        delta = _gather_deltas(op, deltas[level], per_cell, anchor, cell, found)
        grid_width = level_shape(deltas[level])[3]
        box = _boxes(op, delta, cell_anchors[level], anchor, cell, grid_width, stride, centre_offset)
        box = op("Min", op("Max", box, np.float32(0)), limit)
        finite = op("Cast", op("LessOrEqual", op("Abs", delta), _LARGEST), to=FLOAT)
        usable = op("Greater", op("ReduceMin", finite, [2], keepdims=0), np.float32(0.5))
        usable = op("And", usable, op("Greater", logit, np.float32(logit_threshold)))
        scores.append(op("Where", usable, op("Sigmoid", logit), np.float32(0)))
        corners.append(op("Where", op("Unsqueeze", usable, [2]), box, np.float32(0)))
        labels.append(label)
        count += found
    return Candidates(
        op("Concat", *scores, axis=1), op("Concat", *corners, axis=1), op("Concat", *labels, axis=1), count
    )


def _best(op: Nodes, logits: ir.Value, per_cell: int, top_n: int) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value, int]:
    """The level's k best (anchor, class) pairs: logit float32, anchor, cell and class `[N, k]`, and k.

    The best pairs lie in the anchors with the best classes. These, put back into their order, hand equal logits on in
    theirs, so that choosing anchors first changes nothing but that C times less is sorted.
    """
    _, channels, height, width = level_shape(logits)
    classes, cells = channels // per_cell, height * width
    maps = op("Reshape", logits, [0, per_cell, classes, cells])
    # A comparison with NaN is false, so neither it nor an infinity passes.
    bound = np.finfo(logits.dtype.numpy()).max  # type: ignore[union-attr]
    maps = op("Where", op("LessOrEqual", maps, bound), maps, -bound)

    best = op("Transpose", op("ReduceMax", maps, [2], keepdims=0), perm=[0, 2, 1])
    best = op("Reshape", best, [0, cells * per_cell])
    anchors = min(top_n, cells * per_cell)
    _, chosen = op.several("TopK", best, [anchors], axis=1, outputs=2)
    # As float32, which holds every index below 2^24 and is what every back end can sort.
    ascending, _ = op.several("TopK", op("Cast", chosen, to=FLOAT), [anchors], axis=1, largest=0, outputs=2)
    cell, anchor = divmod_(op, op("Cast", ascending, to=INT64), per_cell)

    first = op("Add", op("Mul", anchor, np.int64(classes * cells)), cell)
    flat = op("Reshape", maps, [0, channels * cells])
    entries = op("Cast", _gather_strided(op, flat, first, anchors, classes, cells), to=FLOAT)  # [N, anchors * C]
    found = min(top_n, anchors * classes)
    logit, entry = op.several("TopK", entries, [found], axis=1, outputs=2)
    position, label = divmod_(op, entry, classes)
    anchor, cell = (op("GatherElements", values, position, axis=1) for values in (anchor, cell))
    return logit, anchor, cell, label, found


def _gather_deltas(
    op: Nodes, deltas: ir.Value, per_cell: int, anchor: ir.Value, cell: ir.Value, count: int
) -> ir.Value:
    """float32 `[N, count, 4]`: the deltas of anchors `anchor` of cells `cell`."""
    _, _, height, width = level_shape(deltas)
    cells = height * width
    flat = op("Reshape", deltas, [0, per_cell * 4 * cells])
    first = op("Add", op("Mul", anchor, np.int64(4 * cells)), cell)
    return op("Cast", op("Reshape", _gather_strided(op, flat, first, count, 4, cells), [0, count, 4]), to=FLOAT)


def _gather_strided(op: Nodes, flat: ir.Value, first: ir.Value, count: int, values: int, stride: int) -> ir.Value:
    """`[N, count * values]`: of `flat` `[N, M]`, `values` entries `stride` apart from each of `first` `[N, count]`."""
    indices = op("Add", op("Unsqueeze", first, [2]), np.arange(values) * stride)
    return op("GatherElements", flat, op("Reshape", indices, [0, count * values]), axis=1)


def _boxes(
    op: Nodes,
    delta: ir.Value,
    cell_anchors: np.ndarray,
    anchor: ir.Value,
    cell: ir.Value,
    grid_width: int,
    stride: tuple[float, float],
    centre_offset: float,
) -> ir.Value:
    """Boxes `[N, k, 4]`, in the very steps of `boxes.shift_anchors` and `boxes.decode`, so that they round alike."""
    row, column = divmod_(op, cell, grid_width)
    position = op("Concat", op("Unsqueeze", column, [2]), op("Unsqueeze", row, [2]), axis=2)
    position = op("Add", op("Cast", position, to=FLOAT), np.float32(centre_offset))
    shift = op("Mul", position, np.array([stride[1], stride[0]], np.float32))
    low = op("Add", op("Gather", cell_anchors[:, :2], anchor, axis=0), shift)
    high = op("Add", op("Gather", cell_anchors[:, 2:], anchor, axis=0), shift)
    size = op("Sub", high, low)
    centre = op("Add", low, op("Mul", size, np.float32(0.5)))

    offset, log_size = op.several("Split", delta, axis=2, num_outputs=2, outputs=2)
    centre = op("Add", op("Mul", offset, size), centre)
    growth = op("Exp", op("Min", log_size, np.float32(MAX_LOG_SIZE)))
    half = op("Mul", op("Mul", growth, np.float32(0.5)), size)
    return op("Concat", op("Sub", centre, half), op("Add", centre, half), axis=2)


def level_shape(maps: ir.Value) -> tuple[int, int, int, int]:
    """(N, channels, H, W) of a head's output; N is 0 where it is dynamic."""
    assert maps.shape is not None
    batch, channels, height, width = (side if isinstance(side, int) else 0 for side in maps.shape)
    return batch, channels, height, width
