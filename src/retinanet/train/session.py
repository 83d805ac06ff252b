"""A run under way: its network, how far it has come, and what of it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retinanet.model.checkpoint import save_checkpoint
from retinanet.model.network import RetinaNet
from retinanet.train.distributed import is_main, world_size
from retinanet.train.step import TrainStep


@dataclass
class Session:
    """A network and how far it has come."""

    path: Path
    network: RetinaNet
    settings: dict[str, Any]
    """Options that a resumed run must share, since its state means nothing to others."""
    step: int = 0
    """Steps done."""
    best: float | None = None
    """Best AP so far."""
    stale: int = 0
    """Validations since then."""
    validation_due: bool = False
    """The run ended before the validation after `step` did."""
    resumed: dict[str, Any] | None = None
    """Training state of the checkpoint that the run goes on from."""

    @property
    def best_path(self) -> Path:
        """Where the best validated weights are kept: model.pth → model.best.pth."""
        return self.path.with_name(f"{self.path.stem}.best{self.path.suffix}")

    def save(self, step: TrainStep) -> None:
        """Write everything that the run needs to go on as if it had not stopped.

        All ranks hold the same, random state included, so that one of them writes it for all.
        """
        if not is_main():
            return
        state = {
            "step": self.step,
            "best": self.best,
            "stale": self.stale,
            "validation_due": self.validation_due,
            "devices": world_size(),
            "settings": self.settings,
            "optimizer": step.optimizer.state_dict(),
            "scaler": step.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(step.device) if step.device.type == "cuda" else None,
        }
        if step.average:  # it is the model; the weights that learn are for the run alone
            state |= {"weights": self.network.state_dict(), "average": step.average.state_dict()}
        save_checkpoint(self.path, network=self._model(step), training_state=state)

    def restore(self, step: TrainStep) -> None:
        """Bring optimiser, scaler, average and random numbers to where the checkpoint left them."""
        if self.resumed is None:
            return
        # The groups hold options such as the weight decay, which may be others now; the rate is the last step's.
        groups = step.optimizer.state_dict()["param_groups"]
        for group, before in zip(groups, self.resumed["optimizer"]["param_groups"], strict=True):
            group["lr"] = before["lr"]
        step.optimizer.load_state_dict({**self.resumed["optimizer"], "param_groups": groups})
        step.scaler.load_state_dict(self.resumed["scaler"])
        torch.set_rng_state(self.resumed["rng"])
        if step.device.type == "cuda" and self.resumed.get("cuda_rng") is not None:
            torch.cuda.set_rng_state(self.resumed["cuda_rng"], step.device)
        if step.average:
            self.network.load_state_dict(self.resumed["weights"])
            step.average.load_state_dict(self.resumed["average"])
        self.resumed = None  # the tensors were copied: give their memory back

    def save_best(self, step: TrainStep, ap: float) -> bool:
        """Keep the weights beside the checkpoint if `ap` is the best so far; say whether it was."""
        if self.best is not None and ap <= self.best:
            self.stale += 1
            return False
        self.best, self.stale = ap, 0
        if is_main():
            save_checkpoint(self.best_path, network=self._model(step), training_state=None)
        return True

    def _model(self, step: TrainStep) -> RetinaNet:
        return step.average.network if step.average else self.network
