"""Recipes: what belongs together in how a network learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["step", "cosine"]
Matching = Literal["iou", "atss"]
BoxLoss = Literal["smooth_l1", "giou"]
ClassLoss = Literal["focal", "quality"]
RecipeName = Literal["classic", "modern"]


@dataclass(frozen=True)
class Recipe:
    """What belongs together in how a network learns; each value has its option."""

    optimizer: Optimizer
    schedule: Schedule
    matching: Matching
    box_loss: BoxLoss
    class_loss: ClassLoss
    sizes: tuple[float, float]
    """The shorter sides of training images, least and most, in parts of --resize; --jitter has them in pixels."""


RECIPES: dict[RecipeName, Recipe] = {
    "classic": Recipe("sgd", "step", "iou", "smooth_l1", "focal", (1.0, 1.0)),
    "modern": Recipe("adamw", "cosine", "iou", "giou", "quality", (0.8, 1.25)),
}
DEFAULT_RECIPE: RecipeName = "modern"
