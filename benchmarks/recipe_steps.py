"""What each part of a recipe costs: the time of a training step by each set of rules, beside torchvision's, in one run.

    PYTHONPATH=src python benchmarks/recipe_steps.py [--size 512 704] [--batch 16] [--steps 30] [--compile]

The rows are those of accuracy.py, which says what they gain. Images of several sizes are absent: a canvas keeps its
size, so they cost a step nothing. Random weights, 20 classes, batch norm frozen, noise with boxes that lie on the GPU
already; there bf16, channels-last, forward and backward pass as one CUDA graph. Medians of the steps, with the 10th and
90th percentile. Before a row is measured its losses must be finite, and its step must move weights.

Without a GPU, to try the script: --backbone test_resnet --width 16 --size 256 320 --batch 4 --steps 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from contestants import PeersBody
from synthetic import synthetic_batch
from torchvision.models.detection import RetinaNet as TorchvisionsRetinaNet

from retinanet.config import DataConfig, ModelConfig, TrainConfig
from retinanet.device import tune
from retinanet.model.network import RetinaNet
from retinanet.train.assembly import training_step
from retinanet.train.freezing import freeze_stages
from retinanet.train.mosaic import draw_tiles
from retinanet.train.records import new_record
from retinanet.train.step import TrainStep
from retinanet.train.stitch import mean_colour, stitch
from retinanet.types import Batch, ClassMap
from train import DEVICE, forget_peak, peak, seconds_of, torchvisions_step

CLASSES = 20
LEARNING_RATE = 1e-5
BASE = TrainConfig(optimizer="adamw", matching="iou", box_loss="smooth_l1", class_loss="focal", lr=LEARNING_RATE)
ROWS: dict[str, tuple[TrainConfig, ModelConfig]] = {
    "classic": (TrainConfig(recipe="classic", lr=LEARNING_RATE), ModelConfig()),
    "base": (BASE, ModelConfig()),
    "base, GIoU": (replace(BASE, box_loss="giou"), ModelConfig()),
    "modern: base, GIoU, quality": (TrainConfig(recipe="modern", lr=LEARNING_RATE), ModelConfig()),
    "base, ATSS": (replace(BASE, matching="atss"), ModelConfig()),
    "base, ATSS, GIoU, quality": (
        replace(BASE, matching="atss", box_loss="giou", class_loss="quality"),
        ModelConfig(),
    ),
    "base, EMA": (replace(BASE, ema=0.9998), ModelConfig()),
    "base, mosaic in every batch": (replace(BASE, mosaic=1.0), ModelConfig()),
    "base, all of the backbone learns": (BASE, ModelConfig(freeze=0)),
    "base, live batch norm": (BASE, ModelConfig(norm="live")),
}


def ours(batch: Batch, train: TrainConfig, model: ModelConfig) -> Callable[[], object]:
    """A step of `retinanet train`, which has proved to learn."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    classes = ClassMap(tuple(range(1, CLASSES + 1)), tuple(map(str, range(CLASSES))))
    data = DataConfig(resize=min(batch.images.shape[-2:]), batch=len(batch.images))
    network = RetinaNet(new_record(classes, model, data, train))
    network = network.to(DEVICE).to(memory_format=torch.channels_last).train()
    freeze_stages(network, model)
    step = training_step(network, data, train)
    check(step, batch)
    if not train.mosaic:
        return lambda: step(batch, LEARNING_RATE)
    colour, slots = mean_colour(network.record), 4 * batch.labels.shape[1]
    random = np.random.default_rng(0)
    return lambda: step(stitch(batch, draw_tiles(batch.image_ids.numpy(), random), slots, colour), LEARNING_RATE)


def check(step: TrainStep, batch: Batch) -> None:
    before = [parameter.detach().clone() for parameter in step.parameters]
    losses = step(batch, LEARNING_RATE)
    assert torch.isfinite(losses.classification + losses.box), f"the losses are {losses}"
    assert any((old != new).any() for old, new in zip(before, step.parameters, strict=True)), "weights did not move"


def torchvisions(batch: Batch, name: str, width: int) -> Callable[[], object]:
    height, breadth = batch.images.shape[-2:]
    sizes = {"min_size": min(height, breadth), "max_size": max(height, breadth)}
    return torchvisions_step(TorchvisionsRetinaNet(PeersBody(name, width), CLASSES, **sizes), batch)


def measure(name: str, make: Callable[[], Callable[[], object]], count: int, steps: int) -> None:
    forget_peak()
    began = time.perf_counter()
    step = make()
    for _ in range(5):
        step()
    ready = time.perf_counter() - began
    seconds = sorted(seconds_of(step) for _ in range(steps))
    low, median, high = (1e3 * seconds[round(q * (steps - 1))] for q in (0.1, 0.5, 0.9))
    cells = (f"{median:.1f} ({low:.1f}–{high:.1f})", f"{1e3 * count / median:.0f}", f"{peak():.1f} GiB")
    print(f"| {name} | {' | '.join(cells)} | {ready:.0f} s |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 704))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="our blocks")
    options = parser.parse_args()
    tune(DEVICE)
    where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU: a trial of this script"
    print(f"{where}, PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}, batch {options.batch}, {options.size}\n")
    print("| | ms | images/s | peak memory | ready after |\n|---|---|---|---|---|", flush=True)
    batch = synthetic_batch(options.batch, *options.size, DEVICE, classes=CLASSES)
    peers = partial(torchvisions, batch, options.backbone, options.width)
    measure("torchvision", peers, options.batch, options.steps)
    for name, (train, model) in ROWS.items():
        train = replace(train, compile=options.compile)
        model = replace(model, backbone=(options.backbone,), width=options.width)
        measure(name, partial(ours, batch, train, model), options.batch, options.steps)


if __name__ == "__main__":
    main()
