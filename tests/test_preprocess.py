"""The geometry from picture to canvas and back, and the network's normalisation."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as vision

from retinanet.preprocess import (
    assign_canvas,
    choose_canvases,
    fit_to_canvas,
    fitted_size,
    group_by_canvas,
    normalise,
    place_on_canvas,
    resize_image,
    resized_size,
    restore_boxes,
)

sides = st.integers(1, 3000)


def test_normalise_equals_torchvision_inside_and_is_zero_outside():
    images = torch.randint(0, 256, (2, 3, 8, 10), dtype=torch.uint8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    result = normalise(images, torch.tensor([[5, 7], [8, 10]]), mean, std)
    expected = vision.normalize(vision.to_dtype(images, scale=True), mean.tolist(), std.tolist())
    torch.testing.assert_close(result[0, :, :5, :7], expected[0, :, :5, :7])
    torch.testing.assert_close(result[1], expected[1])
    assert not result[0, :, 5:].any()
    assert not result[0, :, :, 7:].any()


def test_normalise_of_a_blank_slot_is_zero():
    images = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    assert not normalise(images, torch.zeros(1, 2, dtype=torch.int64), torch.zeros(3), torch.ones(3)).any()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((500, 500), (800, 800)),
        ((400, 1000), (533, 1333)),  # the longer side rules
        ((1, 1), (800, 800)),
        ((10, 20000), (1, 1333)),  # never below one pixel
        ((20000, 1), (1333, 1)),
    ],
)
def test_resized_size(size, expected):
    assert resized_size(*size, 800, 1333) == expected


@given(sides, sides, st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_fitted_size_fits_and_touches_the_canvas_unless_it_fits_anyway(height, width, cells):
    canvas = (cells[0] * 32, cells[1] * 32)
    fitted = fitted_size(height, width, 320, 640, canvas)
    usual = resized_size(height, width, 320, 640)
    assert 1 <= fitted[0] <= canvas[0]
    assert 1 <= fitted[1] <= canvas[1]
    if usual[0] <= canvas[0] and usual[1] <= canvas[1]:
        assert fitted == usual
    else:
        assert fitted[0] == canvas[0] or fitted[1] == canvas[1]


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=40), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_every_picture_fits_its_canvas(originals, limit):
    sizes = np.array([resized_size(height, width, 300, 500) for height, width in originals])
    canvases = choose_canvases(sizes, limit)
    assert 1 <= len(canvases) <= limit
    assert all(side % 32 == 0 for canvas in canvases for side in canvas)
    chosen = np.array(canvases)[assign_canvas(sizes, canvases)]
    assert (sizes <= chosen).all()
    # No smaller canvas would have held it.
    for size, canvas in zip(sizes, chosen, strict=True):
        holders = [height * width for height, width in canvases if height >= size[0] and width >= size[1]]
        assert canvas.prod() == min(holders)


def test_canvases_of_landscape_portrait_and_square_pictures():
    sizes = np.array([[800, 1067]] * 70 + [[1067, 800]] * 20 + [[800, 800]] * 10 + [[800, 1060]] * 5)
    assert choose_canvases(sizes) == [(800, 800), (800, 1088), (1088, 800)]
    assert choose_canvases(sizes[::-1]) == choose_canvases(sizes)


def test_first_merger_is_the_cheapest_of_all_pairs():
    sizes = np.array([[64, 96]] * 5 + [[96, 64]] * 2 + [[64, 160]] * 3 + [[128, 64]] * 4)
    groups = [np.array(group) for group in ([[64, 96]] * 5, [[96, 64]] * 2, [[64, 160]] * 3, [[128, 64]] * 4)]

    def padded(parts):
        return sum(len(part) * part.max(0).prod() for part in parts)

    costs = {}
    for a, b in itertools.combinations(range(4), 2):
        rest = [groups[i] for i in range(4) if i not in (a, b)]
        costs[a, b] = padded([*rest, np.concatenate([groups[a], groups[b]])])
    canvases = choose_canvases(sizes, limit=3)
    chosen = np.array(canvases)[assign_canvas(sizes, canvases)]
    assert chosen.prod(1).sum() == min(costs.values())


def test_thousands_of_distinct_sizes():
    random = np.random.default_rng(0)
    originals = random.integers(50, 6000, (20000, 2))
    canvas_of_image, canvases = group_by_canvas(originals, 800, 1333)
    assert len(canvases) == 3
    assert len(canvas_of_image) == 20000


def test_a_picture_too_large_for_any_canvas_goes_where_it_shrinks_least():
    assert assign_canvas(np.array([[100, 400]]), [(64, 64), (64, 128), (128, 64)]).tolist() == [1]


def test_resize_equals_pillow_within_rounding():
    array = (np.random.default_rng(0).random((40, 60, 3)) * 255).astype(np.uint8)
    image = torch.from_numpy(array).permute(2, 0, 1)
    for height, width in ((20, 30), (80, 100), (13, 90)):
        expected = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))
        found = resize_image(image, (height, width)).permute(1, 2, 0).numpy()
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_resize_is_the_same_for_both_memory_layouts_and_returns_interleaved_pixels():
    image = torch.randint(0, 256, (3, 33, 47), dtype=torch.uint8)
    interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(resize_image(image, (50, 71)), resize_image(interleaved, (50, 71)))
    assert resize_image(image, (50, 71)).stride(0) == 1


def test_place_on_canvas_pads_at_the_right_and_bottom():
    image = torch.full((3, 5, 7), 9, dtype=torch.uint8)
    placed = place_on_canvas(image, (32, 64))
    assert placed.shape == (3, 32, 64)
    assert torch.equal(placed[:, :5, :7], image)
    assert placed.sum() == image.sum()
    assert placed.stride() == (1, 64 * 3, 3)


@given(sides, sides, st.lists(st.floats(0, 1), min_size=8, max_size=8))
@settings(max_examples=30, deadline=None)
def test_boxes_come_back_from_the_canvas(height, width, corners):
    placed = fit_to_canvas(torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, height, width), 64, 128, (96, 96))
    scale_x, scale_y, offset_x, offset_y = placed.transform
    original = torch.tensor(corners).view(1, 2, 4) * torch.tensor([width, height, width, height])
    on_canvas = original * torch.tensor([scale_x, scale_y] * 2) + torch.tensor([offset_x, offset_y] * 2)
    assert (on_canvas <= torch.tensor([placed.size[1], placed.size[0]] * 2) + 1e-3).all()
    restored = restore_boxes(on_canvas, torch.tensor([placed.transform]))
    torch.testing.assert_close(restored, original, rtol=1e-5, atol=1e-3)


def test_restore_boxes_undoes_each_images_own_transform_and_keeps_padding_rows():
    boxes = torch.tensor([[[0.0, 0, 0, 0], [10, 20, 30, 60]], [[0, 0, 0, 0], [10, 20, 30, 60]]])
    transforms = torch.tensor([[2.0, 4.0, 0.0, 0.0], [1.0, 1.0, -5.0, 10.0]])
    restored = restore_boxes(boxes, transforms)
    assert restored[0].tolist() == [[0, 0, 0, 0], [5, 5, 15, 15]]
    assert restored[1, 1].tolist() == [15, 10, 35, 50]


def test_transform_uses_the_scale_that_rounding_left():
    placed = fit_to_canvas(torch.zeros(3, 3, 1000, dtype=torch.uint8), 64, 100, (32, 128))
    assert placed.size == (1, 100)
    assert placed.transform[:2] == (0.1, 1 / 3)
    assert math.isclose(placed.transform[1] * 3, placed.size[0])
