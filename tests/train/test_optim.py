"""The learning rate against PyTorch's own schedulers, and the optimiser's groups."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

from retinanet.config import TrainConfig
from retinanet.errors import UsageError
from retinanet.train.optim import WARMUP_START, build_optimizer, learning_rate, peak_rate


def rates_of(scheduler_of, peak: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_step_schedule_equals_multisteplr() -> None:
    config = TrainConfig(warmup=0, schedule="step", milestones=(0.5, 0.75), gamma=0.1)
    expected = rates_of(lambda o: MultiStepLR(o, [50, 75], gamma=0.1), 0.02, 100)
    assert [learning_rate(config, 0.02, step, 100) for step in range(100)] == pytest.approx(expected)


def test_cosine_schedule_equals_cosineannealinglr() -> None:
    config = TrainConfig(warmup=0, schedule="cosine")
    expected = rates_of(lambda o: CosineAnnealingLR(o, 100), 0.02, 100)
    assert [learning_rate(config, 0.02, step, 100) for step in range(100)] == pytest.approx(expected)


def test_warmup_equals_linearlr() -> None:
    config = TrainConfig(warmup=10, schedule="step", milestones=())
    expected = rates_of(lambda o: LinearLR(o, start_factor=WARMUP_START, total_iters=10), 0.02, 30)
    assert [learning_rate(config, 0.02, step, 30) for step in range(30)] == pytest.approx(expected)


@pytest.mark.parametrize(("optimizer", "of_40_steps", "of_many"), [("adamw", 4, 500), ("sgd", 13, 500)])
def test_warmup_is_part_of_a_short_run_and_bounded_in_a_long_one(
    optimizer: str, of_40_steps: int, of_many: int
) -> None:
    config = TrainConfig(optimizer=optimizer, schedule="step", milestones=())
    for total, warmup in ((40, of_40_steps), (100_000, of_many)):
        assert learning_rate(config, 1.0, warmup - 1, total) < 1.0
        assert learning_rate(config, 1.0, warmup, total) == 1.0


@pytest.mark.parametrize(
    ("optimizer", "batch", "expected"), [("sgd", 16, 0.02), ("sgd", 4, 0.005), ("adamw", 64, 8e-4)]
)
def test_the_default_rate_is_linear_in_the_batch(optimizer: str, batch: int, expected: float) -> None:
    assert peak_rate(TrainConfig(optimizer=optimizer), batch) == pytest.approx(expected)


def test_a_given_rate_is_not_scaled() -> None:
    assert peak_rate(TrainConfig(lr=0.003), 64) == 0.003


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_biases_and_norms_are_not_decayed_and_frozen_parameters_are_left_out(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    network[0].weight.requires_grad_(False)
    optimizer = build_optimizer(TrainConfig(optimizer=name, weight_decay=0.3), network, 0.1)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert id(network[0].weight) not in decay
    assert decay[id(network[2].weight)] == 0.3
    assert {decay[id(p)] for p in (network[0].bias, network[1].weight, network[1].bias, network[2].bias)} == {0.0}


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"iters": 0}, {"lr": 0.0}, {"milestones": (0.5, 1.5)}, {"gamma": 0.0}, {"weight_decay": -1.0}],
)
def test_impossible_recipes_are_refused(options: dict) -> None:
    with pytest.raises(UsageError, match="--"):
        TrainConfig(**options)
