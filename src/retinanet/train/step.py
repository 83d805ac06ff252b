"""One training step on one screen: forward, match, losses, backward, clip, update."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from retinanet.config import Precision
from retinanet.device import autocast
from retinanet.model.criterion import Criterion, LossSums
from retinanet.types import Batch


class StepLosses(NamedTuple):
    """Float32 scalars on the device; nothing waits for them until they are logged."""

    classification: Tensor
    box: Tensor
    bad: Tensor
    """1 where the losses or their gradients were not finite, so that the weights stayed as they were."""


class TrainStep:
    """Moves the weights by one batch.

    A step that is not finite leaves weights, optimiser and batch norm's statistics untouched, without waiting for the
    device: of the weights the scaler takes care. Only fp16 needs its loss scaling too; for the other precisions the
    scale is held at 1.
    """

    def __init__(
        self,
        network: nn.Module,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        clip_norm: float,
        *,
        compiled: bool = False,
    ) -> None:
        self.network = network
        self.criterion = criterion
        self.optimizer = optimizer
        self.precision = precision
        self.clip_norm = clip_norm
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        self.statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self.losses = torch.compile(self._losses, dynamic=False) if compiled else self._losses
        self.autocast = autocast(self.device, precision)
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**14 if precision == "fp16" else 1.0)

    def __call__(self, batch: Batch, learning_rate: float) -> StepLosses:
        """Learn from `batch`."""
        batch = batch.to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        statistics = [buffer.clone() for buffer in self.statistics]
        with self.autocast:
            sums = self.losses(batch)
        positives = sums.positives.clamp(min=1)
        classification, box = sums.classification / positives, sums.box / positives
        loss = classification + box
        # Gradients can be finite where the loss is not (smooth L1's are bounded), so it makes them NaN.
        told = loss * torch.where(torch.isfinite(loss), 1.0, torch.nan)

        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(told).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update(None if self.precision == "fp16" else 1.0)
        bad = ~torch.isfinite(loss) if self.precision == "fp16" else ~torch.isfinite(loss + norm)
        for buffer, before in zip(self.statistics, statistics, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))
        return StepLosses(classification.detach(), box.detach(), bad.float())

    def _losses(self, batch: Batch) -> LossSums:
        return self.criterion(self.network(batch.images, batch.image_sizes), batch)
