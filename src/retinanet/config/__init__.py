"""What a run is asked to do: frozen, validated dataclasses, from which the command line is made.

The sentence under each field is its help text. `None` means "decided from the rest", as the sentence says.
"""

from retinanet.config.data import DEFAULT_RESIZE, LONG_SIDE_RATIO, DataConfig, LoaderKind
from retinanet.config.export import QUANTISED, ExportConfig, ExportPrecision
from retinanet.config.model import ImportConfig, ModelConfig, NormMode
from retinanet.config.predict import InferConfig, PostprocessConfig, Precision, PredictConfig
from retinanet.config.recipe import (
    DEFAULT_RECIPE,
    RECIPES,
    BoxLoss,
    ClassLoss,
    Matching,
    Optimizer,
    Recipe,
    RecipeName,
    Schedule,
)
from retinanet.config.train import TrainConfig

__all__ = [
    "DEFAULT_RECIPE",
    "DEFAULT_RESIZE",
    "LONG_SIDE_RATIO",
    "QUANTISED",
    "RECIPES",
    "BoxLoss",
    "ClassLoss",
    "DataConfig",
    "ExportConfig",
    "ExportPrecision",
    "ImportConfig",
    "InferConfig",
    "LoaderKind",
    "Matching",
    "ModelConfig",
    "NormMode",
    "Optimizer",
    "PostprocessConfig",
    "Precision",
    "PredictConfig",
    "Recipe",
    "RecipeName",
    "Schedule",
    "TrainConfig",
]
