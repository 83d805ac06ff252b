import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from retinanet.predict import fonts
from retinanet.predict.draw import PALETTE, class_styles, draw_detections

GREY = 100


def grey(height, width):
    return torch.full((3, height, width), GREY, dtype=torch.uint8)


def drawn(boxes, labels=None, scores=None, names=("cat", "dog"), size=(300, 400), **options):
    """The picture `[H, W, 3]` and where it differs from plain grey `[H, W]`."""
    labels = [0] * len(boxes) if labels is None else labels
    pixels = np.asarray(draw_detections(grey(*size), boxes, labels, scores, names, **options)).astype(int)
    return pixels, (pixels != GREY).any(axis=2)


def linear(colour):
    channels = np.array(colour) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def test_frame_runs_around_the_box_and_leaves_its_inside():
    pixels, changed = drawn([[100, 120, 200, 220]])
    colour = list(class_styles(("cat", "dog"))["cat"].colour)
    for y, x in ((170, 99), (170, 200), (119, 150), (220, 150)):
        assert pixels[y, x].tolist() == colour
    assert not changed[122:218, 102:198].any()


def test_label_stands_above_below_at_the_top_and_aside_where_there_is_no_room():
    _, above = drawn([[100, 120, 200, 220]])
    assert above[100:115, 100:120].any()
    _, below = drawn([[100, 0, 200, 100]])
    assert below[104:114, 100:115].all()
    _, aside = drawn([[0, 0, 200, 300]])
    assert aside[0:11, 206:220].all()


def test_labels_keep_off_small_neighbours():
    row = [[x, 100, x + 14, 114] for x in range(60, 340, 40)]
    column = [[200, y, 214, y + 14] for y in (68, 132)]
    _, changed = drawn(row + column, scores=np.linspace(0.9, 0.5, len(row) + len(column)))
    for x1, y1, x2, y2 in row + column:
        assert not changed[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].any()


def test_labels_that_find_no_room_leave_those_of_higher_scores_readable():
    scores = np.linspace(1, 0.1, 100)
    pixels, changed = drawn([[180, 140, 220, 160]] * 100, scores=scores)
    fewer, _ = drawn([[180, 140, 220, 160]] * 20, scores=scores[:20])
    assert (pixels == fewer).all()
    assert changed.mean() < 0.1


def test_what_is_not_drawn():
    boxes = [[10, 10, 90, 90], [10, 10, 90, 90], [math.nan, 10, 90, 90], [10, 10, math.inf, 90]]
    _, changed = drawn(boxes, labels=[0, -1, 0, 0], scores=[0.29, 0.9, 0.9, 0.9], threshold=0.3)
    assert not changed.any()
    assert drawn(boxes[:1], scores=[0.3], threshold=0.3)[1].any()
    assert not drawn([])[1].any()


def test_scores_are_written_and_annotations_have_none():
    _, with_score = drawn([[100, 120, 200, 220]], scores=[0.5])
    _, without = drawn([[100, 120, 200, 220]])
    assert with_score[:118].sum() > 1.5 * without[:118].sum()


def test_input_is_left_alone_and_its_kind_does_not_matter():
    tensor = torch.randint(0, 256, (3, 60, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(tensor.permute(1, 2, 0).numpy())
    before = image.tobytes()
    from_tensor = draw_detections(tensor, torch.tensor([[5.0, 5, 40, 40]]), torch.tensor([0]), None, ["cat"])
    from_image = draw_detections(image, [[5, 5, 40, 40]], [0], None, ["cat"])
    assert from_tensor.tobytes() == from_image.tobytes() != before == image.tobytes()
    assert (from_image.mode, from_image.size) == ("RGB", (80, 60))
    assert draw_detections(image.convert("L"), [[5, 5, 40, 40]], [0], None, ["cat"]).mode == "RGB"


@pytest.mark.parametrize("box", [[0, 0, 400, 300], [-50, -50, 30, 30], [380, 280, 900, 900], [500, 400, 600, 500]])
def test_frame_stays_within_the_picture(box):
    assert drawn([box])[1].any()


corner = st.floats(-1e6, 1e6)
text = st.text(st.characters(exclude_categories=()), max_size=60)  # stray surrogates too


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.lists(st.tuples(st.tuples(corner, corner, corner, corner), text), min_size=1, max_size=4),
)
def test_never_fails(size, rows):
    boxes, names = zip(*rows, strict=True)
    picture = draw_detections(grey(*size), boxes, range(len(boxes)), [0.5] * len(boxes), names)
    assert picture.size == size[::-1]


@pytest.mark.parametrize("name", ["Привет", "سلام", "猫", "🐱", "two\nlines", "", "\udcff", "x" * 500])
def test_names_in_any_script_are_drawn(name):
    assert drawn([[100, 120, 200, 220]], names=[name], scores=[0.5])[1][:110].any()


def test_font_is_the_one_that_has_the_characters(monkeypatch):
    """With no system font Pillow's own does; with one, a text that Pillow's own lacks is drawn by it."""
    fonts._fonts.cache_clear()
    own = ImageFont.load_default(14)
    assert isinstance(own, ImageFont.FreeTypeFont)
    with monkeypatch.context() as patch:
        patch.setattr(fonts, "_FILES", ("no such font.ttf",))
        assert fonts.font_for("猫", 14).getname() == own.getname()
    fonts._fonts.cache_clear()
    if len(fonts._fonts(14)) == 1:
        pytest.skip("no system font")
    assert fonts.font_for("Привет", 14).getname() != own.getname()


def test_styles_are_the_same_in_every_run_and_order():
    styles = class_styles(("circle", "square", "triangle"))
    assert {name: style.colour for name, style in styles.items()} == {
        "circle": (0, 114, 178),
        "square": (213, 94, 0),
        "triangle": (204, 121, 167),
    }
    assert class_styles(("triangle", "circle", "square", "circle")) == styles


def test_styles_are_distinct_and_plain_first():
    names = tuple(f"class {index}" for index in range(21))
    assert len(set(class_styles(names).values())) == 21
    assert all(style.gap == 0 for style in class_styles(names[:7]).values())
    assert len({style.colour for style in class_styles(names[:7]).values()}) == 7
    assert len(class_styles(tuple(f"class {index}" for index in range(1203)))) == 1203


# Machado, Oliveira and Fernandes 2009, severity 1: what people without the red or green cone see, in linear RGB.
COLOUR_VISION = {
    "full": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_palette_is_told_apart_with_any_colour_vision(vision):
    seen = [lab(np.asarray(COLOUR_VISION[vision]) @ linear(colour)) for colour in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 10  # 2.3 is just noticeable


def lab(linear_rgb):
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt((matrix @ linear_rgb.clip(0, 1)) / np.array([0.9505, 1, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("colour", PALETTE)
def test_text_stands_out_from_its_ground(colour):
    name = next(name for name in map(str, range(1000)) if class_styles((name,))[name].colour == colour)
    pixels, _ = drawn([[100, 120, 200, 220]], names=[name], scores=[0.5])
    label = pixels[107:110, 104:130].reshape(-1, 3)  # the middle of the text
    ground = linear(colour) @ [0.2126, 0.7152, 0.0722]
    inks = (linear(label) @ [0.2126, 0.7152, 0.0722]).tolist()
    contrast = max((max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) for ink in inks)
    assert contrast >= 4.5  # WCAG 2, level AA
