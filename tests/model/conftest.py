from dataclasses import replace

import pytest
import torch

from retinanet.model.checkpoint import create_record
from retinanet.model.network import RetinaNet
from retinanet.model.record import ModelRecord
from retinanet.types import Batch, ClassMap

CLASSES = ClassMap((3, 17, 44), ("cat", "dog", "bird"))


@pytest.fixture
def record() -> ModelRecord:
    """A record whose network takes milliseconds."""
    return create_record(CLASSES, ["test_resnet"], width=16, weights="none", anchor_scale=4.0, resize=96, max_size=160)


@pytest.fixture
def ensemble_record(record) -> ModelRecord:
    """Two backbones of different normalisation."""
    other = create_record(
        CLASSES, ["test_efficientnet"], width=16, weights="none", anchor_scale=4.0, resize=96, max_size=160
    ).backbones[0]
    return replace(record, backbones=(record.backbones[0], replace(other, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))))


@pytest.fixture
def network(record) -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(record)


@pytest.fixture
def batch() -> Batch:
    """An image with two boxes, one without, one with a crowd, and a blank slot."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 96, 128), generator=generator, dtype=torch.uint8)
    boxes, labels = torch.zeros(4, 32, 4), torch.full((4, 32), -1)
    crowd = torch.zeros(4, 32, dtype=torch.bool)
    boxes[0, :2] = torch.tensor([[8.0, 10, 60, 70], [64, 20, 120, 90]])
    labels[0, :2] = torch.tensor([2, 0])
    boxes[2, 0] = torch.tensor([0.0, 0, 128, 50])
    labels[2, 0] = 1
    crowd[2, 0] = True
    return Batch(
        images=images.contiguous(memory_format=torch.channels_last),
        image_sizes=torch.tensor([[96, 128], [80, 128], [96, 100], [0, 0]]),
        boxes=boxes,
        labels=labels,
        crowd=crowd,
        image_ids=torch.tensor([1, 2, 3, -1]),
        transforms=torch.tensor([[1.0, 1, 0, 0]]).repeat(4, 1),
    )
