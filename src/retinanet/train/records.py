"""The record that the options ask for: of a new model, or of one that is fine-tuned."""

from __future__ import annotations

from dataclasses import replace

from retinanet.config import DataConfig, ModelConfig, Recipe, TrainConfig
from retinanet.model.checkpoint import create_record
from retinanet.model.record import ModelRecord
from retinanet.types import ClassMap


def new_record(classes: ClassMap, model: ModelConfig, data: DataConfig, train: TrainConfig) -> ModelRecord:
    """The record of a model that is new."""
    record = create_record(
        classes,
        model.backbone,
        width=model.width,
        weights=model.weights,
        anchor_scale=model.anchor_scale,
        resize=data.resize,
        max_size=data.longest,
        norm=model.norm,
    )
    return _taught_by(train.chosen, record)


def fine_tuned_record(
    old: ModelRecord, classes: ClassMap, model: ModelConfig, data: DataConfig, train: TrainConfig
) -> ModelRecord:
    """What the options change in the record of a model that is fine-tuned.

    It goes on learning by its own matching and losses, unless an option or a recipe is asked for by name.
    """
    backbones = tuple(replace(backbone, norm=model.norm or backbone.norm) for backbone in old.backbones)
    record = replace(old, classes=classes, backbones=backbones, resize=data.resize, max_size=data.longest)
    if train.recipe is not None:
        return _taught_by(train.chosen, record)
    own = {"matching": old.matching.kind, "box_loss": old.box_loss, "class_loss": old.class_loss}
    asked = {name: getattr(train, name) for name in own if getattr(train, name) is not None}
    return _taught_by(replace(train.chosen, **{**own, **asked}), record)


def _taught_by(recipe: Recipe, record: ModelRecord) -> ModelRecord:
    matching = replace(record.matching, kind=recipe.matching)
    return replace(record, matching=matching, box_loss=recipe.box_loss, class_loss=recipe.class_loss)
