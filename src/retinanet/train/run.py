"""`retinanet train`: from options to a trained model."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from retinanet.config import DEFAULT_RECIPE, DataConfig, ModelConfig, TrainConfig
from retinanet.config_file import config_path, write_config
from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment
from retinanet.data.classes import require_same_classes
from retinanet.data.coco import read_annotations
from retinanet.data.loading import make_loader
from retinanet.data.sampler import TrainPlan
from retinanet.device import choose_precision, choose_workers, tune
from retinanet.errors import DataError, Interrupted, UsageError
from retinanet.files import require_writable
from retinanet.model.compiling import compile_blocks
from retinanet.model.criterion import Criterion
from retinanet.model.network import RetinaNet
from retinanet.ops.backend import kernels_available
from retinanet.predict.dataset import tell_dropped_images
from retinanet.preprocess import group_by_canvas
from retinanet.report.run import report_training
from retinanet.train.average import WeightAverage
from retinanet.train.board import Board, require_board
from retinanet.train.distributed import (
    barrier,
    gather_broken,
    is_main,
    rank,
    require_same,
    share_weights,
    synchronise_batch_norm,
    world_size,
)
from retinanet.train.launch import launch
from retinanet.train.length import choose_epochs
from retinanet.train.log import TrainLog
from retinanet.train.loop import Course, train_loop
from retinanet.train.metrics_file import MetricsFile
from retinanet.train.optim import build_optimizer, learning_rate, peak_rate, warmup_steps, weight_decay
from retinanet.train.problems import ProblemReport
from retinanet.train.ranks import count_devices, device_of_rank, joined, local_world_size, started_by_launcher
from retinanet.train.session import Session, open_session, tell_other_devices
from retinanet.train.step import TrainStep
from retinanet.train.validation import Validation


def run_training(
    path: Path,
    *,
    images: Path,
    annotations: Path,
    val_images: Path | None,
    val_annotations: Path | None,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
) -> None:
    """Train `path` as `retinanet train` does; see its help.

    Raises:
        RetinaNetError: what the user can act on; before the first step wherever it can be known by then.
    """
    require_writable(path)
    if data_config.batch % train_config.accumulate:
        raise UsageError(
            f"--accumulate must divide --batch ({data_config.batch}) into equal parts, "
            f"but is {train_config.accumulate}."
        )
    arguments: dict[str, Any] = {
        **{"images": images, "annotations": annotations, "val_images": val_images, "val_annotations": val_annotations},
        **{"model_config": model_config, "data_config": data_config, "train_config": train_config},
    }
    if train_config.logdir is not None:
        require_board()
    if train_config.patience is not None and val_images is None:
        raise UsageError("--patience counts validations, but there are none; give --val-images and --val-annotations.")
    if not started_by_launcher():
        devices = count_devices(train_config)
        if devices > 1:
            launch(run_training, path, arguments, devices)
            return
    device = device_of_rank(train_config)
    tune(device)
    with joined(device):
        _train(path, device, **arguments)


def _train(
    path: Path,
    device: torch.device,
    *,
    images: Path,
    annotations: Path,
    val_images: Path | None,
    val_annotations: Path | None,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
) -> None:
    """The part of one rank, or of the only process."""
    data, held_out = _annotations(images, annotations, val_images, val_annotations)
    assert data.classes is not None
    session = open_session(path, data.classes, model_config, data_config, train_config)
    plan = training_plan(data, data_config, train_config.seed)
    epochs = choose_epochs(train_config, plan.steps_per_epoch, fine_tuned=model_config.fine_tune is not None)
    total_steps = train_config.iters or epochs * plan.steps_per_epoch
    require_same("model, data and options", (session.step, total_steps, len(data), data.classes.names))
    if session.step >= total_steps and not (held_out and session.validation_due):
        _say(f"{path} has done {session.step} of {total_steps} steps; raise --epochs or --iters to go on.")
        return
    if train_config.patience is not None and session.stale >= train_config.patience:
        _say(f"{path} had no better AP in {session.stale} validation(s); raise --patience, or leave it out, to go on.")
        return
    network = session.network.to(device)
    share_weights(network)
    network = synchronise_batch_norm(network).to(memory_format=torch.channels_last).train()
    step = _training_step(network, data_config, train_config, device)
    _say(tell_other_devices(session, data_config.batch))
    session.restore(step)
    loader = make_loader(
        train_config.loader,
        device,
        data,
        plan,
        data_config.resize,
        data_config.longest,
        Augment(data_config.flip, data_config.jitter),
        workers=choose_workers(data_config.workers, sharing=local_world_size()),
        seed=train_config.seed,
        start_step=session.step,
        total_steps=total_steps,
        rank=rank(),
        world=world_size(),
    )
    peak = peak_rate(train_config, data_config.batch)
    judged = step.average.network if step.average else network
    validation = Validation(judged, held_out, data_config, train_config) if held_out else None
    course = Course(
        total_steps=total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        rate=partial(learning_rate, train_config, peak, total_steps=total_steps),
        validate=validation,
        validate_every=train_config.val_every,
        save_every=60 * train_config.save_every,
        patience=train_config.patience,
    )
    if is_main():
        inputs = {
            **{"images": images, "annotations": annotations},
            **{"val_images": val_images, "val_annotations": val_annotations},
        }
        decided = _decided(session, step, data_config, train_config, total_steps, plan.steps_per_epoch)
        write_config(config_path(path), inputs, (model_config, data_config, train_config), decided)
    metrics = MetricsFile(path, start_step=session.step) if is_main() else None
    problems = ProblemReport(path, data) if is_main() else None
    log = TrainLog(metrics, start_step=session.step, total_steps=total_steps, device=device)
    if train_config.logdir is not None and is_main():
        log.board = Board(train_config.logdir, validation, start_step=session.step)
    together = False  # whether all ranks leave the loop here
    try:
        train_loop(session, step, loader, course, log)
        together = True
    except (Interrupted, DataError):
        together = True
        raise
    finally:
        if log.board:
            log.board.close()
        broken = gather_broken(loader.broken) if together else loader.broken
        if problems:
            problems.add_images(broken)
        if together:
            barrier("the list of problems")  # a launcher ends all ranks once the first one ends
    if is_main() and validation and validation.results is not None:
        report_training(path, validation.data, validation.results)


def _say(sentence: str | None) -> None:
    if sentence and is_main():
        print(sentence, file=sys.stderr)


def _training_step(network: RetinaNet, data: DataConfig, train: TrainConfig, device: torch.device) -> TrainStep:
    optimizer = build_optimizer(train, network, peak_rate(train, data.batch))
    precision = choose_precision(train.precision, device, on_gpu="bf16")
    average = WeightAverage(network, train.ema) if train.ema else None
    compile = train.compile if train.compile is not None else device.type == "cuda" and kernels_available()
    if compile:
        compile_blocks(network)
    criterion = Criterion(network, compile=compile)
    return TrainStep(network, criterion, optimizer, precision, train.clip_norm, parts=train.accumulate, average=average)


def _decided(
    session: Session,
    step: TrainStep,
    data: DataConfig,
    train: TrainConfig,
    total_steps: int,
    steps_per_epoch: int,
) -> dict[str, Any]:
    """What was chosen for the options that were not given, by their fields."""
    return {
        **{"recipe": DEFAULT_RECIPE, **asdict(train.chosen), "epochs": total_steps // steps_per_epoch},
        **{"norm": session.network.record.backbones[0].norm, "freeze": session.settings["--freeze"]},
        **{"max_size": data.longest, "workers": choose_workers(data.workers, sharing=local_world_size())},
        **{"lr": peak_rate(train, data.batch), "warmup": warmup_steps(train, total_steps)},
        **{"weight_decay": weight_decay(train), "precision": step.precision, "compile": step.criterion.compile},
        **{"device": str(step.device), "devices": world_size()},
    }


def _annotations(
    images: Path, annotations: Path, val_images: Path | None, val_annotations: Path | None
) -> tuple[CocoData, CocoData | None]:
    """Training and validation data, checked against each other."""
    if (val_images is None) != (val_annotations is None):
        raise UsageError("--val-images and --val-annotations go together, but one is missing; give both or none.")
    data = read_annotations(annotations, images)
    data.check_trainable()
    if val_annotations is None:
        return data, None
    held_out = read_annotations(val_annotations, val_images)
    assert data.classes is not None
    require_same_classes(held_out, data.classes)
    if is_main():
        tell_dropped_images(held_out)
    return data, held_out


def training_plan(data: CocoData, config: DataConfig, seed: int) -> TrainPlan:
    """Canvases chosen from the data's sizes, and who is in which batch."""
    canvas_of_image, canvases = group_by_canvas(data.sizes, config.resize, config.longest)
    return TrainPlan(canvas_of_image, canvases, config.batch, seed)
