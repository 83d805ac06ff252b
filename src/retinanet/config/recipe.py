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


RECIPES: dict[RecipeName, Recipe] = {
    "classic": Recipe("sgd", "step", "iou", "smooth_l1", "focal"),
    "modern": Recipe("adamw", "cosine", "iou", "giou", "focal"),
}
DEFAULT_RECIPE: RecipeName = "modern"
