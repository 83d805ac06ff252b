"""NMS on a GPU in three launches: rank the candidates, suppress within classes, rank what survived.

Only boxes of one class meet, so classes are dealt into buckets that suppress side by side, each on its own processor.
A program takes its bucket's candidates in chunks, best first, and compares them with the boxes it has kept, then with
each other: there is no matrix of all overlaps. Ranks are counted, each against all, which as many programs do at once
sooner than one could sort.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from retinanet.types import NO_LABEL

BUCKETS = 64
"""Programs an image that suppress; a power of two."""


def nms(
    scores: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float, detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference.nms` on a GPU. The workspace is 12 bytes a candidate."""
    batch, candidates = scores.shape
    assert candidates < 2**24
    scores, boxes, labels = scores.contiguous(), boxes.contiguous(), labels.contiguous()
    order, kept = scores.new_empty(2, batch, candidates, dtype=torch.int32)
    alive = torch.empty_like(scores)
    kept_scores = scores.new_empty(batch, detections)
    kept_boxes = boxes.new_empty(batch, detections, 4)
    kept_labels = labels.new_empty(batch, detections)
    count = labels.new_empty(batch)
    rows = 32
    programs = triton.cdiv(candidates, rows)
    wrap_triton(_rank)[(programs, batch)](
        scores, labels, order, alive, candidates, BUCKETS=BUCKETS, ROWS=rows, COLUMNS=128, num_warps=4
    )
    wrap_triton(_suppress)[(BUCKETS, batch)](
        scores,
        boxes,
        labels,
        order,
        kept,
        alive,
        candidates,
        detections,
        iou_threshold,
        BUCKETS=BUCKETS,
        CHUNK=64,
        KEPT=64,
        num_warps=8,
    )
    wrap_triton(_collect)[(programs, batch)](
        alive,
        boxes,
        labels,
        kept_scores,
        kept_boxes,
        kept_labels,
        count,
        candidates,
        detections,
        NO_LABEL=NO_LABEL,
        ROWS=rows,
        COLUMNS=128,
        num_warps=4,
    )
    return kept_scores, kept_boxes, kept_labels, count


