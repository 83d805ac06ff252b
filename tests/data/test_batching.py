"""The batch contract."""

import numpy as np
import pytest
import torch

from retinanet.data.batching import Sample, assemble
from retinanet.preprocess import Placed, place_on_canvas, restore_boxes


def sample(targets, image_id=5, size=(10, 20), canvas=(32, 64)):
    image = place_on_canvas(torch.full((3, *size), 7, dtype=torch.uint8), canvas)
    boxes = np.arange(targets * 4, dtype=np.float32).reshape(targets, 4)
    labels, crowd = np.arange(targets), np.arange(targets) % 2 == 1
    return Sample(Placed(image, size, (0.5, 2.0, -1.0, 3.0)), image_id, boxes, labels, crowd)


def test_samples_fill_their_slots():
    batch = assemble((32, 64), [sample(3), None, sample(0, image_id=2**40)])
    assert batch.images.shape == (3, 3, 32, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images[0], sample(3).placed.image)
    assert batch.image_sizes.tolist() == [[10, 20], [0, 0], [10, 20]]
    assert batch.boxes.shape == (3, 32, 4)
    assert batch.boxes[0, :3].flatten().tolist() == list(range(12))
    assert batch.labels[0, :4].tolist() == [0, 1, 2, -1]
    assert batch.crowd[0, :4].tolist() == [False, True, False, False]
    assert batch.image_ids.tolist() == [5, -1, 2**40]
    assert batch.transforms[0].tolist() == [0.5, 2, -1, 3]
    kinds = [value.dtype for value in batch]
    assert kinds == [torch.uint8, torch.int64, torch.float32, torch.int64, torch.bool, torch.int64, torch.float32]


def test_blank_slots_hold_nothing_and_can_be_restored():
    batch = assemble((32, 32), [None, None])
    assert not batch.images.any()
    assert (batch.labels == -1).all()
    assert not batch.crowd.any()
    assert not restore_boxes(batch.boxes, batch.transforms).any()


@pytest.mark.parametrize(("most", "slots"), [(0, 32), (1, 32), (32, 32), (33, 64), (64, 64), (65, 128), (300, 512)])
def test_few_numbers_of_target_slots_occur(most, slots):
    assert assemble((32, 64), [sample(1), sample(most)]).labels.shape == (2, slots)
