"""A small made-up data set in COCO's format: coloured shapes on textured backgrounds. For the demo and the tests.

    python -m retinanet.data.synthetic OUT --train 400 --val 100 --size 160 --seed 0

writes OUT/train/, OUT/train.json, OUT/val/ and OUT/val.json. The same arguments give the same pictures.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

CATEGORIES = {3: "disc", 17: "rectangle", 44: "triangle"}
"""Id → name. The ids have gaps, as those of real files do."""

MAX_SHAPES = 5
EXTENT = (0.15, 0.5)
"""A shape's longer side as a part of the picture's shorter one."""
MIN_VISIBLE = 1 / 3
"""No shape is covered so far that less than this part of it is left in sight."""


class _Shape(NamedTuple):
    category: int
    seen: np.ndarray
    """bool `[H, W]`: the pixels that show it."""
    area: int
    """Its pixels, the covered ones too."""


def make_dataset(
    folder: Path, images: int, size: int, seed: int, *, aspects: Sequence[float] = (1.0,), empty: float = 0.1
) -> Path:
    """Write `images` JPEG files into `folder` and their annotations beside it; returns the annotations' path.

    `size` is the shorter side in pixels; `aspects` (width / height) are used in turn; about the part `empty` of the
    pictures holds no shape. A box bounds what is seen of its shape; `area` counts those pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    annotations: list[dict] = []
    for index in range(images):
        random = np.random.default_rng([seed, index, *folder.name.encode()])
        aspect = aspects[index % len(aspects)]
        height, width = round(size / min(aspect, 1)), round(size * max(aspect, 1))
        count = 0 if random.random() < empty else int(random.integers(1, MAX_SHAPES, endpoint=True))
        pixels, shapes = _picture(random, height, width, count)
        name = f"{index:05d}.jpg"
        Image.fromarray(pixels).save(folder / name, quality=92)
        records.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for shape in shapes:
            numbers = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": shape.category, "iscrowd": 0}
            annotations.append({**numbers, "bbox": _bounds(shape.seen), "area": int(shape.seen.sum())})
    path = folder.with_name(folder.name + ".json")
    categories = [{"id": category, "name": name} for category, name in CATEGORIES.items()]
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return path


def _picture(random: np.random.Generator, height: int, width: int, count: int) -> tuple[np.ndarray, list[_Shape]]:
    """uint8 `[H, W, 3]` with at most `count` shapes, later ones in front."""
    pixels = _background(random, height, width)
    shapes: list[_Shape] = []
    for _ in range(count):
        category = int(random.choice(list(CATEGORIES)))
        mask = _mask(random, height, width, category)
        behind = [shape._replace(seen=shape.seen & ~mask) for shape in shapes]
        if any(shape.seen.sum() < MIN_VISIBLE * shape.area for shape in behind):
            continue
        shapes = [*behind, _Shape(category, mask, int(mask.sum()))]
        hue, saturation, value = random.random(), random.uniform(0.5, 1), random.uniform(0.4, 1)
        pixels[mask] = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value)) + 0.25 * (pixels[mask] - 128)
    pixels += random.normal(0, 6, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8), shapes


def _background(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Float `[H, W, 3]`: clouds of dull colours, and stripes."""
    clouds = np.full((height, width, 3), random.uniform(70, 180))
    for cells, strength in ((4, 25), (16, 12)):
        coarse = random.normal(0, strength, (3, cells, cells)).astype(np.float32)
        layers = [Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC) for layer in coarse]
        clouds += np.stack([np.asarray(layer) for layer in layers], axis=-1)
    angle, wavelength = random.uniform(0, math.pi), random.uniform(0.05, 0.3) * min(height, width)
    y, x = np.mgrid[:height, :width]
    stripes = np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / wavelength)
    clouds += random.uniform(0, 15) * stripes[..., None]
    return clouds


def _mask(random: np.random.Generator, height: int, width: int, category: int) -> np.ndarray:
    """bool `[H, W]`: a shape of the category, wholly within the picture."""
    long = random.uniform(*EXTENT) * min(height, width)
    short = long * random.uniform(0.6, 1)
    name = CATEGORIES[category]
    wide, tall = (long, long) if name == "disc" else ((long, short) if random.random() < 0.5 else (short, long))
    left, top = random.uniform(0, width - 1 - wide), random.uniform(0, height - 1 - tall)
    right, bottom = left + wide, top + tall
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    if name == "disc":
        draw.ellipse((left, top, right, bottom), fill=1)
    elif name == "rectangle":
        draw.rectangle((left, top, right, bottom), fill=1)
    else:
        apex = left + random.uniform(0.3, 0.7) * wide
        draw.polygon(((apex, top), (right, bottom), (left, bottom)), fill=1)
    return np.array(canvas)


def _bounds(mask: np.ndarray) -> list[int]:
    """COCO's x, y, width, height around the true pixels of `[H, W]`."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def main() -> None:
    """Write a training and a validation set."""
    parser = argparse.ArgumentParser(prog="python -m retinanet.data.synthetic", description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=400, help="images for training")
    parser.add_argument("--val", type=int, default=100, help="images for validation")
    parser.add_argument("--size", type=int, default=160, help="the pictures' side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name, images in (("train", options.train), ("val", options.val)):
        print(make_dataset(options.out / name, images, options.size, options.seed))


if __name__ == "__main__":
    main()
