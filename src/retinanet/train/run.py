"""`retinanet train`: from options to a trained model."""

from __future__ import annotations

import sys
from functools import partial

import torch

from retinanet.data.annotations import CocoData
from retinanet.data.sampler import TrainPlan
from retinanet.device import device_context, tune
from retinanet.errors import DataError, Interrupted
from retinanet.predict.dataset import tell_dropped_images
from retinanet.report.run import report_training
from retinanet.train.alone import train_alone
from retinanet.train.assembly import training_loader, training_plan, training_step
from retinanet.train.board import Board
from retinanet.train.decided import write_options
from retinanet.train.distributed import (
    barrier,
    gather_broken,
    is_main,
    require_same,
    share_weights,
    synchronise_batch_norm,
    world_size,
)
from retinanet.train.job import TrainingJob
from retinanet.train.launch import launch
from retinanet.train.length import choose_epochs, why_done
from retinanet.train.log import TrainLog
from retinanet.train.loop import Course, train_loop
from retinanet.train.metrics_file import MetricsFile
from retinanet.train.mosaic import with_mosaics
from retinanet.train.opening import open_session, tell_other_devices
from retinanet.train.optim import learning_rate, peak_rate
from retinanet.train.problems import ProblemReport
from retinanet.train.ranks import count_devices, device_of_rank, process_group, started_by_launcher
from retinanet.train.session import Session
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
    with device_context(device), process_group(device):
        if started_by_launcher():
            _train(job, device)
        else:
            train_alone(partial(_train, device=device), job)


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
    model, seen = (session.step, session.network.record, session.settings), (len(data), held_out and len(held_out))
    require_same("model, data and options", (model, seen, total_steps, job.shared))
    done = why_done(session, job.train, total_steps, validates=held_out is not None)
    if done:
        _say(done)
        return
    network = session.network.to(device)
    share_weights(network)
    network = synchronise_batch_norm(network).to(memory_format=torch.channels_last).train()
    pixels = plan.pixels_per_epoch * total_steps / plan.steps_per_epoch / world_size()
    step = training_step(network, job.data, job.train, pixels=pixels)
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
        write_options(job, session, step, course)
    _learn(job, session, step, data, plan, course, validation)
    if is_main() and validation and validation.results is not None:
        report_training(job.path, validation.data, validation.results)


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
    loader = training_loader(
        data, plan, job.data, job.train, step.device, start_step=session.step, total_steps=course.total_steps
    )
    batches = with_mosaics(
        loader, job.train, session.network.record, data, start_step=session.step, total_steps=course.total_steps
    )
    metrics = None
    if is_main():
        metrics = MetricsFile(job.path, start_step=session.step, validation_due=session.validation_due)
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
