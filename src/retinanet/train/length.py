"""How long a run is, and when nothing of it is left."""

from __future__ import annotations

import math

from retinanet.config import TrainConfig
from retinanet.train.session import Session
from retinanet.words import counted

EPOCHS = 12
STEPS, FINE_TUNING_STEPS = 1000, 300
"""Fewer steps than these are too few to learn from, so that few images are seen more often."""


def choose_epochs(config: TrainConfig, steps_per_epoch: int, *, fine_tuned: bool) -> int:
    """`--epochs`, or 12, or as many as make enough steps of few images; less is enough for a model that knows much."""
    if config.epochs is not None:
        return config.epochs
    return max(EPOCHS, math.ceil((FINE_TUNING_STEPS if fine_tuned else STEPS) / steps_per_epoch))


def why_done(session: Session, config: TrainConfig, total_steps: int, *, validates: bool) -> str | None:
    """Why nothing is left to do, in a sentence; None where something is."""
    if session.step >= total_steps and not (validates and session.validation_due):
        return f"{session.path} has done {session.step} of {total_steps} steps; raise --epochs or --iters to go on."
    if config.patience is not None and session.stale >= config.patience:
        return (
            f"{session.path} had no better AP in {counted(session.stale, 'validation')}; raise --patience, or leave it "
            "out, to go on."
        )
    return None
