"""Random colours of a training picture: brightness, contrast, saturation and hue as one affine matrix.

Contrast is around a constant grey, as DALI has it, and not around the picture's mean: so matrices are made without
looking at pixels, and what a pixel becomes doesn't depend on how the picture was cropped.
"""

from __future__ import annotations

import math

import numpy as np

MIDDLE_GREY = 128.0
"""The grey that contrast leaves as it is, DALI's."""
MOST_HUE = 45.0
"""Degrees of hue at strength 1; at 0.4 they are the 18 of SSD's photometric distortion (Liu et al. 2016)."""
STEP = 1 / 2048
"""Coefficients are multiples of it, so that they are applied exactly (see `ops.recolour`)."""

_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
IDENTITY = np.eye(3, 4, dtype=np.float32)


def draw_colours(strength: float, random: np.random.Generator) -> np.ndarray:
    """A `colour_matrix` of a strength from 0 to 1.

    Factors of brightness, contrast and saturation are uniform in 1 ± strength, the hue in ± 45° times strength.
    """
    brightness, contrast, saturation, hue = (strength * random.uniform(-1, 1, 4)).tolist()
    return colour_matrix(1 + brightness, 1 + contrast, 1 + saturation, MOST_HUE * hue)


def colour_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """float32 `[3, 4]`, which takes (r, g, b, 1), 0…255, to the new r, g, b; in order and meaning DALI's color_twist.

    Saturation scales the chroma of YIQ and `hue`, in degrees, turns it; contrast scales the distance to middle grey,
    brightness everything. Greys stay greys, exactly.
    """
    sine, cosine = saturation * math.sin(math.radians(hue)), saturation * math.cos(math.radians(hue))
    chroma = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
    matrix = np.empty((3, 4))
    matrix[:, :3] = brightness * contrast * (_FROM_YIQ @ chroma @ _TO_YIQ)
    matrix[:, 3] = brightness * MIDDLE_GREY * (1 - contrast)
    matrix = np.round(matrix / STEP) * STEP
    # The channels of a grey must be one number, so the rows must have one sum, after rounding too.
    matrix[:, 1] = np.round(brightness * contrast / STEP) * STEP - matrix[:, 0] - matrix[:, 2]
    return matrix.astype(np.float32)
