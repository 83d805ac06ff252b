"""The training loop: steps, and what happens between them (validation, saving, stopping)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from retinanet.errors import Interrupted
from retinanet.evaluate import Metrics
from retinanet.stop import StopRequest
from retinanet.train.log import TrainLog
from retinanet.train.session import Session
from retinanet.train.step import TrainStep
from retinanet.types import Batch

SAVE_EVERY_SECONDS = 600.0


@dataclass(frozen=True)
class Course:
    """How long a run is and what it does on the way."""

    total_steps: int
    steps_per_epoch: int
    rate: Callable[[int], float]
    """Learning rate of a step."""
    validate: Callable[[], Metrics] | None
    validate_every: int
    """Epochs between validations."""

    def validates_after(self, done: int) -> bool:
        """Whether a validation follows step number `done`."""
        if self.validate is None:
            return False
        return done == self.total_steps or done % (self.steps_per_epoch * self.validate_every) == 0


def train_loop(session: Session, step: TrainStep, batches: Iterable[Batch], course: Course, log: TrainLog) -> None:
    """Take every step of `batches`, which start at `session.step`.

    Raises:
        Interrupted: a first Ctrl-C or SIGTERM came; the step it fell into is finished and saved.
        RetinaNetError: losses stay non-finite.
    """
    saved_at = time.monotonic()
    with StopRequest() as stop, log:
        for batch in batches:
            rate = course.rate(session.step)
            epoch = session.step // course.steps_per_epoch
            losses = step(batch, rate)
            session.step += 1
            log.step(session.step, epoch, losses, rate, int((batch.image_ids >= 0).sum()))
            if stop.requested:
                session.save(step)
                raise Interrupted(
                    f"Stopped after step {session.step} of {course.total_steps}, saved as {session.path}: "
                    "give the same command to go on."
                )
            if course.validates_after(session.step):
                _validate(session, step, course, log, epoch)
            elif session.step < course.total_steps and time.monotonic() - saved_at < SAVE_EVERY_SECONDS:
                continue
            session.save(step)
            saved_at = time.monotonic()


def _validate(session: Session, step: TrainStep, course: Course, log: TrainLog, epoch: int) -> None:
    assert course.validate is not None
    metrics = course.validate()
    log.say(metrics.table())
    log.validation(session.step, epoch, metrics.as_dict())
    if session.save_best(step, metrics.AP):
        log.say(f"Best AP so far: {metrics.AP:.3f}, saved as {session.best_path}")
