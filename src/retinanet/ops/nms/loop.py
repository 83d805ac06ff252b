"""The reference's NMS for compilers: its steps as one loop, where they would unroll a hundred."""

import torch
from torch import Tensor
from torch._higher_order_ops import while_loop

from retinanet.ops.nms.reference import gather_kept, take_best, usable_scores


def nms(
    scores: Tensor, boxes: Tensor, labels: Tensor, iou_threshold: float, detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reference.nms`, to be traced in its place (`ExportedProgram.run_decompositions`): compiles ten times faster.

    Not for eager use: PyTorch would trace the loop at each call.
    """
    slots = torch.arange(detections, device=scores.device)

    def step(count: Tensor, alive: Tensor, kept_scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alive, score, best = take_best(alive, boxes, labels, iou_threshold)
        now = slots == count
        return count + 1, alive, torch.where(now, score, kept_scores), torch.where(now, best, kept)

    def more(count: Tensor, *_: Tensor) -> Tensor:
        return count < detections

    alive = usable_scores(scores, boxes)
    nothing = scores.new_zeros(scores.shape[0], detections)
    # A tensor counts: as an integer, PyTorch 2.11 cannot pass it to the loop of a package.
    start = (torch.zeros((), dtype=torch.int64), alive, nothing, nothing.long())
    _, _, kept_scores, kept = while_loop(more, step, start)  # type: ignore[no-untyped-call]
    return gather_kept(kept_scores, kept, boxes, labels)
