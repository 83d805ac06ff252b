"""The training loop: steps, and what happens between them (validation, saving, stopping)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from retinanet.errors import DataError, Interrupted
from retinanet.evaluate import Metrics
from retinanet.stop import StopRequest, resume_command
from retinanet.train.distributed import Tally, world_size
from retinanet.train.log import TrainLog
from retinanet.train.memory import take_step
from retinanet.train.ranks import started_by_another_launcher, started_by_launcher
from retinanet.train.session import Session
from retinanet.train.step import TrainStep
from retinanet.types import Batch
from retinanet.words import counted


@dataclass(frozen=True)
class Course:
    """How long a run is and what it does on the way."""

    total_steps: int
    steps_per_epoch: int
    rate: Callable[[int], float]
    """Learning rate of a step."""
    validate: Callable[[Callable[[], bool]], Metrics | None] | None
    """Gives None when the function that it is given says that the run is to stop."""
    validate_every: int
    """Epochs between validations."""
    save_every: float
    """Seconds between checkpoints."""
    patience: int | None
    """Validations without a better AP after which the run ends; None: it never does."""

    def is_exhausted(self, session: Session) -> bool:
        """Whether too many validations have passed without a better AP."""
        return self.patience is not None and session.stale >= self.patience

    def validates_after(self, done: int) -> bool:
        """Whether a validation follows step number `done`."""
        if self.validate is None:
            return False
        return done == self.total_steps or done % (self.steps_per_epoch * self.validate_every) == 0


def train_loop(session: Session, step: TrainStep, batches: Iterable[Batch], course: Course, log: TrainLog) -> None:
    """Take every step of `batches`, which start at `session.step`.

    What ranks decide is decided by numbers that all of them have: they leave the loop after the same step.

    Raises:
        Interrupted: a first Ctrl-C or SIGTERM came; the step it fell into is finished and saved.
        DataError: not one image of an epoch could be used.
        RetinaNetError: losses stay non-finite.
    """
    saved_at = time.monotonic()
    usable = steps = 0
    with StopRequest(repeated=started_by_launcher()) as stop, log:
        if session.validation_due and course.validate is not None:
            _validate(session, step, course, log, stop)
            if course.is_exhausted(session):
                return
        for batch in batches:
            rate = course.rate(session.step)
            epoch = session.step // course.steps_per_epoch
            tally = Tally(f"step {session.step + 1}", int((batch.image_ids >= 0).sum()), int(stop.requested))
            losses = take_step(step, batch, rate)
            images, stops = tally.read()
            usable, steps = usable + images, steps + 1
            if not usable and steps == course.steps_per_epoch:
                raise DataError("None of the images of an epoch could be used; see the list of problems beside MODEL.")
            session.step += 1
            log.step(session.step, epoch, losses, rate, images)
            if world_size() == 1:
                stops = int(stop.requested)  # also what came during the step
            validates = course.validates_after(session.step)
            if stops:
                session.validation_due = validates
                session.save(step)
                raise _interrupted(session, course)
            if validates:
                _validate(session, step, course, log, stop)
                if course.is_exhausted(session):
                    return
            elif session.step < course.total_steps and time.monotonic() - saved_at < course.save_every:
                continue
            else:
                session.save(step)
            saved_at = time.monotonic()


def _validate(session: Session, step: TrainStep, course: Course, log: TrainLog, stop: StopRequest) -> None:
    assert course.validate is not None
    session.validation_due = True
    session.save(step)  # whatever happens meanwhile
    metrics = course.validate(lambda: stop.requested)
    if metrics is None:
        raise _interrupted(session, course)
    epoch = (session.step - 1) // course.steps_per_epoch
    log.say(metrics.table())
    log.validation(session.step, epoch, metrics.as_dict())
    session.validation_due = False
    if session.save_best(step, metrics.AP):
        log.say(f"Best AP so far: {metrics.AP:.3f}, saved as {session.best_path}")
    if course.is_exhausted(session):
        stale = counted(session.stale, "validation")
        log.say(f"Ended early: no better AP than {session.best:.3f} in {stale} (--patience).")
    session.save(step)


def _interrupted(session: Session, course: Course) -> Interrupted:
    how = "give the same command, the launcher's part included, to go on."
    if not started_by_another_launcher():
        how = resume_command()
    return Interrupted(f"Stopped after step {session.step} of {course.total_steps}, saved as {session.path}: {how}")
