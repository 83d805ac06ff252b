"""One training step on one screen: forward, match, losses, backward, sum over ranks, clip, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retinanet.config import Precision
from retinanet.cuda_graphs import Recorder
from retinanet.device import autocast
from retinanet.model.compiling import synchronises
from retinanet.model.criterion import Criterion, LossSums
from retinanet.train.average import WeightAverage
from retinanet.train.distributed import average_over_ranks, global_sum, sum_gradients
from retinanet.train.recorded import RecordedGradients
from retinanet.types import Batch


class StepLosses(NamedTuple):
    """Float32 scalars on the device, of the global batch; nothing waits for them until they are logged."""

    classification: Tensor
    box: Tensor
    bad: Tensor
    """1 where the losses or their gradients were not finite, so that the weights stayed as they were."""


class TrainStep:
    """Moves the weights by one global batch, of which each rank has its share.

    A share may be taken in several parts, one after the other. The gradients of all parts and ranks are summed, and
    divided once by the positive anchors of all of them, so the result is that of the whole batch. (Live batch norm
    alone sees each part by itself.)

    A step that is not finite leaves weights, optimiser, average and batch norm's statistics untouched, without waiting
    for the device: of the weights the scaler takes care. Only fp16 needs its loss scaling too; for the other precisions
    the scale is held at 1.
    """

    def __init__(
        self,
        network: nn.Module,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        clip_norm: float,
        *,
        parts: int = 1,
        average: WeightAverage | None = None,
    ) -> None:
        self.network = network
        self.criterion = criterion
        self.optimizer = optimizer
        self.precision = precision
        self.clip_norm = clip_norm
        self.parts = parts
        self.average = average
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        self.statistics = [buffer for norm in norms for buffer in norm.buffers()]
        # SyncBatchNorm needs a GPU: on CPUs each rank normalises by its own images, and what it keeps is averaged.
        self.unsynchronised = [b for norm in norms if not isinstance(norm, nn.SyncBatchNorm) for b in norm.buffers()]
        self.autocast = autocast(self.device, precision)
        # What is scaled are sums: some 2^10 times the mean loss of a positive anchor, for which 2^14 is usual.
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**4 if precision == "fp16" else 1.0)
        self.gradients: Callable[[Batch], Tensor] = self.own_gradients
        # Synchronised norms meet other ranks, which need not record when this one does.
        if self.device.type == "cuda" and not synchronises(network):
            self.gradients = RecordedGradients(self.own_gradients, self.parameters, Recorder(self.device))

    def __call__(self, batch: Batch, learning_rate: float) -> StepLosses:
        """Learn from `batch`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        statistics = [buffer.clone() for buffer in self.statistics]
        sums = self._sum_gradients(batch.to(self.device))
        positives = sums.positives.clamp(min=1)
        classification, box = sums.classification / positives, sums.box / positives

        self.scaler.unscale_(self.optimizer)
        norm = self._divide_and_clip(positives)
        self.scaler.step(self.optimizer)
        self.scaler.update(None if self.precision == "fp16" else 1.0)
        finite = torch.isfinite(classification + box)
        moved = finite & torch.isfinite(norm)
        # In fp16 a gradient that overflows is the search for the loss's scale: no bad step, though it moves nothing.
        bad = ~finite if self.precision == "fp16" else ~moved
        for buffer, before in zip(self.statistics, statistics, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))
        average_over_ranks(self.unsynchronised)
        if self.average:
            self.average.update(moved)
        return StepLosses(classification, box, bad.float())

    def _sum_gradients(self, batch: Batch) -> LossSums:
        """Leave in the parameters the gradient of the losses, summed over parts and ranks; return these sums."""
        sums = self.gradients(batch)
        sum_gradients(self.parameters)
        classification, box, positives = global_sum(sums).unbind()
        return LossSums(classification.float(), box.float(), positives.long())

    def own_gradients(self, batch: Batch) -> Tensor:
        """The same for this rank alone; float64 `[3]`, the `LossSums` of its parts."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = []
        for part in batch.split(self.parts):
            with self.autocast:
                sums = self.losses(part)
            loss = sums.classification + sums.box
            # Gradients can be finite where the loss is not (smooth L1's are bounded), so it makes them NaN.
            told = loss * torch.where(torch.isfinite(loss), 1.0, torch.nan)
            self.scaler.scale(told).backward()  # type: ignore[no-untyped-call]
            # Float64 holds the count exactly; one tensor is one message between ranks.
            parts.append(torch.stack([value.detach().double() for value in sums]))
        return torch.stack(parts).sum(dim=0)

    def _divide_and_clip(self, positives: Tensor) -> Tensor:
        """Make the summed gradients those of the mean loss, at most `clip_norm` long; return their norm before that."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients) / positives
        shrink = (self.clip_norm / (norm + 1e-6)).clamp(max=1)
        torch._foreach_mul_(gradients, shrink / positives)
        return norm

    def losses(self, batch: Batch) -> LossSums:
        """Those of a part of a batch."""
        return self.criterion(self.network(batch.images, batch.image_sizes), batch)
