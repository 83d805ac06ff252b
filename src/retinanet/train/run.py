"""`retinanet train`: from options to a trained model."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from retinanet.config import DEFAULT_RECIPE, DataConfig, TrainConfig
from retinanet.config_file import config_path, write_config
from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment
from retinanet.data.loading import make_loader
from retinanet.data.sampler import TrainPlan
from retinanet.device import choose_precision, choose_workers, tune
from retinanet.errors import DataError, Interrupted
from retinanet.model.compiling import compile_blocks
from retinanet.model.criterion import Criterion
from retinanet.model.network import RetinaNet
from retinanet.ops.backend import kernels_available
from retinanet.predict.dataset import tell_dropped_images
from retinanet.preprocess import group_by_canvas
from retinanet.report.run import report_training
from retinanet.train.average import WeightAverage
from retinanet.train.board import Board
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
from retinanet.train.job import TrainingJob
from retinanet.train.launch import launch
from retinanet.train.length import choose_epochs
from retinanet.train.log import TrainLog
from retinanet.train.loop import Course, train_loop
from retinanet.train.metrics_file import MetricsFile
from retinanet.train.mosaic import with_mosaics
from retinanet.train.optim import build_optimizer, learning_rate, peak_rate, warmup_steps, weight_decay
from retinanet.train.problems import ProblemReport
from retinanet.train.ranks import count_devices, device_of_rank, local_world_size, process_group, started_by_launcher
from retinanet.train.session import Session, open_session, tell_other_devices
from retinanet.train.step import TrainStep
from retinanet.train.validation import Validation


def run_training(job: TrainingJob) -> None:
    """Do as `retinanet train` does; see its help.

    Raises:
        RetinaNetError: what the user can act on; before the first step wherever it can be known by then.
    """
    job.check()
    if not started_by_launcher():
        devices = count_devices(job.train)
        if devices > 1:
            launch(run_training, job, devices)
            return
    device = device_of_rank(job.train)
    tune(device)
    with process_group(device):
        _train(job, device)


def _train(job: TrainingJob, device: torch.device) -> None:
    """The part of one rank, or of the only process."""
    data, held_out = job.read()
    assert data.classes is not None
    if is_main() and held_out:
        tell_dropped_images(held_out)
    session = open_session(job.path, data.classes, job.model, job.data, job.train)
    plan = training_plan(data, job.data, job.train.seed)
    epochs = choose_epochs(job.train, plan.steps_per_epoch, fine_tuned=job.model.fine_tune is not None)
    total_steps = job.train.iters or epochs * plan.steps_per_epoch
    require_same("model, data and options", (session.step, total_steps, len(data), data.classes.names))
    why_done = _why_done(session, job.train, total_steps, validates=held_out is not None)
    if why_done:
        _say(why_done)
        return
    network = session.network.to(device)
    share_weights(network)
    network = synchronise_batch_norm(network).to(memory_format=torch.channels_last).train()
    step = _training_step(network, job.data, job.train, device)
    _say(tell_other_devices(session, job.data.batch))
    session.restore(step)
    judged = step.average.network if step.average else network
    validation = Validation(judged, held_out, job.data, job.train) if held_out else None
    course = Course(
        total_steps=total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        rate=partial(learning_rate, job.train, peak_rate(job.train, job.data.batch), total_steps=total_steps),
        validate=validation,
        validate_every=job.train.val_every,
        save_every=60 * job.train.save_every,
        patience=job.train.patience,
    )
    if is_main():
        decided = _decided(session, step, job, course)
        write_config(config_path(job.path), job.inputs, (job.model, job.data, job.train), decided)
    _learn(job, session, step, data, plan, course, validation)
    if is_main() and validation and validation.results is not None:
        report_training(job.path, validation.data, validation.results)


def _why_done(session: Session, train: TrainConfig, total_steps: int, *, validates: bool) -> str | None:
    """Why nothing is left to do, in a sentence; None where something is."""
    if session.step >= total_steps and not (validates and session.validation_due):
        return f"{session.path} has done {session.step} of {total_steps} steps; raise --epochs or --iters to go on."
    if train.patience is not None and session.stale >= train.patience:
        return (
            f"{session.path} had no better AP in {session.stale} validation(s); raise --patience, or leave it out, to "
            "go on."
        )
    return None


def _learn(
    job: TrainingJob,
    session: Session,
    step: TrainStep,
    data: CocoData,
    plan: TrainPlan,
    course: Course,
    validation: Validation | None,
) -> None:
    """Every step that is left; whatever ends it, unusable images are listed and logs are closed."""
    loader = make_loader(
        job.train.loader,
        step.device,
        data,
        plan,
        job.data.resize,
        job.data.longest,
        Augment(job.data.flip, job.data.jitter, job.data.colour_jitter),
        workers=choose_workers(job.data.workers, sharing=local_world_size()),
        seed=job.train.seed,
        start_step=session.step,
        total_steps=course.total_steps,
        rank=rank(),
        world=world_size(),
    )
    batches = with_mosaics(
        loader, job.train, session.network.record, data, start_step=session.step, total_steps=course.total_steps
    )
    metrics = MetricsFile(job.path, start_step=session.step) if is_main() else None
    problems = ProblemReport(job.path, data) if is_main() else None
    log = TrainLog(metrics, start_step=session.step, total_steps=course.total_steps, device=step.device)
    if job.train.logdir is not None and is_main():
        log.board = Board(job.train.logdir, validation, start_step=session.step)
    together = False  # whether all ranks leave the loop here
    try:
        train_loop(session, step, batches, course, log)
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


def _decided(session: Session, step: TrainStep, job: TrainingJob, course: Course) -> dict[str, Any]:
    """What was chosen for the options that were not given, by their fields."""
    data, train = job.data, job.train
    return {
        **{"recipe": DEFAULT_RECIPE, **asdict(train.chosen), "epochs": course.total_steps // course.steps_per_epoch},
        **{"norm": session.network.record.backbones[0].norm, "freeze": session.settings["--freeze"]},
        **{"max_size": data.longest, "workers": choose_workers(data.workers, sharing=local_world_size())},
        **{"lr": peak_rate(train, data.batch), "warmup": warmup_steps(train, course.total_steps)},
        **{"weight_decay": weight_decay(train), "precision": step.precision, "compile": step.criterion.compile},
        **{"device": str(step.device), "devices": world_size()},
    }


def training_plan(data: CocoData, config: DataConfig, seed: int) -> TrainPlan:
    """Canvases chosen from the data's sizes, and who is in which batch."""
    canvas_of_image, canvases = group_by_canvas(data.sizes, config.resize, config.longest)
    return TrainPlan(canvas_of_image, canvases, config.batch, seed)
