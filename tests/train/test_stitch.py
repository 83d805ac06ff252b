"""Stitched pictures and boxes: against Pillow and plain loops, and against where coloured rectangles really land."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from step_cases import CLASSES, make_step

from command_line import assert_same
from retinanet.model.checkpoint import create_record
from retinanet.model.matcher import match
from retinanet.model.network import RetinaNet
from retinanet.model.record import MatchingRecord, ModelRecord
from retinanet.train.stitch import mean_colour, stitch
from retinanet.types import NO_LABEL, Batch

HEIGHT, WIDTH = 64, 96
COLOUR = torch.tensor([124, 116, 104], dtype=torch.uint8)
SIZES = [(64, 96), (63, 95), (33, 61), (1, 1), (0, 0), (64, 17)]


def noise(seed: int = 0) -> Batch:
    """Pictures of `SIZES`, the fifth blank, with boxes down to slivers, crowds, and slots that hold nothing."""
    random = np.random.default_rng(seed)
    count, slots = len(SIZES), 32
    images = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    boxes, labels = np.zeros((count, slots, 4), np.float32), np.full((count, slots), NO_LABEL)
    crowd = np.zeros((count, slots), bool)
    for image, (height, width) in enumerate(SIZES):
        images[image, :height, :width] = random.integers(256, size=(height, width, 3))
        for slot in range(random.integers(5, slots) if height else 0):
            corners = np.sort(random.random((2, 2)) * (width, height), axis=0)
            if slot % 4 == 0:
                corners[1] = corners[0] + random.random(2) * 4  # about half of these are 2 pixels wide
            boxes[image, slot], labels[image, slot] = corners.reshape(4), random.integers(3)
            crowd[image, slot] = random.random() < 0.2
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.tensor(SIZES),
        *(torch.from_numpy(each) for each in (boxes, labels, crowd)),
        torch.tensor([7, 9, 4, 30, -1, 12]),
        torch.tensor([[2.0, 0.5, -3, 8]]).repeat(count, 1),
    )


TILES = np.array([[0, 1, 2, 3], [1, 5, 0, 2], [2, 2, 2, 2], [3, 0, 5, 1], [4, 4, 4, 4], [5, 3, 1, 0]])


def by_pillow(batch: Batch, image: int) -> np.ndarray:
    """uint8 `[H/2, W/2, 3]`: the picture, on a canvas of `COLOUR`, reduced by Pillow."""
    height, width = SIZES[image]
    canvas = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    canvas[:] = COLOUR.numpy()
    canvas[:height, :width] = batch.images[image, :, :height, :width].permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(canvas).reduce(2))


def slow_targets(batch: Batch, tiles: list[int]) -> list[tuple[list[float], int, bool]]:
    """(box, label, crowd) of a mosaic, one box at a time."""
    found = []
    for place, image in enumerate(tiles):
        x, y = [(0, 0), (WIDTH / 2, 0), (0, HEIGHT / 2), (WIDTH / 2, HEIGHT / 2)][place]
        for box, label, crowd in zip(batch.boxes[image], batch.labels[image], batch.crowd[image], strict=True):
            x1, y1, x2, y2 = (float(side) / 2 for side in box)
            if label >= 0 and x2 - x1 >= 1 and y2 - y1 >= 1:
                found.append(([x1 + x, y1 + y, x2 + x, y2 + y], int(label), bool(crowd)))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_equals_pillow_and_loops(seed: int) -> None:
    batch = noise(seed)
    found = stitch(batch, TILES, 128, COLOUR)
    assert found.images.is_contiguous(memory_format=torch.channels_last)
    assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in batch]
    dropped = 0
    for slot, tiles in enumerate(TILES.tolist()):
        if SIZES[slot] == (0, 0):
            continue
        rows = [np.concatenate([by_pillow(batch, image) for image in tiles[row : row + 2]], 1) for row in (0, 2)]
        np.testing.assert_array_equal(found.images[slot].permute(1, 2, 0).numpy(), np.concatenate(rows))
        expected = slow_targets(batch, tiles)
        dropped += int((batch.labels[tiles] >= 0).sum()) - len(expected)
        used = len(expected)
        torch.testing.assert_close(found.boxes[slot, :used], torch.tensor([box for box, _, _ in expected]))
        assert found.labels[slot, :used].tolist() == [label for _, label, _ in expected]
        assert found.crowd[slot, :used].tolist() == [crowd for _, _, crowd in expected]
        assert (found.labels[slot, used:] == NO_LABEL).all()
        assert not found.boxes[slot, used:].any()
        assert not found.crowd[slot, used:].any()
        assert found.image_sizes[slot].tolist() == [HEIGHT, WIDTH]
        assert found.image_ids[slot] == batch.image_ids[slot]
    assert dropped > 10
    assert found.crowd.any()


@pytest.mark.parametrize("box", [[10, 6, 30, 36], [0, 0, 96, 64], [34, 22, 36, 24]])
def test_boxes_are_where_their_rectangles_land(box: list[int]) -> None:
    """They stand on even pixels, so that halving blurs no edge."""
    colours = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10]], dtype=torch.uint8)
    images = torch.full((4, HEIGHT, WIDTH, 3), 128, dtype=torch.uint8)
    boxes, labels = torch.zeros(4, 32, 4), torch.full((4, 32), NO_LABEL)
    for image in range(4):
        images[image, box[1] : box[3], box[0] : box[2]] = colours[image]
        boxes[image, 3], labels[image, 3] = torch.tensor(box, dtype=torch.float32), image
    found = stitch(
        Batch(
            images.permute(0, 3, 1, 2),
            torch.tensor([[HEIGHT, WIDTH]] * 4),
            boxes,
            labels,
            torch.zeros(4, 32, dtype=torch.bool),
            torch.arange(4),
            torch.tensor([[1.0, 1, 0, 0]] * 4),
        ),
        np.array([[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]),
        32,
        COLOUR,
    )
    for slot in range(4):
        assert (found.labels[slot] >= 0).sum() == 4
        for box_there, label in zip(found.boxes[slot, :4].tolist(), found.labels[slot, :4].tolist(), strict=True):
            rows, columns = (found.images[slot].permute(1, 2, 0) == colours[label]).all(dim=2).nonzero().unbind(1)
            assert box_there == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_the_way_back_is_that_of_the_picture_at_the_top_left() -> None:
    batch = noise()
    found = stitch(batch, TILES, 128, COLOUR)
    original = torch.tensor([10.0, 20.0])
    scale, offset = batch.transforms[0, :2], batch.transforms[0, 2:]
    torch.testing.assert_close(
        original * found.transforms[0, :2] + found.transforms[0, 2:], (original * scale + offset) / 2
    )


def test_fewer_slots_keep_all_targets_and_teach_the_same() -> None:
    batch = noise()
    batch = batch._replace(labels=batch.labels.where(torch.arange(32) < 14, NO_LABEL))
    wide, narrow = (stitch(batch, TILES, slots, COLOUR) for slots in (128, 64))
    assert wide.labels.shape == (6, 128)
    assert narrow.labels.shape == (6, 64)
    assert (wide.labels >= 0).sum() == (narrow.labels >= 0).sum() > 0
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(500, 2, generator=random) * torch.tensor([80.0, 50.0])
    anchors = torch.cat([corner, corner + 2 + 30 * torch.rand(500, 2, generator=random)], dim=1)
    matched = [match(anchors, b.boxes, b.labels, b.crowd, b.image_sizes, MatchingRecord()) for b in (wide, narrow)]
    assert_same(matched[0], matched[1])


def test_more_slots_than_there_can_be_targets_are_all_there_are() -> None:
    assert stitch(noise(), TILES, 256, COLOUR).labels.shape == (6, 128)


def test_a_blank_slot_stays_blank_and_teaches_nothing() -> None:
    batch = noise()
    found = stitch(batch, TILES, 128, COLOUR)
    assert not found.images[4].any()
    assert found.image_sizes[4].tolist() == [0, 0]
    assert (found.labels[4] == NO_LABEL).all()
    assert_same(found.transforms[4], batch.transforms[4])
    step = make_step(weights="pretrained")
    with torch.no_grad():
        whole = step.losses(found)
        without = step.losses(Batch(*(tensor[[0, 1, 2, 3, 5]] for tensor in found)))
    assert torch.isfinite(whole.classification)
    torch.testing.assert_close(tuple(whole), tuple(without))


def test_parts_of_mosaics_teach_what_the_whole_batch_does() -> None:
    found = stitch(noise(), TILES, 128, COLOUR)
    whole, split = (make_step(weights="pretrained", parts=parts) for parts in (1, 3))
    torch.testing.assert_close(split(found, 0.001), whole(found, 0.001), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])  # means of ImageNet, and of one half
def test_the_mean_colour_is_what_a_network_takes_for_padding(backbone: str) -> None:
    network = RetinaNet(record_of(backbone))
    image = mean_colour(network.record).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    member = network.members[0]
    seen = member.normalise(image, torch.tensor([[32, 32]]), member.mean, member.std)
    assert (seen.abs() <= 0.5 / 255 / member.std.view(3, 1, 1) + 1e-6).all()  # half a step of 8 bits


def test_the_mean_colour_of_an_ensemble_is_between_its_members() -> None:
    one, other = (mean_colour(record_of(name)).int() for name in ("resnet18", "tf_efficientnet_lite0"))
    both = mean_colour(record_of("resnet18", "tf_efficientnet_lite0"))
    assert both.dtype == torch.uint8
    assert ((both - (one + other) / 2).abs() <= 1).all()


def record_of(*backbones: str) -> ModelRecord:
    return create_record(CLASSES, backbones, width=16, weights="none", anchor_scale=4, resize=64, max_size=96)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_stitches_the_same_and_is_not_waited_for() -> None:
    batch = noise()
    on_gpu = batch.to(torch.device("cuda"))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = stitch(on_gpu, TILES, 64, COLOUR)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same(tuple(tensor.cpu() for tensor in found), tuple(stitch(batch, TILES, 64, COLOUR)))
