"""NMS on a GPU in three launches: rank the candidates, suppress within classes, take the first of what survives.

Only boxes of one class meet, so classes are dealt into buckets that suppress side by side, each on its own processor.
A program takes its bucket's candidates in chunks, best first, and compares them with the boxes it has kept, then with
each other: there is no matrix of all overlaps. Ranks are counted, each against all, which as many programs do at once
sooner than one could sort.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import struct

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from retinanet.types import NO_LABEL

BUCKETS = 128
"""Programs an image that suppress; a power of two."""
NOBODY = -(2**31)
"""The label, among ranked ones, of what is padding."""


def nms(
    scores: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float, detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference.nms` on a GPU. The workspace is 32 bytes a candidate."""
    batch, candidates = scores.shape
    scores, boxes, labels = scores.contiguous(), boxes.contiguous(), labels.contiguous()
    # An allocation each: compilers surround launches that write parts of one tensor with copies of all of it.
    order, ranked_labels, members, alive = (scores.new_empty(batch, candidates, dtype=torch.int32) for _ in range(4))
    ranked_boxes = torch.empty_like(boxes)
    kept_scores = scores.new_empty(batch, detections)
    kept_boxes = boxes.new_empty(batch, detections, 4)
    kept_labels = labels.new_empty(batch, detections)
    count = labels.new_empty(batch)
    rows = 32
    wrap_triton(_rank)[(triton.cdiv(candidates, rows), batch)](
        scores,
        boxes,
        labels,
        order,
        ranked_boxes,
        ranked_labels,
        alive,
        candidates,
        NOBODY=NOBODY,
        ROWS=rows,
        COLUMNS=128,
        num_warps=4,
    )
    wrap_triton(_suppress)[(BUCKETS, batch)](
        ranked_boxes,
        ranked_labels,
        members,
        alive,
        candidates,
        detections,
        iou_threshold,
        _half_step(iou_threshold),
        NOBODY=NOBODY,
        BUCKETS=BUCKETS,
        SCAN=1024,
        CHUNK=32,
        KEPT=32,
        num_warps=4,
    )
    wrap_triton(_collect)[(batch,)](
        alive,
        order,
        scores,
        boxes,
        labels,
        kept_scores,
        kept_boxes,
        kept_labels,
        count,
        candidates,
        detections,
        NO_LABEL=NO_LABEL,
        BLOCK=2048,
        num_warps=8,
    )
    return kept_scores, kept_boxes, kept_labels, count


def _half_step(threshold: float) -> float:
    """Half of the distance from a threshold, as float32, to the next float32."""
    (bits,) = struct.unpack("i", struct.pack("f", threshold))
    this, following = struct.unpack("2f", struct.pack("2i", bits, bits + 1))
    return float(following - this) / 2


