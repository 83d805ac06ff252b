"""What tests of single steps share: a small network with its optimiser, its state, and losses that are not finite."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from retinanet.config import DataConfig, Precision, TrainConfig
from retinanet.model.checkpoint import create_network, create_record
from retinanet.model.criterion import Criterion
from retinanet.train.average import WeightAverage
from retinanet.train.optim import build_optimizer
from retinanet.train.step import TrainStep
from retinanet.types import ClassMap

CLASSES = ClassMap((3, 17, 44), ("disc", "rectangle", "triangle"))
# No canvas of 64: there P7 is made from a single cell, where oneDNN's bfloat16 gradient (of PyTorch 2.14, on CPUs with
# AVX512_BF16) holds memory that was never written.
DATA = DataConfig(resize=80, max_size=128, batch=4)


def make_step(
    optimizer: str = "sgd",
    precision: Precision = "fp32",
    weights: str = "none",
    clip_norm: float = 10.0,
    *,
    parts: int = 1,
    ema: float | None = None,
    device: str = "cpu",
) -> TrainStep:
    """A step of a network that is the same each time; batch norm is live, or frozen with weights `pretrained`."""
    torch.manual_seed(0)
    record = create_record(
        CLASSES, ["test_resnet"], width=16, weights=weights, anchor_scale=4.0, resize=64, max_size=96
    )
    network = create_network(record, "none").to(device).to(memory_format=torch.channels_last).train()
    chosen = build_optimizer(TrainConfig(optimizer=optimizer), network, 0.01)
    average = WeightAverage(network, ema) if ema else None
    return TrainStep(network, Criterion(network), chosen, precision, clip_norm, parts=parts, average=average)


def state_of(step: TrainStep) -> dict[str, Any]:
    """A copy of all that a step may move."""
    state = {"network": step.network.state_dict(), "optimizer": step.optimizer.state_dict()["state"]}
    if step.average:
        state["average"] = step.average.network.state_dict()
    return copy.deepcopy(state)


def poison(step: TrainStep, value: float, *, forward: bool, only_call: int | None = None) -> None:
    """Make the loss, or its gradient alone, not finite; of all parts of a batch, or of one only."""
    criterion = step.criterion
    calls = 0

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, loss: Tensor) -> Tensor:
            return loss.clone()

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            return gradient * value

    def judge(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        sums = criterion(*arguments)
        if only_call not in (None, calls):
            return sums
        box = sums.box * value if forward else Gradient.apply(sums.box)
        return sums._replace(box=box)

    step.criterion = judge  # type: ignore[assignment]
