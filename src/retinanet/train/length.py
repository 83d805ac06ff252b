"""How many steps a run takes."""

from __future__ import annotations

import math

from retinanet.config import TrainConfig

EPOCHS = 12
STEPS, FINE_TUNING_STEPS = 1000, 300
"""Fewer steps than these are too few to learn from, so that few images are seen more often."""


def choose_epochs(config: TrainConfig, steps_per_epoch: int, *, fine_tuned: bool) -> int:
    """`--epochs`, or 12, or as many as make enough steps of few images; less is enough for a model that knows much."""
    if config.epochs is not None:
        return config.epochs
    return max(EPOCHS, math.ceil((FINE_TUNING_STEPS if fine_tuned else STEPS) / steps_per_epoch))
