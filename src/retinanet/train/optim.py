"""The optimiser, and the learning rate as a pure function of the step, so that there is no schedule to restore."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer

from retinanet.config import TrainConfig

MOMENTUM = 0.9
WARMUP_START = 0.001
"""The first step's share of the peak rate (Goyal et al. 2017, section 2.2, start near zero)."""
_WARMUP_PART = {"sgd": 3, "adamw": 10}
"""Of a short run. SGD at its rate diverges for good when it gets there too soon."""
_LR_AT_16 = {"sgd": 0.02, "adamw": 2e-4}
"""SGD's is twice the paper's, as `_CLIP_NORM` lets it be: on photographs that gained 1 AP (benchmarks/results)."""
_CLIP_NORM = {"sgd": 1.0, "adamw": 10.0}
"""AdamW's steps are as long whatever the gradient's norm."""
_WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 0.05}


def peak_rate(config: TrainConfig, batch: int) -> float:
    """`--lr`, or the default for this global batch: linear in it (Goyal et al. 2017)."""
    return config.lr if config.lr is not None else _LR_AT_16[config.chosen.optimizer] * batch / 16


def warmup_steps(config: TrainConfig, total_steps: int) -> int:
    """`--warmup`, or the default for a run of this length."""
    part = _WARMUP_PART[config.chosen.optimizer]
    return config.warmup if config.warmup is not None else min(500, total_steps // part)


def weight_decay(config: TrainConfig) -> float:
    """`--weight-decay`, or the optimiser's default."""
    return config.weight_decay if config.weight_decay is not None else _WEIGHT_DECAY[config.chosen.optimizer]


def clip_norm(config: TrainConfig) -> float:
    """`--clip-norm`, or the optimiser's default."""
    return config.clip_norm if config.clip_norm is not None else _CLIP_NORM[config.chosen.optimizer]


def learning_rate(config: TrainConfig, peak: float, step: int, total_steps: int) -> float:
    """Rate of `step` (0 … total_steps - 1): linear warm-up, then the step or cosine schedule."""
    warmup = warmup_steps(config, total_steps)
    ramp = min(1.0, WARMUP_START + (1 - WARMUP_START) * step / warmup) if warmup else 1.0
    if config.chosen.schedule == "cosine":
        return peak * ramp * 0.5 * (1 + math.cos(math.pi * step / total_steps))
    passed = sum(step >= milestone * total_steps for milestone in config.milestones)
    return peak * ramp * config.gamma**passed


def build_optimizer(config: TrainConfig, network: nn.Module, peak: float) -> Optimizer:
    """SGD or AdamW over the parameters that learn; biases and norms (one axis) are not decayed."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay(config)},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = parameters[0].is_cuda
    if config.chosen.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=peak, fused=fused)
    optimizer = torch.optim.SGD(groups, lr=peak, momentum=MOMENTUM, fused=fused)
    for parameter in parameters:
        # The fused kernel leaves a buffer that it made in a skipped step uninitialised; zeros give the same first step.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
