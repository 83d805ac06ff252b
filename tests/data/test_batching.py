"""The batch contract."""

from pathlib import Path

import numpy as np
import pytest
import torch

from retinanet.data.annotations import CLIPPED, DEGENERATE, GOOD, CocoData, FlatStrings
from retinanet.data.batching import assemble, assemble_images
from retinanet.data.sampler import BLANK
from retinanet.data.views import View
from retinanet.preprocess import Placed, place_on_canvas, restore_boxes
from retinanet.types import ClassMap


def picture(size=(10, 20), canvas=(32, 64)):
    image = place_on_canvas(torch.full((3, *size), 7, dtype=torch.uint8), canvas)
    return Placed(image, size, (0.5, 2.0, -1.0, 3.0))


def data_with(*counts):
    """Images of 100×100 pixels with so many boxes each, of 5×5 pixels, one pixel apart."""
    total = sum(counts)
    boxes = np.full((total, 4), 5.0)
    boxes[:, :2] = np.arange(total)[:, None] % 90
    return CocoData(
        source=Path("made.json"),
        images_dir=Path(),
        classes=ClassMap((1, 2), ("a", "b")),
        image_ids=2**40 + np.arange(len(counts)),
        file_names=FlatStrings([str(i) for i in range(len(counts))]),
        sizes=np.full((len(counts), 2), 100),
        offsets=np.cumsum([0, *counts]),
        annotation_ids=np.arange(total),
        boxes=boxes,
        areas=np.full(total, 25.0),
        labels=(np.arange(total) % 2).astype(np.int32),
        crowd=np.arange(total) % 3 == 0,
        status=np.full(total, GOOD, np.uint8),
    )


def whole(size=(100, 100)):
    return View(size, (0, 0), size, False, (1.0, 1.0, 0.0, 0.0))


def with_targets(data, indices, shown):
    return assemble_images(data, np.array(indices), shown, torch.empty(0))


def test_pictures_fill_their_slots():
    batch = assemble((32, 64), [picture(), None, picture()])
    assert batch.images.shape == (3, 3, 32, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images[0], picture().image)
    assert batch.image_sizes.tolist() == [[10, 20], [0, 0], [10, 20]]
    assert batch.image_ids.tolist() == [0, -1, 0]
    assert batch.transforms.tolist() == [[0.5, 2, -1, 3], [1, 1, 0, 0], [0.5, 2, -1, 3]]
    kinds = [value.dtype for value in batch]
    assert kinds == [torch.uint8, torch.int64, torch.float32, torch.int64, torch.bool, torch.int64, torch.float32]


def test_blank_slots_hold_nothing_and_can_be_restored():
    batch = assemble((32, 32), [None, None])
    assert not batch.images.any()
    assert (batch.labels == -1).all()
    assert not batch.crowd.any()
    assert not restore_boxes(batch.boxes, batch.transforms).any()


def test_targets_stand_beside_their_image():
    """In any order, and with images without objects, broken ones and blank slots among them."""
    data = data_with(2, 0, 3, 4)
    data.status[4] = DEGENERATE
    data.status[8] = CLIPPED
    images = torch.zeros(5, 3, 32, 64, dtype=torch.uint8)
    batch = assemble_images(data, np.array([3, BLANK, 1, 0, 2]), [whole(), None, whole(), None, whole()], images)
    assert batch.images is images
    assert batch.image_ids.tolist() == [2**40 + 3, -1, 2**40 + 1, -1, 2**40 + 2]
    assert batch.image_sizes.tolist() == [[100, 100], [0, 0], [100, 100], [0, 0], [100, 100]]
    assert (batch.labels >= 0).sum(1).tolist() == [4, 0, 0, 0, 2]
    assert batch.boxes[0, :4].tolist() == [[i, i, i + 5, i + 5] for i in (5, 6, 7, 8)]
    assert batch.boxes[4, :2].tolist() == [[i, i, i + 5, i + 5] for i in (2, 3)]
    assert batch.labels[0, :5].tolist() == [1, 0, 1, 0, -1]
    assert batch.labels[4, :3].tolist() == [0, 1, -1]
    assert batch.crowd[0, :5].tolist() == [False, True, False, False, False]
    assert batch.crowd[4, :3].tolist() == [False, True, False]
    assert not batch.boxes[:, 4:].any()
    kinds = [value.dtype for value in batch]
    assert kinds == [torch.uint8, torch.int64, torch.float32, torch.int64, torch.bool, torch.int64, torch.float32]


def test_boxes_out_of_sight_are_left_out():
    data = data_with(3)
    data.boxes[1, :2] = 80
    batch = with_targets(data, [0], [whole((50, 50))])
    assert batch.boxes[0, :3].tolist() == [[0, 0, 5, 5], [2, 2, 7, 7], [0, 0, 0, 0]]
    assert batch.labels[0, :3].tolist() == [0, 0, -1]


@pytest.mark.parametrize(("most", "slots"), [(0, 32), (1, 32), (32, 32), (33, 64), (64, 64), (65, 128), (300, 512)])
def test_few_numbers_of_target_slots_occur(most, slots):
    assert with_targets(data_with(1, most), [0, 1], [whole(), whole()]).labels.shape == (2, slots)


def test_a_batch_without_images():
    batch = with_targets(data_with(1), [BLANK, BLANK], [None, None])
    assert (batch.labels == -1).all()
    assert batch.image_ids.tolist() == [-1, -1]


def test_moving_a_batch_leaves_its_ids_on_the_cpu():
    moved = assemble((32, 32), [None]).to(torch.device("meta"))
    assert [tensor.device.type for tensor in moved] == ["meta"] * 5 + ["cpu", "meta"]
