"""What decode means, in plain PyTorch: fixed shapes only, so that export and compilation pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet import boxes


def decode(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    image_sizes: Tensor,
    cell_anchors: Tensor,
    strides: Sequence[float],
    centre_offset: float,
    logit_threshold: float,
    top_n: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores `[N, K]`, boxes `[N, K, 4]` and labels `[N, K]` of all levels; `strides` is flat (y0, x0, y1, x1, …)."""
    pairs = list(zip(strides[::2], strides[1::2], strict=True))
    levels = [
        _decode_level(logits[i], deltas[i], image_sizes, cell_anchors[i], pair, centre_offset, logit_threshold, top_n)
        for i, pair in enumerate(pairs)
    ]
    scores, corners, labels = zip(*levels, strict=True)
    return torch.cat(scores, 1), torch.cat(corners, 1), torch.cat(labels, 1)


def _decode_level(
    logits: Tensor,
    deltas: Tensor,
    image_sizes: Tensor,
    cell_anchors: Tensor,
    stride: tuple[float, float],
    centre_offset: float,
    logit_threshold: float,
    top_n: int,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels, _, width = logits.shape
    per_cell = cell_anchors.shape[0]
    classes = channels // per_cell
    logit = _by_anchor(logits, per_cell)  # [N, H*W*A, C]
    logit = logit.where(torch.isfinite(logit) & (logit > logit_threshold), -torch.inf)

    # The best entries lie in the anchors with the best classes, ties included, so C times less has to be sorted.
    anchor = torch.arange(logit.shape[1], device=logit.device).expand(batch, -1)
    _, anchor = _largest(logit.amax(-1), anchor, top_n)
    logit = logit.gather(1, anchor[..., None].expand(-1, -1, classes))
    entry = anchor[..., None] * classes + torch.arange(classes, device=logit.device)
    logit, entry = _largest(logit.flatten(1), entry.flatten(1), top_n)  # [N, k]

    anchor, label = entry // classes, entry % classes
    cell = anchor // per_cell
    delta = _by_anchor(deltas, per_cell).gather(1, anchor[..., None].expand(-1, -1, 4))
    anchors = boxes.shift_anchors(cell_anchors[anchor % per_cell], cell // width, cell % width, stride, centre_offset)
    corners = boxes.clip(boxes.decode(delta, anchors), image_sizes[:, None])
    found = (logit > -torch.inf) & torch.isfinite(delta).all(-1)
    return logit.sigmoid().where(found, 0), corners.where(found[..., None], 0), label.where(found, -1)


def _by_anchor(maps: Tensor, per_cell: int) -> Tensor:
    """Maps `[N, A*M, H, W]` as float32 `[N, H*W*A, M]`: one row an anchor, in (y, x, anchor) order."""
    batch, channels, height, width = maps.shape
    values = channels // per_cell
    rows = maps.float().reshape(batch, per_cell, values, height, width).permute(0, 3, 4, 1, 2)
    return rows.reshape(batch, height * width * per_cell, values)


def _largest(values: Tensor, indices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` (or all, if fewer) largest of `values` `[N, M]`, descending, ties to the lower of `indices` `[N, M]`.

    One int64 key holds both: the float's bits in an order that integers share, then the index. So no two keys tie.
    """
    bits = values.where(values != 0, 0).view(torch.int32)  # -0.0 ties with 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = ordered.long() * 2**32 - indices
    position = key.topk(min(count, values.shape[1])).indices
    return values.gather(1, position), indices.gather(1, position)
