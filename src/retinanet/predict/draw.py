"""Boxes, class names and scores drawn into a picture."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from retinanet.predict.fonts import font_for

Colour = tuple[int, int, int]
Box = NDArray[np.float64]

# Okabe and Ito's palette without black (https://jfly.uni-koeln.de/color): told apart with any colour vision.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# Lengths of dash and gap in line widths. More classes than colours are told apart by these.
_PATTERNS = ((1, 0), (6, 3), (2, 2))
_CASING = (0, 0, 0)
_LONGEST_NAME = 40
_LABEL_WEIGHT = 10  # hiding another label is so much worse than hiding an object
_MOST_HIDDEN = 0.5  # of another label


class Style(NamedTuple):
    """How the boxes of a class are drawn."""

    colour: Colour
    dash: int
    gap: int


@functools.lru_cache(maxsize=16)
def class_styles(names: tuple[str, ...]) -> dict[str, Style]:
    """A style for each name: the same in every run, distinct for up to 21 classes, and plain lines for the first 7.

    A name's checksum says where in the palette the search for the least used colour begins, so a class mostly keeps
    its colour when others come or go.
    """
    uses = [0] * len(PALETTE)
    styles = {}
    for name in sorted(set(names)):
        start = zlib.crc32(name.encode("utf-8", "surrogatepass")) % len(PALETTE)
        order = [*range(start, len(PALETTE)), *range(start)]
        chosen = min(order, key=uses.__getitem__)
        styles[name] = Style(PALETTE[chosen], *_PATTERNS[uses[chosen] % len(_PATTERNS)])
        uses[chosen] += 1
    return styles


def draw_detections(
    image: Image.Image | Tensor,
    boxes: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike | None,
    names: Sequence[str],
    threshold: float = 0.0,
) -> Image.Image:
    """A copy of the picture with its boxes, each with class name and score.

    Lines run around the boxes, outside of them. A label stands where it hides least, first of all above its box, and
    is left out where it would hide half of another label; those of high scores come first.

    Args:
        image: a Pillow image, or uint8 RGB `[3, H, W]`.
        boxes: `[D, 4]` corners in pixels of this image; rows that are not finite are skipped.
        labels: `[D]` class index 0…C-1; rows of -1 (unused) are skipped.
        scores: `[D]`, 0…1; None for annotations.
        names: C class names in any script.
        threshold: lowest score that is drawn.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    picture = picture.convert("RGB")  # always a copy
    corners, classes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(labels, dtype=np.int64)
    certainty = np.ones(len(corners)) if scores is None else np.asarray(scores, dtype=np.float64)
    shown = np.isfinite(corners).all(axis=1) & (classes >= 0) & (certainty >= threshold)
    rows = np.flatnonzero(shown)[np.argsort(-certainty[shown], kind="stable")]

    styles = class_styles(tuple(names))
    canvas = ImageDraw.Draw(picture)
    for row in rows[::-1]:
        _draw_frame(canvas, corners[row], styles[names[classes[row]]])
    taken: list[Box] = []
    for row in rows:
        name = names[classes[row]]
        text = _clean(name) if scores is None else f"{_clean(name)} {certainty[row]:.2f}"
        _draw_label(canvas, text, corners[row], corners[rows], taken, styles[name])
    return picture