@triton.jit
def _rank(scores, labels, order, alive, candidates, BUCKETS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Order positions by bucket, then descending score, then position; nobody is alive yet: grid (rows, images)."""
    image = tl.program_id(1).to(tl.int64)
    scores += image * candidates
    labels += image * candidates
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = _sort_key(scores, labels, row, candidates, BUCKETS)
    ahead = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in range(0, candidates, COLUMNS):
        other = _sort_key(scores, labels, start + tl.arange(0, COLUMNS), candidates, BUCKETS)
        ahead += (other[None, :] < own[:, None]).to(tl.int32)
    tl.store(order + image * candidates + tl.sum(ahead, 1), row, row < candidates)
    tl.store(alive + image * candidates + row, 0.0, row < candidates)


@triton.jit
def _suppress(
    scores,
    boxes,
    labels,
    order,
    kept,
    alive,
    candidates,
    detections,
    iou_threshold,
    BUCKETS: tl.constexpr,
    CHUNK: tl.constexpr,
    KEPT: tl.constexpr,
):
    """Write the scores of what survives in a bucket to `alive`: grid (buckets, images).

    It stops once `detections` survive, as no more of one bucket can be among the best.
    """
    bucket = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    scores += image * candidates
    boxes += image * candidates * 4
    labels += image * candidates
    order += image * candidates
    alive += image * candidates

    before = tl.zeros([1024], tl.int32)
    within = tl.zeros([1024], tl.int32)
    for start in range(0, candidates, 1024):
        other = _bucket(scores, labels, start + tl.arange(0, 1024), candidates, BUCKETS)
        before += (other < bucket).to(tl.int32)
        within += (other == bucket).to(tl.int32)
    first = tl.sum(before, 0)
    last = first + tl.sum(within, 0)
    kept += image * candidates + first

    lane = tl.arange(0, CHUNK)
    count = 0
    while (first < last) & (count < detections):
        inside = first + lane < last
        position = tl.load(order + first + lane, inside, 0)
        label = tl.load(labels + position, inside, 0)
        x1, y1, x2, y2, area = _box(boxes, position, inside)
        finite = (tl.abs(x1) < float("inf")) & (tl.abs(y1) < float("inf"))
        finite &= (tl.abs(x2) < float("inf")) & (tl.abs(y2) < float("inf"))
        candidate = (inside & finite).to(tl.int32)

        for start in range(0, count, KEPT):
            slot = start + tl.arange(0, KEPT)
            rival = tl.load(kept + slot, slot < count, 0)
            rival_label = tl.load(labels + rival, slot < count, 0)
            rx1, ry1, rx2, ry2, rival_area = _box(boxes, rival, slot < count)
            over = _exceeds(
                x1[:, None],
                y1[:, None],
                x2[:, None],
                y2[:, None],
                area[:, None],
                rx1[None, :],
                ry1[None, :],
                rx2[None, :],
                ry2[None, :],
                rival_area[None, :],
                iou_threshold,
            )
            over &= (label[:, None] == rival_label[None, :]) & (slot < count)[None, :]
            candidate &= 1 - tl.max(over.to(tl.int32), 1)

        # Row kills column. Whoever no living row kills lives; repeated until nothing changes, that is greedy NMS.
        over = _exceeds(
            x1[:, None],
            y1[:, None],
            x2[:, None],
            y2[:, None],
            area[:, None],
            x1[None, :],
            y1[None, :],
            x2[None, :],
            y2[None, :],
            area[None, :],
            iou_threshold,
        )
        over &= (label[:, None] == label[None, :]) & (lane[:, None] < lane[None, :])
        kills = over.to(tl.int32)
        lives = candidate
        changed = 1
        while changed != 0:
            now = candidate & (1 - tl.max(kills & lives[:, None], 0))
            changed = tl.max(now ^ lives, 0)
            lives = now

        tl.store(kept + count + tl.cumsum(lives, 0) - 1, position, lives != 0)
        tl.store(alive + position, tl.load(scores + position, inside, 0.0), lives != 0)
        tl.debug_barrier()  # the next chunk reads what other threads wrote
        count += tl.sum(lives, 0)
        first += CHUNK


@triton.jit
def _collect(
    alive,
    boxes,
    labels,
    kept_scores,
    kept_boxes,
    kept_labels,
    count,
    candidates,
    detections,
    NO_LABEL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write the best survivors where they rank by score, then position; the rest is padding: grid (rows, images)."""
    image = tl.program_id(1).to(tl.int64)
    alive += image * candidates
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    score = tl.load(alive + row, row < candidates, 0.0)
    own = score.to(tl.int32, bitcast=True)  # bits of floats ≥ 0 are ordered as the floats are
    if tl.max(own, 0) > 0:
        ahead = tl.zeros([ROWS, COLUMNS], tl.int32)
        for start in range(0, candidates, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            other = tl.load(alive + column, column < candidates, 0.0).to(tl.int32, bitcast=True)
            wins_ties = (column[None, :] < row[:, None]).to(tl.int32)
            ahead += (other[None, :] + wins_ties > own[:, None]).to(tl.int32)
        rank = tl.sum(ahead, 1)
        wins = (score > 0) & (rank < detections)
        slot = image * detections + rank
        box = (image * candidates + row) * 4
        tl.store(kept_scores + slot, score, wins)
        tl.store(kept_labels + slot, tl.load(labels + image * candidates + row, wins, 0), wins)
        for corner in tl.static_range(4):
            tl.store(kept_boxes + slot * 4 + corner, tl.load(boxes + box + corner, wins, 0.0), wins)

    if tl.program_id(0) == 0:
        living = tl.zeros([1024], tl.int32)
        for start in range(0, candidates, 1024):
            column = start + tl.arange(0, 1024)
            living += (tl.load(alive + column, column < candidates, 0.0) > 0).to(tl.int32)
        used = tl.minimum(tl.sum(living, 0), detections)
        tl.store(count + image, used)
        for start in range(used, detections, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            slot = image * detections + column
            tl.store(kept_scores + slot, 0.0, column < detections)
            tl.store(kept_labels + slot, NO_LABEL, column < detections)
            for corner in tl.static_range(4):
                tl.store(kept_boxes + slot * 4 + corner, 0.0, column < detections)


@triton.jit
def _bucket(scores, labels, position, candidates, BUCKETS: tl.constexpr):
    """The bucket of a candidate's class; `BUCKETS`, behind all, where the score is not positive or not finite."""
    score = tl.load(scores + position, position < candidates, 0.0)
    label = tl.load(labels + position, position < candidates, 0).to(tl.int32)
    return tl.where((score > 0) & (score < float("inf")), label & (BUCKETS - 1), BUCKETS)


@triton.jit
def _sort_key(scores, labels, position, candidates, BUCKETS: tl.constexpr):
    """A different int64 for each candidate, ascending by bucket, then descending score, then position."""
    bucket = _bucket(scores, labels, position, candidates, BUCKETS).to(tl.int64)
    bits = tl.load(scores + position, position < candidates, 0.0).to(tl.int32, bitcast=True)
    falling = tl.where(bucket < BUCKETS, 0x7FFFFFFF - bits, 0).to(tl.int64)
    return (((bucket << 31) | falling) << 24) | position


@triton.jit
def _box(boxes, position, inside):
    """Corners and area of the boxes at `position`; 0 for what is outside."""
    x1 = tl.load(boxes + position * 4, inside, 0.0)
    y1 = tl.load(boxes + position * 4 + 1, inside, 0.0)
    x2 = tl.load(boxes + position * 4 + 2, inside, 0.0)
    y2 = tl.load(boxes + position * 4 + 3, inside, 0.0)
    return x1, y1, x2, y2, _product(x2 - x1, y2 - y1)


@triton.jit
def _exceeds(ax1, ay1, ax2, ay2, a_area, bx1, by1, bx2, by2, b_area, threshold):
    """Whether `boxes.iou` exceeds the threshold, each operation rounded as PyTorch's are."""
    width = tl.maximum(tl.minimum(ax2, bx2) - tl.maximum(ax1, bx1), 0.0)
    height = tl.maximum(tl.minimum(ay2, by2) - tl.maximum(ay1, by1), 0.0)
    shared = _product(width, height)
    union = a_area + b_area - shared
    return (union > 0) & (tl.div_rn(shared, union) > threshold)


@triton.jit
def _product(a, b):
    """The rounded product. A plain one may be contracted with the sum that it feeds, and round once less."""
    return tl.fma(a, b, 0.0)
