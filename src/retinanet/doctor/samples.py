"""Training samples as the network sees them: scaled, flipped, cropped, with their boxes drawn in."""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image

from retinanet.config import DataConfig, TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.errors import DataError
from retinanet.predict.draw import draw_detections
from retinanet.train.assembly import training_loader, training_plan
from retinanet.types import Batch, ClassMap

SAMPLES = 12


def draw_samples(data: CocoData, config: DataConfig, seed: int) -> list[tuple[int, Image.Image]]:
    """(image id, picture) of the first few samples of a training with this seed; fewer where files are broken."""
    assert data.classes is not None
    config = replace(config, batch=1, workers=0)
    loader = training_loader(
        data,
        training_plan(data, config, seed),
        config,
        TrainConfig(seed=seed, loader="torch"),
        torch.device("cpu"),
        start_step=0,
        total_steps=min(SAMPLES, len(data)),
    )
    try:
        return [sample for batch in loader for sample in draw_batch(batch, data.classes)]
    except DataError:  # not one of them is usable, which is a finding already
        return []


def draw_batch(batch: Batch, classes: ClassMap) -> list[tuple[int, Image.Image]]:
    """(image id, picture) of each image of a batch, cut to the picture on the canvas; blank slots are left out."""
    drawn = []
    for slot, image_id in enumerate(batch.image_ids.tolist()):
        if image_id >= 0:
            height, width = batch.image_sizes[slot].tolist()
            picture = batch.images[slot, :, :height, :width]
            image = draw_detections(picture, batch.boxes[slot], batch.labels[slot], None, classes.names)
            drawn.append((image_id, image))
    return drawn
