"""What to set, and which of the measured numbers speak for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from retinanet.config import DataConfig, PostprocessConfig, TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.doctor.coverage import MATCHING, Targets, best_ious, resize_targets
from retinanet.train.length import EPOCHS, STEPS, choose_epochs
from retinanet.words import counted

GAIN = 0.03
"""Share of the boxes that a setting must win to be worth its sentence."""
_TINY = 16  # pixels: two cells of the finest level
_MANY_TINY = 0.1
_ANCHOR_SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_MOST_BOXES = 50_000  # tried with each setting


@dataclass(frozen=True)
class Advice:
    """A sentence, and the options that it asks for."""

    sentence: str
    options: dict[str, str]


def advise(data: CocoData, targets: Targets, config: DataConfig, anchor_scale: float) -> list[Advice]:
    """Nothing where the settings suit the data."""
    if not len(targets.rows):
        return []
    return [
        *_anchor_advice(targets, anchor_scale),
        *_size_advice(data, targets, config),
        *_length_advice(data, config),
        *_crowded_advice(targets),
    ]


def _anchor_advice(targets: Targets, anchor_scale: float) -> Iterator[Advice]:
    some = targets.thinned(_MOST_BOXES)
    shares = {
        scale: (best_ious(some, scale) >= MATCHING.positive_iou).mean() for scale in {*_ANCHOR_SCALES, anchor_scale}
    }
    now = shares[anchor_scale]
    # Of settings that are as good, the one that changes least.
    best = max(shares, key=lambda scale: (round(shares[scale], 2), -abs(math.log(scale / anchor_scale))))
    if shares[best] >= now + GAIN:
        sentence = (
            f"--anchor-scale {best:g}: anchors would then match {shares[best]:.0%} of the boxes at IoU 0.5; with "
            f"{anchor_scale:g} they match {now:.0%}, and the others learn from worse anchors alone."
        )
        yield Advice(sentence, {"--anchor-scale": f"{best:g}"})


def _size_advice(data: CocoData, targets: Targets, config: DataConfig) -> Iterator[Advice]:
    """Larger images, where many boxes shrink to almost nothing and the originals have more to show."""
    tiny = (targets.sides < _TINY).mean()
    shorter = float(np.median(data.sizes.min(1)))
    if tiny < _MANY_TINY or shorter <= config.resize * 1.2:
        return
    size = min(int(shorter), 2 * config.resize) // 32 * 32
    then = (resize_targets(data, size, round(size * config.longest / config.resize)).sides < _TINY).mean()
    if then <= tiny - GAIN:
        sentence = (
            f"--resize {size}: {tiny:.0%} of the boxes are under {_TINY} pixels at --resize {config.resize}, too small "
            f"to be told from background; at {size} it is {then:.0%} (the images' shorter side is {shorter:.0f})."
        )
        yield Advice(sentence, {"--resize": str(size)})


def _length_advice(data: CocoData, config: DataConfig) -> Iterator[Advice]:
    """A smaller batch where the data are very few, and where they are few what does more than epochs."""
    epochs = choose_epochs(TrainConfig(), math.ceil(len(data) / config.batch), fine_tuned=False)
    if epochs == EPOCHS:
        return
    options: dict[str, str] = {}
    if len(data) < 4 * config.batch and config.batch > 1:
        options["--batch"] = str(max(1, 2 ** int(math.log2(max(len(data) / 4, 1)))))
    asked = f"--batch {options['--batch']}: " if options else ""
    sentence = (
        f"{asked}only {counted(len(data), 'image')}: batches of {config.batch} are seen for {epochs} epochs, to make "
        f"{STEPS:,} steps. A model of a larger set learns more from so few: --fine-tune."
    )
    yield Advice(sentence, options)


def _crowded_advice(targets: Targets) -> Iterator[Advice]:
    kept = PostprocessConfig().detections
    counts = np.unique(targets.image_of, return_counts=True)[1]
    if (most := int(counts.max())) > kept:
        more = math.ceil(most * 1.5 / 100) * 100
        sentence = (
            f"--detections {more} for `retinanet infer`: up to {most} objects in an image, more than the "
            f"{kept} that it keeps, in {counted(int((counts > kept).sum()), 'image')}."
        )
        yield Advice(sentence, {"--detections": str(more)})
