"""A run of one process: begun again when another one that reads images for it dies."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import replace

from retinanet.errors import ReaderLost, explain
from retinanet.train.job import TrainingJob
from retinanet.train.restart import written


def train_alone(train: Callable[[TrainingJob], None], job: TrainingJob) -> None:
    """`train(job)`, and again from the job's checkpoint where readers are lost, `--max-restarts` times.

    Raises:
        RetinaNetError: what `train` raised; or readers were lost too often.
    """
    config = job.train
    untouched = written(job.path)
    for restarts in range(config.max_restarts + 1):
        # --override replaces what was there when the command was given, not what this run has saved since.
        anew = config.override and written(job.path) == untouched
        try:
            train(replace(job, train=replace(config, override=anew)))
            return
        except (ReaderLost, RuntimeError) as error:
            lost = explain(error)
            if not isinstance(lost, ReaderLost) or restarts == config.max_restarts:
                raise
        gc.collect()  # the network that was: compiled heads refer to themselves, and it lies on the GPU
        print(
            f"{lost} Starting again from the last checkpoint (restart {restarts + 1} of {config.max_restarts}).",
            file=sys.stderr,
            flush=True,
        )
