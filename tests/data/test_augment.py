"""Random views: pure in their seed, boxes that stay on their objects, and nothing at all when switched off."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.data.augment import MIN_VISIBLE, Augment, draw_view
from retinanet.data.augment import place_boxes as place_boxes_of_views
from retinanet.data.views import show
from retinanet.preprocess import Placed, fit_to_canvas, restore_boxes

OFF = Augment(flip=0.0, jitter=None)


def random_image(height=45, width=70):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def view(image, augment, seed=0, canvas=(64, 96), resize=60, max_size=96):
    size = (image.shape[1], image.shape[2])
    drawn = draw_view(size, canvas, resize, max_size, augment, np.random.default_rng(seed))
    shown = torch.full((3, *canvas), 99, dtype=torch.uint8)
    show(image, drawn, shown)
    return Placed(shown, drawn.size, drawn.transform)


def place_boxes(corners, placed):
    return place_boxes_of_views(corners, np.array(placed.transform), np.array(placed.size))


@pytest.mark.parametrize("size", [(45, 70), (70, 45), (1, 1), (3, 500)])
@pytest.mark.parametrize("jitter", [None, (60, 60)])
def test_switched_off_it_equals_prediction(size, jitter):
    image = random_image(*size)
    expected = fit_to_canvas(image, 60, 96, (64, 96))
    found = view(image, Augment(flip=0.0, jitter=jitter))
    assert torch.equal(found.image, expected.image)
    assert found[1:] == expected[1:]


def test_equal_seeds_give_equal_views_and_others_differ():
    image, augment = random_image(), Augment(0.5, (40, 100))
    views = [view(image, augment, seed) for seed in range(8)]
    again = [view(image, augment, seed) for seed in range(8)]
    assert all(torch.equal(a.image, b.image) and a[1:] == b[1:] for a, b in zip(views, again, strict=True))
    assert len({placed.transform for placed in views}) > 4


def test_flip_mirrors_the_picture():
    image = random_image()
    plain, flipped = view(image, OFF), view(image, Augment(flip=1.0))
    height, width = plain.size
    assert torch.equal(flipped.image[:, :height, :width], plain.image[:, :height, :width].flip(2))
    assert not flipped.image[:, :, width:].any()


def test_flip_happens_as_often_as_asked():
    flips = [view(random_image(4, 4), Augment(flip=0.3), seed).transform[0] < 0 for seed in range(400)]
    assert 80 < sum(flips) < 160


def test_jitter_draws_from_the_whole_range_and_crops_to_the_canvas():
    placed = [view(random_image(), Augment(0.0, (30, 90)), seed) for seed in range(200)]
    scales = [one.transform[1] * 45 for one in placed]
    assert min(scales) < 34
    assert max(scales) > 86
    for one in placed:
        scaled = (round(one.transform[1] * 45), round(one.transform[0] * 70))
        assert one.size == (min(scaled[0], 64), min(scaled[1], 96))
        _, _, offset_x, offset_y = one.transform
        assert one.size[1] - scaled[1] <= offset_x <= 0
        assert one.size[0] - scaled[0] <= offset_y <= 0
    assert len({one.transform[2:] for one in placed}) > 50


@given(st.integers(0, 10_000), st.integers(20, 60), st.integers(20, 60))
@settings(deadline=None, max_examples=60)
def test_boxes_stay_on_their_object(seed, height, width):
    """A bright rectangle is found in the pixels where its box says."""
    random = np.random.default_rng(seed)
    top, left = random.integers(0, height - 8), random.integers(0, width - 8)
    bottom, right = random.integers(top + 6, height), random.integers(left + 6, width)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, top:bottom, left:right] = 255
    placed = view(image, Augment(0.5, (40, 120)), seed)
    boxes, keep = place_boxes(np.array([[left, top, right, bottom]], np.float32), placed)
    bright = placed.image[0] > 127
    if not keep[0]:
        scaled_area = (right - left) * (bottom - top) * abs(placed.transform[0]) * placed.transform[1]
        assert bright.sum() <= MIN_VISIBLE * scaled_area + bright.any(0).sum() + bright.any(1).sum()
        return
    rows, columns = torch.nonzero(bright.any(1))[:, 0], torch.nonzero(bright.any(0))[:, 0]
    if not len(rows):  # a sliver thinner than half a pixel
        assert (boxes[0, 2:] - boxes[0, :2]).min() < 1
        return
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(boxes[0], np.array(found), atol=1.01)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=50)
def test_the_transform_leads_back(seed):
    random = np.random.default_rng(seed)
    image = torch.zeros(3, *random.integers(20, 90, 2).tolist(), dtype=torch.uint8)
    placed = view(image, Augment(0.5, (40, 120)), seed)
    # A box within sight, in original pixels.
    seen = random.random(4).reshape(2, 2) * [placed.size[1], placed.size[0]]
    corners = np.sort((seen - placed.transform[2:]) / placed.transform[:2], axis=0).reshape(1, 4)
    boxes, keep = place_boxes(corners, placed)
    assert keep.all()
    back = restore_boxes(torch.from_numpy(boxes)[None], torch.tensor([placed.transform]))[0].numpy()
    back = np.sort(back.reshape(2, 2), axis=0).reshape(1, 4)  # a flip swaps left and right
    np.testing.assert_allclose(back, corners, atol=1e-3)


def test_a_box_is_dropped_when_less_than_a_tenth_is_in_sight():
    placed = Placed(torch.empty(0), (50, 100), (1.0, 1.0, 0.0, -10.0))
    corners = np.array([[0, 0, 10, 11], [0, 0, 10, 11.2], [95, 20, 144, 30], [95, 20, 146, 30], [200, 20, 210, 30]])
    boxes, keep = place_boxes(corners.astype(np.float32), placed)
    assert keep.tolist() == [False, True, True, False, False]
    np.testing.assert_allclose(boxes, [[0, 0, 10, 1.2], [95, 10, 100, 20]], rtol=1e-5)
    assert boxes.dtype == np.float32


def test_no_boxes():
    boxes, keep = place_boxes(np.empty((0, 4), np.float32), view(random_image(), Augment()))
    assert boxes.shape == (0, 4)
    assert keep.shape == (0,)


def test_boxes_of_several_views_are_placed_as_those_of_each():
    random = np.random.default_rng(0)
    views = [view(random_image(), Augment(0.5, (40, 120)), seed) for seed in range(20)]
    corners = np.sort(random.random((20, 5, 2, 2)) * [70, 45], axis=2).reshape(20, 5, 4).astype(np.float32)
    apart = [place_boxes(of_view, placed) for of_view, placed in zip(corners, views, strict=True)]
    transforms, sizes = np.array([one.transform for one in views]), np.array([one.size for one in views])
    boxes, keep = place_boxes_of_views(corners.reshape(-1, 4), transforms.repeat(5, 0), sizes.repeat(5, 0))
    assert not keep.all()
    np.testing.assert_array_equal(keep, np.concatenate([kept for _, kept in apart]))
    np.testing.assert_array_equal(boxes, np.concatenate([placed for placed, _ in apart]))