def _draw_frame(canvas: ImageDraw.ImageDraw, box: Box, style: Style) -> None:
    """A coloured frame on a black one that is a little wider, so that it shows on any ground."""
    picture = np.array(canvas.im.size)
    line = _line_width(picture)
    casing = _casing(line)
    # Columns and rows of the coloured frame's outermost pixels: around the box, but inside the picture.
    first = np.clip(box[:2].round() - line, casing, picture - 1 - casing)
    last = np.clip(box[2:].round() - 1 + line, first, picture - 1 - casing)
    left, top, right, bottom = (int(value) for value in (*first, *last))
    outer = (left - casing, top - casing, right + casing, bottom + casing)
    canvas.rectangle(outer, outline=_CASING, width=line + 2 * casing)
    dash, step = style.dash * line, (style.dash + style.gap) * line
    if style.gap == 0:
        canvas.rectangle((left, top, right, bottom), outline=style.colour, width=line)
        return
    for x in range(left, right + 1, step):
        for y in (top, bottom - line + 1):
            canvas.rectangle((x, y, min(x + dash - 1, right), y + line - 1), fill=style.colour)
    for y in range(top, bottom + 1, step):
        for x in (left, right - line + 1):
            canvas.rectangle((x, y, x + line - 1, min(y + dash - 1, bottom)), fill=style.colour)


def _draw_label(canvas: ImageDraw.ImageDraw, text: str, box: Box, boxes: Box, taken: list[Box], style: Style) -> None:
    """Write `text` where it hides least of `boxes` and of the labels at `taken`, and add its place to them."""
    picture = np.array(canvas.im.size)
    font = font_for(text, max(10, round(picture.max() / 55)))
    line = _line_width(picture)
    margin = line + 1
    ink = font.getbbox(text)
    size = np.array([ink[2] - ink[0], ink[3] - ink[1]]) + 2 * margin
    places = _places(box, size, picture, line + _casing(line))
    hidden_labels = _hidden(places, np.array(taken).reshape(-1, 4)).max(axis=1, initial=0)
    hidden_boxes = _hidden(places, boxes).sum(axis=1)
    best = np.argmin(_LABEL_WEIGHT * hidden_labels + hidden_boxes)
    if hidden_labels[best] > _MOST_HIDDEN:
        return
    taken.append(places[best])
    left, top, right, bottom = places[best].tolist()
    canvas.rectangle((left, top, right - 1, bottom - 1), fill=style.colour, outline=_CASING)
    black_or_white = (0, 0, 0) if _luminance(style.colour) > 0.179 else (255, 255, 255)
    canvas.text((left + margin - ink[0], top + margin - ink[1]), text, fill=black_or_white, font=font)


def _places(box: Box, size: Box, picture: Box, gap: int) -> Box:
    """Where a label of `size` can stand, in order of preference: `[8, 4]` whole pixels, moved into the picture."""
    x1, y1, x2, y2 = box
    width, height = size
    above, below, left, right = y1 - gap - height, y2 + gap, x1 - gap, x2 + gap - width
    corners = np.array(
        [
            *[(left, above), (right, above), (left, below), (right, below)],
            *[(x2 + gap, y1), (x1 - gap - width, y1), (x1, y1), (x1, y2 - height)],
        ]
    )
    corners = np.clip(corners.round(), 0, np.maximum(picture - size, 0))
    return np.concatenate([corners, corners + size], axis=1)


def _hidden(places: Box, others: Box) -> Box:
    """What fraction of each of `others` `[K, 4]` each of `places` `[P, 4]` covers, `[P, K]`."""
    top_left = np.maximum(places[:, None, :2], others[:, :2])
    bottom_right = np.minimum(places[:, None, 2:], others[:, 2:])
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    fractions: Box = (bottom_right - top_left).clip(min=0).prod(axis=2) / np.maximum(areas, 1)
    return fractions


def _luminance(colour: Colour) -> float:
    """Relative luminance, 0…1 (WCAG 2); black text has the higher contrast from 0.179 on."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _line_width(picture: Box) -> int:
    return max(2, round(int(picture.max()) / 400))


def _casing(line: int) -> int:
    return math.ceil(line / 3)


def _clean(name: str) -> str:
    """One line that Pillow can draw: without line breaks and stray surrogates, no longer than a label should be."""
    line = " ".join(name.encode("utf-8", "replace").decode().split())
    return line if len(line) <= _LONGEST_NAME else line[: _LONGEST_NAME - 1] + "…"
