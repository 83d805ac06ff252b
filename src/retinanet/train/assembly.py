"""The parts of a training, made from its options: the plan of its batches, their loader, its step."""

from __future__ import annotations

import math

import torch

from retinanet.config import DataConfig, TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment
from retinanet.data.loader import Loader
from retinanet.data.loading import make_loader
from retinanet.data.sampler import TrainPlan
from retinanet.device import choose_precision, choose_workers
from retinanet.model.compiling import COMPILING_PAYS_FROM, compile_blocks
from retinanet.model.criterion import Criterion
from retinanet.model.network import RetinaNet
from retinanet.ops.backend import kernels_available
from retinanet.preprocess import group_by_canvas
from retinanet.train.average import WeightAverage
from retinanet.train.distributed import rank, world_size
from retinanet.train.optim import build_optimizer, clip_norm, peak_rate
from retinanet.train.ranks import local_world_size
from retinanet.train.step import TrainStep


def training_plan(data: CocoData, config: DataConfig, seed: int) -> TrainPlan:
    """Canvases chosen from the data's sizes, and who is in which batch."""
    canvas_of_image, canvases = group_by_canvas(data.sizes, config.resize, config.longest)
    return TrainPlan(canvas_of_image, canvases, config.batch, seed)


def training_loader(
    data: CocoData,
    plan: TrainPlan,
    config: DataConfig,
    train: TrainConfig,
    device: torch.device,
    *,
    start_step: int,
    total_steps: int,
) -> Loader:
    """This rank's share of the batches from `start_step` to the last."""
    return make_loader(
        train.loader,
        device,
        data,
        plan,
        config.resize,
        config.longest,
        Augment(config.flip, config.shorter_sides(train.chosen), config.colour_jitter),
        workers=choose_workers(config.workers, sharing=local_world_size()),
        seed=train.seed,
        start_step=start_step,
        total_steps=total_steps,
        rank=rank(),
        world=world_size(),
    )


def training_step(network: RetinaNet, data: DataConfig, train: TrainConfig, *, pixels: float = math.inf) -> TrainStep:
    """The step that teaches `network`, which lies on its device, in training mode; compiled where that is wanted.

    `pixels` are those that this process is to learn from in all its steps.
    """
    device = network.cell_anchors.device
    optimizer = build_optimizer(train, network, peak_rate(train, data.batch))
    precision = choose_precision(train.precision, device, on_gpu="bf16")
    average = WeightAverage(network, train.ema) if train.ema else None
    compile = choose_compile(train.compile, device, pixels)
    if compile:
        compile_blocks(network)
    criterion = Criterion(network, compile=compile)
    return TrainStep(
        network, criterion, optimizer, precision, clip_norm(train), parts=train.accumulate, average=average
    )


def choose_compile(wanted: bool | None, device: torch.device, pixels: float) -> bool:
    """Whether blocks are compiled: as asked, or on a GPU that has so much to learn that it pays."""
    if wanted is not None:
        return wanted
    return device.type == "cuda" and kernels_available() and pixels >= COMPILING_PAYS_FROM
