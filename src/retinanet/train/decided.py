"""What a run came to decide for the options that were not given, kept beside its checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from retinanet.config import DEFAULT_RECIPE
from retinanet.config_file import config_path, write_config
from retinanet.device import choose_workers
from retinanet.train.distributed import world_size
from retinanet.train.job import TrainingJob
from retinanet.train.loop import Course
from retinanet.train.optim import clip_norm, peak_rate, warmup_steps, weight_decay
from retinanet.train.ranks import local_world_size
from retinanet.train.session import Session
from retinanet.train.step import TrainStep


def write_options(job: TrainingJob, session: Session, step: TrainStep, course: Course) -> None:
    """Write MODEL.config.toml: the options given, and what followed for the others."""
    decided = _decided(job, session, step, course)
    write_config(config_path(job.path), job.inputs, (job.model, job.data, job.train), decided)


def _decided(job: TrainingJob, session: Session, step: TrainStep, course: Course) -> dict[str, Any]:
    """By the options' fields."""
    data, train = job.data, job.train
    epochs = None if train.iters else course.total_steps // course.steps_per_epoch
    return {
        **{
            "recipe": DEFAULT_RECIPE,
            **asdict(train.chosen),
            "epochs": epochs,
            "jitter": data.shorter_sides(train.chosen),
        },
        **{"norm": session.network.record.backbones[0].norm, "freeze": session.settings["--freeze"]},
        **{"max_size": data.longest, "workers": choose_workers(data.workers, sharing=local_world_size())},
        **{"lr": peak_rate(train, data.batch), "warmup": warmup_steps(train, course.total_steps)},
        **{"weight_decay": weight_decay(train), "clip_norm": clip_norm(train)},
        **{"precision": step.precision, "compile": step.criterion.compile},
        **{"device": str(step.device), "devices": world_size()},
    }
