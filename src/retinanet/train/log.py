"""What a run says while it trains: one live line on a terminal, plain lines elsewhere (stderr)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from retinanet.errors import RetinaNetError
from retinanet.train.board import Board
from retinanet.train.metrics_file import METRICS, MetricsFile
from retinanet.train.step import StepLosses
from retinanet.words import counted

EVERY = 20
"""Steps between two readings of the losses: reading makes the host wait for the GPU."""
MAX_BAD_STEPS = 10


class TrainLog:
    """Collects losses on the device, reads them every `EVERY` steps, shows and keeps them.

    Without a file it is silent: one rank speaks for all. Raises RetinaNetError after `MAX_BAD_STEPS` bad steps in a
    row.
    """

    def __init__(self, file: MetricsFile | None, *, start_step: int, total_steps: int, device: torch.device) -> None:
        self.file = file
        self.board: Board | None = None
        """TensorBoard's files, where they are wanted."""
        self.total_steps = total_steps
        self.console = Console(stderr=True, soft_wrap=True, quiet=file is None)
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=file is None or not self.console.is_terminal,
        )
        self.task = self.progress.add_task("train", total=total_steps, completed=start_step, state="starting")
        self.sums = torch.zeros(3, device=device)  # class loss, box loss, good steps
        self.streak = torch.zeros(2, device=device)  # bad steps in a row: now, and the longest
        self.skipped = 0
        self.steps = self.images = 0
        self.since = time.monotonic()

    def __enter__(self) -> TrainLog:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, sentence: str) -> None:
        """Print a line above the live line."""
        self.console.print(sentence, markup=False, highlight=False)

    def step(self, done: int, epoch: int, losses: StepLosses, learning_rate: float, images: int) -> None:
        """Take in step number `done` (1 … total_steps), which learned from `images` images."""
        good = 1 - losses.bad
        values = torch.stack([losses.classification, losses.box, torch.ones_like(losses.bad)])
        self.sums += torch.where(good.bool(), values, 0)
        run_of_bad = (self.streak[0] + 1) * losses.bad
        self.streak = torch.stack([run_of_bad, torch.maximum(self.streak[1], run_of_bad)])
        self.steps += 1
        self.images += images
        if done % EVERY == 0 or done == self.total_steps:
            self._report(done, epoch, learning_rate)
        self.progress.update(self.task, completed=done)

    def validation(self, done: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Keep the 12 numbers of a validation after step `done`."""
        self._keep({"step": done, "epoch": epoch, **{name: f"{metrics[name]:.6f}" for name in METRICS}})
        self.since = time.monotonic()  # the pause does not count against the next rate

    def _keep(self, row: Mapping[str, object]) -> None:
        if self.file is not None:
            self.file.append(row)
        if self.board is not None:
            self.board.append(row)

    def _report(self, done: int, epoch: int, learning_rate: float) -> None:
        class_sum, box_sum, good, _, longest = torch.cat([self.sums, self.streak]).tolist()
        now = time.monotonic()
        rate = self.images / max(now - self.since, 1e-9)
        self.skipped += self.steps - round(good)
        class_loss, box_loss = class_sum / max(good, 1), box_sum / max(good, 1)
        self._keep(
            {
                **{"step": done, "epoch": epoch, "class_loss": f"{class_loss:.6f}", "box_loss": f"{box_loss:.6f}"},
                **{"learning_rate": f"{learning_rate:.3g}", "images_per_second": f"{rate:.1f}"},
                "skipped_steps": self.skipped,
            }
        )
        state = f"class {class_loss:.3f} box {box_loss:.3f} lr {learning_rate:.2g} {rate:.0f} images/s"
        if self.skipped:
            state += f" ({counted(self.skipped, 'step')} skipped: not finite)"
        self.progress.update(self.task, state=state)
        if not self.console.is_terminal:
            left = timedelta(seconds=round((self.total_steps - done) * (now - self.since) / self.steps))
            self.say(f"step {done}/{self.total_steps} epoch {epoch} {state} {left} left")
        if longest >= MAX_BAD_STEPS:
            raise RetinaNetError(
                f"Losses must be finite, but were not in {MAX_BAD_STEPS} steps in a row before step {done}: "
                "lower --lr, lengthen --warmup or change --precision, and run again to go on from the last checkpoint."
            )
        self.sums.zero_()
        self.steps = self.images = 0
        self.since = now
