"""Colour matrices: what torchvision and DALI make of the same factors, greys that stay grey, draws of a whole range."""

import itertools

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from retinanet.config import DataConfig
from retinanet.data.colour import IDENTITY, MOST_HUE, STEP, colour_matrix, draw_colours
from retinanet.errors import UsageError
from retinanet.ops.recolour import recolour_

ROUNDED = 3 * 255 * STEP / 2 + 0.5
"""How far rounding three coefficients and then a pixel may take a value."""


def draw_picture():
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, 40, 50), generator=random, dtype=torch.uint8)


def recoloured(image, *values):
    image = image.clone()
    recolour_(image, torch.tensor([image.shape[2:]]), torch.from_numpy(colour_matrix(*values))[None])
    return image


def assert_near(found, expected, tolerance):
    assert (found.double() - expected.double().clamp(0, 255)).abs().max() <= tolerance


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.7])
def test_brightness_and_saturation_are_torchvisions(factor):
    image = draw_picture()
    real = image.double() / 255
    assert_near(recoloured(image, factor, 1, 1, 0), 255 * functional.adjust_brightness(real, factor), ROUNDED)
    # torchvision's grey has 0.2989 red for 0.299.
    expected = 255 * functional.adjust_saturation(real, factor)
    assert_near(recoloured(image, 1, 1, factor, 0), expected, ROUNDED + 255 * 0.0001 * abs(1 - factor))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.7])
def test_contrast_is_torchvisions_where_the_mean_is_middle_grey(factor):
    """torchvision's is around the picture's mean, which a negative beside it makes 128."""
    image = draw_picture()
    both = torch.cat([image.double(), 256 - image.double()], dim=-1)
    expected = 255 * functional.adjust_contrast(both / 255, factor)
    # The weights of torchvision's grey add up to 0.9999.
    assert_near(recoloured(image, 1, factor, 1, 0), expected[..., : image.shape[-1]], ROUNDED + 0.013)


@pytest.mark.parametrize("hue", [-45, 10, 180])
def test_hue_turns_the_chroma_and_nothing_else(hue):
    """By the angle asked for, in YIQ: its luma and the length of its chroma stay."""
    pixels = torch.tensor([[120, 130, 125], [140, 120, 130], [128, 128, 150]], dtype=torch.uint8)
    found = recoloured(pixels.T[None, :, :, None], 1, 1, 1, hue)[0, :, :, 0].T
    for before, after in zip(pixels.double(), found.double(), strict=True):
        y, i, q = to_yiq(before)
        turned = (i + 1j * q) * np.exp(-1j * np.deg2rad(hue))
        assert abs(to_yiq(after)[0] - y) < 1
        assert abs(complex(*to_yiq(after)[1:]) - turned) < 1.5


def to_yiq(rgb):
    """The FCC's definition of 1953."""
    r, g, b = rgb.tolist()
    return (
        0.299 * r + 0.587 * g + 0.114 * b,
        0.5959 * r - 0.2746 * g - 0.3213 * b,
        0.2115 * r - 0.5227 * g + 0.3112 * b,
    )


@pytest.mark.parametrize("values", [(1.3, 1, 1, 0), (1, 0.5, 1, 0), (1, 1, 1.6, 0), (1, 1, 1, 40), (0.7, 1.4, 1.3, 9)])
def test_all_together_are_dalis_color_twist(values):
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import Pipeline, fn, types

    image = draw_picture()
    brightness, contrast, saturation, hue = values
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        pixels = fn.external_source(lambda: [image[0].permute(1, 2, 0).contiguous().numpy()], layout="HWC")
        twisted = fn.color_twist(
            pixels, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, dtype=types.FLOAT
        )
        pipeline.set_outputs(twisted)
    pipeline.build()
    expected = torch.from_numpy(np.array(pipeline.run()[0].as_array())).permute(0, 3, 1, 2)
    # DALI's YIQ has three digits, which moves a grey by 0.5.
    assert_near(recoloured(image, *values), expected, 1 + ROUNDED)


def test_greys_stay_greys():
    greys = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256).contiguous()
    for seed in range(300):
        image = greys.clone()
        matrix = torch.from_numpy(draw_colours(1.0, np.random.default_rng(seed)))[None]
        recolour_(image, torch.tensor([[1, 256]]), matrix)
        assert torch.equal(image[:, 0], image[:, 1])
        assert torch.equal(image[:, 0], image[:, 2])


def test_strength_0_and_factors_1_change_nothing():
    for seed in range(10):
        np.testing.assert_array_equal(draw_colours(0.0, np.random.default_rng(seed)), IDENTITY)
    assert torch.equal(recoloured(draw_picture(), 1, 1, 1, 0), draw_picture())


def test_draws_span_the_ranges_of_their_strength():
    """Found again in the matrix: offset and row sum tell brightness and contrast, red and blue the rest."""
    drawn = []
    for seed in range(400):
        matrix = draw_colours(0.4, np.random.default_rng(seed)).astype(float)
        gain = matrix[0, :3].sum()
        brightness = matrix[0, 3] / 128 + gain
        chroma = [to_yiq(torch.tensor(matrix[:, channel] / gain)) for channel in (0, 2)]
        # Of a unit of red, I + iQ was 0.5959 + 0.2115i.
        turned = complex(*chroma[0][1:]) / complex(0.5959, 0.2115)
        drawn.append((brightness, gain / brightness, abs(turned), -np.rad2deg(np.angle(turned))))
    middle, reach = np.array([1, 1, 1, 0]), np.array([0.4, 0.4, 0.4, 0.4 * MOST_HUE])
    found = (np.array(drawn) - middle) / reach
    assert (np.abs(found) < 1.01).all()
    assert (found.min(0) < -0.97).all()
    assert (found.max(0) > 0.97).all()
    assert np.abs(found.mean(0)).max() < 0.15
    assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.2


def test_every_matrix_can_be_applied_exactly():
    """As `ops.recolour` asks for: multiples of 1/2048, of sums that float32 holds."""
    corners = itertools.product((0, 2), (0, 2), (0, 1, 2), np.linspace(-MOST_HUE, MOST_HUE, 31))
    drawn = [draw_colours(1.0, np.random.default_rng(seed)) for seed in range(300)]
    for matrix in [*drawn, *itertools.starmap(colour_matrix, corners)]:
        assert matrix.dtype == np.float32
        assert not (matrix.astype(float) / STEP % 1).any()
        assert (255 * np.abs(matrix[:, :3]).sum(1) + np.abs(matrix[:, 3]) < 8191).all()


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(UsageError, match="--colour-jitter is a strength from 0 to 1, but is"):
        DataConfig(colour_jitter=strength)