@triton.jit
def _rank(
    scores,
    boxes,
    labels,
    order,
    ranked_boxes,
    ranked_labels,
    alive,
    candidates,
    NOBODY: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Order candidates by descending score, then position; padding follows, nobody lives yet: grid (rows, images)."""
    image = tl.program_id(1).to(tl.int64)
    scores += image * candidates
    boxes += image * candidates * 4
    labels += image * candidates
    first = tl.program_id(0) * ROWS
    row = first + tl.arange(0, ROWS)
    inside = row < candidates
    own = _key(tl.load(scores + row, inside, 0.0), inside)
    ahead = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in tl.range(0, candidates, COLUMNS, loop_unroll_factor=4):
        column = start + tl.arange(0, COLUMNS)
        there = column < candidates
        other = _key(tl.load(scores + column, there, 0.0), there) + (column < first).to(tl.int32)  # which win ties
        ahead += (own[:, None] - other[None, :]) >> 31
    ties = (own[None, :] == own[:, None]) & (row[None, :] < row[:, None])
    rank = image * candidates - tl.sum(ahead, 1) + tl.sum(ties.to(tl.int32), 1)

    x1 = tl.load(boxes + row * 4, inside, 0.0)
    y1 = tl.load(boxes + row * 4 + 1, inside, 0.0)
    x2 = tl.load(boxes + row * 4 + 2, inside, 0.0)
    y2 = tl.load(boxes + row * 4 + 3, inside, 0.0)
    usable = (own > 0) & (tl.abs(x1) < float("inf")) & (tl.abs(y1) < float("inf"))
    usable &= (tl.abs(x2) < float("inf")) & (tl.abs(y2) < float("inf"))
    label = tl.load(labels + row, inside, 0).to(tl.int32)
    tl.store(order + rank, row, inside)
    tl.store(alive + rank, 0, inside)
    tl.store(ranked_labels + rank, tl.where(usable, label, NOBODY), inside)
    tl.store(ranked_boxes + rank * 4, x1, inside)
    tl.store(ranked_boxes + rank * 4 + 1, y1, inside)
    tl.store(ranked_boxes + rank * 4 + 2, x2, inside)
    tl.store(ranked_boxes + rank * 4 + 3, y2, inside)


@triton.jit
def _suppress(
    boxes,
    labels,
    members,
    alive,
    candidates,
    detections,
    iou_threshold,
    half_step,
    NOBODY: tl.constexpr,
    BUCKETS: tl.constexpr,
    SCAN: tl.constexpr,
    CHUNK: tl.constexpr,
    KEPT: tl.constexpr,
):
    """Mark in `alive` what survives in a bucket; boxes and labels are ranked: grid (buckets, images).

    It stops once `detections` survive, as no more of one bucket can be among the best. `CHUNK` ≤ 64: a chunk's
    candidates are bits of an integer.
    """
    bucket = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    boxes += image * candidates * 4
    labels += image * candidates
    members += image * candidates
    alive += image * candidates

    before = tl.zeros([SCAN], tl.int32)
    within = tl.zeros([SCAN], tl.int32)
    for start in range(0, candidates, SCAN):
        other = _bucket(labels, start + tl.arange(0, SCAN), candidates, NOBODY, BUCKETS)
        before += (other < bucket).to(tl.int32)
        within += (other == bucket).to(tl.int32)
    size = tl.sum(within, 0)
    if size > 0:
        members += tl.sum(before, 0)
        done = 0
        for start in range(0, candidates, SCAN):
            rank = start + tl.arange(0, SCAN)
            mine = (_bucket(labels, rank, candidates, NOBODY, BUCKETS) == bucket).to(tl.int32)
            tl.store(members + done + tl.cumsum(mine, 0) - 1, rank, mine != 0)
            done += tl.sum(mine, 0)
        tl.debug_barrier()  # others read what this thread wrote

        lane = tl.arange(0, CHUNK)
        bit = tl.full([CHUNK], 1, tl.int64) << lane
        start = 0
        count = 0  # kept; their ranks overwrite those of members that are done
        while (start < size) & (count < detections):
            inside = start + lane < size
            rank = tl.load(members + start + lane, inside, 0)
            label = tl.load(labels + rank)
            x1, y1, x2, y2, area = _box(boxes, rank)
            killed = tl.zeros([CHUNK], tl.int32)
            for kept in range(0, count, KEPT):
                slot = kept + tl.arange(0, KEPT)
                rival = tl.load(members + slot, slot < count, 0)
                rival_label = tl.where(slot < count, tl.load(labels + rival), NOBODY)
                rx1, ry1, rx2, ry2, rival_area = _box(boxes, rival)
                over = _exceeds(
                    rx1[:, None],
                    ry1[:, None],
                    rx2[:, None],
                    ry2[:, None],
                    rival_area[:, None],
                    x1[None, :],
                    y1[None, :],
                    x2[None, :],
                    y2[None, :],
                    area[None, :],
                    iou_threshold,
                    half_step,
                )
                over &= rival_label[:, None] == label[None, :]
                killed |= tl.max(over.to(tl.int32), 0)

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
                half_step,
            )
            over &= (label[:, None] == label[None, :]) & (lane[:, None] < lane[None, :])
            killers = tl.sum(tl.where(over, bit[:, None], 0), 0)
            candidate = tl.where(inside & (killed == 0), bit, 0)
            lives = tl.sum(candidate, 0)  # one bit a candidate
            changed = lives != 0
            while changed:
                now = tl.sum(tl.where((killers & lives) == 0, candidate, 0), 0)
                changed = now != lives
                lives = now

            survives = (lives & bit) != 0
            slot = count + tl.cumsum(survives.to(tl.int32), 0) - 1
            tl.store(members + slot, rank, survives)
            tl.store(alive + rank, 1, survives)
            tl.debug_barrier()  # the next chunk reads what other threads wrote
            count += tl.sum(survives.to(tl.int32), 0)
            start += CHUNK


@triton.jit
def _collect(
    alive,
    order,
    scores,
    boxes,
    labels,
    kept_scores,
    kept_boxes,
    kept_labels,
    count,
    candidates,
    detections,
    NO_LABEL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the first `detections` survivors; the rest is padding: grid (images,)."""
    image = tl.program_id(0).to(tl.int64)
    alive += image * candidates
    order += image * candidates
    start = 0
    used = 0
    while (start < candidates) & (used < detections):
        rank = start + tl.arange(0, BLOCK)
        lives = tl.load(alive + rank, rank < candidates, 0)
        place = used + tl.cumsum(lives, 0) - 1
        wins = (lives != 0) & (place < detections)
        slot = image * detections + place
        position = image * candidates + tl.load(order + rank, wins, 0)
        tl.store(kept_scores + slot, tl.load(scores + position, wins, 0.0), wins)
        tl.store(kept_labels + slot, tl.load(labels + position, wins, 0), wins)
        for corner in tl.static_range(4):
            tl.store(kept_boxes + slot * 4 + corner, tl.load(boxes + position * 4 + corner, wins, 0.0), wins)
        used += tl.sum(lives, 0)
        start += BLOCK
    used = tl.minimum(used, detections)
    tl.store(count + image, used)
    for start in range(used, detections, BLOCK):
        place = start + tl.arange(0, BLOCK)
        slot = image * detections + place
        tl.store(kept_scores + slot, 0.0, place < detections)
        tl.store(kept_labels + slot, NO_LABEL, place < detections)
        for corner in tl.static_range(4):
            tl.store(kept_boxes + slot * 4 + corner, 0.0, place < detections)


@triton.jit
def _key(score, inside):
    """int32 that are ordered as scores: 0 for padding, -1 where there is no candidate."""
    usable = inside & (score > 0) & (score < float("inf"))
    return tl.where(usable, score.to(tl.int32, bitcast=True), tl.where(inside, 0, -1))


@triton.jit
def _bucket(labels, rank, candidates, NOBODY: tl.constexpr, BUCKETS: tl.constexpr):
    """The bucket of a candidate's class; `BUCKETS` for padding."""
    label = tl.load(labels + rank, rank < candidates, NOBODY)
    return tl.where(label == NOBODY, BUCKETS, label & (BUCKETS - 1))


@triton.jit
def _box(boxes, rank):
    """Corners and area of the boxes at `rank`."""
    x1 = tl.load(boxes + rank * 4)
    y1 = tl.load(boxes + rank * 4 + 1)
    x2 = tl.load(boxes + rank * 4 + 2)
    y2 = tl.load(boxes + rank * 4 + 3)
    return x1, y1, x2, y2, _product(x2 - x1, y2 - y1)


@triton.jit
def _exceeds(ax1, ay1, ax2, ay2, a_area, bx1, by1, bx2, by2, b_area, threshold, half_step):
    """Whether `boxes.iou` exceeds the threshold, each operation rounded as PyTorch's are.

    The rounded quotient exceeds it when the exact one lies above the middle between the threshold and the next float;
    it can't lie on it, as a product with an odd factor of 25 bits has no 24. Near the middle the left side is exact.
    """
    width = tl.maximum(tl.minimum(ax2, bx2) - tl.maximum(ax1, bx1), 0.0)
    height = tl.maximum(tl.minimum(ay2, by2) - tl.maximum(ay1, by1), 0.0)
    shared = _product(width, height)
    union = a_area + b_area - shared
    return (union > 0) & (tl.fma(-threshold, union, shared) > half_step * union)


@triton.jit
def _product(a, b):
    """The rounded product. A plain one may be contracted with the sum that it feeds, and round once less."""
    return tl.fma(a, b, 0.0)
