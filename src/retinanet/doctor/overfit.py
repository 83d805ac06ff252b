"""Train on one batch for a moment: proof that reading, matching, losses, decoding and suppression work together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from retinanet.boxes import iou
from retinanet.config import DataConfig, PostprocessConfig, TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment
from retinanet.data.sampler import BatchPlan
from retinanet.data.torch_loader import TorchLoader
from retinanet.device import choose_device, tune
from retinanet.doctor.coverage import MATCHING, best_ious, resize_targets
from retinanet.model.checkpoint import create_network, create_record
from retinanet.model.network import RetinaNet
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.preprocess import group_by_canvas
from retinanet.train.assembly import training_step
from retinanet.train.optim import learning_rate
from retinanet.types import Batch, Detections

BACKBONE = "resnet10t"
WIDTH = 64
IMAGES = 2
STEPS = 250
RATE = 3e-3
TRAINING = TrainConfig(lr=RATE, weight_decay=0.0, compile=False)  # the steps would be over before a compiler was
LARGEST = 224
"""Shorter side in pixels that is not exceeded, so that a CPU needs no minute."""
MOST_BOXES = 20
"""In an image, so that a moment is enough."""
FOUND_SCORE = 0.3


@dataclass(frozen=True, eq=False)
class Overfit:
    """How it went."""

    losses: tuple[float, ...]
    """Class and box loss together, of each step."""
    boxes: int
    """Boxes in the batch, crowds apart."""
    found: int
    """Of these, how many are detected afterwards: the class, a score of 0.3 and IoU of 0.5 or more."""
    batch: Batch
    detections: Detections
    """On the batch's canvas."""

    @property
    def learned(self) -> bool:
        """Whether the loss fell to less than half and most boxes are found again."""
        fell = np.mean(self.losses[-5:]) < 0.5 * np.mean(self.losses[:5])
        return bool(fell) and self.found >= 0.7 * self.boxes


def overfit(data: CocoData, usable: list[int], config: DataConfig, anchor_scale: float, seed: int) -> Overfit | None:
    """Train a small network from random weights on two of the `usable` images; None where none has a box.

    Images are shrunk to `LARGEST` pixels, and such are taken whose boxes the anchors match there. Progress goes to
    stderr.
    """
    resize = min(config.resize, LARGEST)
    max_size = round(config.longest * resize / config.resize)
    plan = _OneBatch.choose(data, usable, resize, max_size, anchor_scale, seed)
    if plan is None:
        return None
    batch = next(iter(TorchLoader(data, plan, resize, max_size, Augment(flip=0), seed=seed)))
    assert data.classes is not None
    device = choose_device(None)
    tune(device)
    torch.manual_seed(seed)
    record = create_record(
        data.classes,
        (BACKBONE,),
        width=WIDTH,
        weights="none",
        anchor_scale=anchor_scale,
        resize=resize,
        max_size=max_size,
    )
    network = create_network(record, "none").to(device).to(memory_format=torch.channels_last).train()
    torch.set_flush_denormal(True)  # numbers that dwindle so far make a CPU ten times slower
    losses = _train(network, batch)
    torch.set_flush_denormal(False)
    runtime = TorchRuntime(network, postprocess=PostprocessConfig(), device=device, precision="fp32")
    on_device = batch.to(device)
    detections = Detections(*(column.cpu() for column in runtime(on_device.images, on_device.image_sizes)))
    taught = (batch.labels >= 0) & ~batch.crowd
    return Overfit(losses, int(taught.sum()), int((_found(batch, detections) & taught).sum()), batch, detections)


def _train(network: RetinaNet, batch: Batch) -> tuple[float, ...]:
    step = training_step(network, DataConfig(batch=len(batch.images)), TRAINING)
    losses = []
    console = Console(stderr=True, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for done in progress.track(range(STEPS), description="Learning one batch"):
            result = step(batch, learning_rate(TRAINING, RATE, done, STEPS))
            losses.append(float(result.classification + result.box))
    _settle_norms(network, batch)
    return tuple(losses)


@torch.no_grad()
def _settle_norms(network: RetinaNet, batch: Batch) -> None:
    """Give batch norms this batch's statistics: after so few steps the running ones lag behind the weights."""
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain average
    on_device = batch.to(network.cell_anchors.device)
    network(on_device.images, on_device.image_sizes)


@dataclass(eq=False)
class _OneBatch:
    """A plan of a single batch."""

    canvas: tuple[int, int]
    indices: np.ndarray
    steps_per_epoch: int = 1

    def batch(self, step: int) -> BatchPlan:
        return BatchPlan(self.canvas, self.indices, epoch=0)

    @classmethod
    def choose(
        cls, data: CocoData, usable: list[int], resize: int, max_size: int, anchor_scale: float, seed: int
    ) -> _OneBatch | None:
        """Images of one canvas, where there are such with few boxes that are all matched."""
        targets = resize_targets(data, resize, max_size)
        good = best_ious(targets, anchor_scale) >= MATCHING.positive_iou
        boxes = np.bincount(targets.image_of, minlength=len(data))
        matched = np.bincount(targets.image_of, good, minlength=len(data))
        candidates = np.array([index for index in usable if boxes[index]], np.int64)
        if not len(candidates):
            return None
        fit = matched[candidates] / boxes[candidates] - (boxes[candidates] > MOST_BOXES)
        shuffled = np.random.default_rng(seed).permutation(len(candidates))
        order = candidates[shuffled[np.argsort(-fit[shuffled], kind="stable")]]
        canvas_of_image, canvases = group_by_canvas(data.sizes, resize, max_size)
        canvas = canvas_of_image[order[0]]
        return cls(canvases[canvas], order[canvas_of_image[order] == canvas][:IMAGES])


def _found(batch: Batch, detections: Detections) -> Tensor:
    """bool `[N, K]`, whether each box of the batch is among the detections."""
    overlap = iou(batch.boxes[:, :, None], detections.boxes[:, None])  # [N, K, D]
    good = (overlap >= 0.5) & (detections.scores >= FOUND_SCORE)[:, None]
    return (good & (batch.labels[:, :, None] == detections.labels[:, None])).any(2)
