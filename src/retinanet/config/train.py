"""Training: how the network learns, on what, and how long."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from retinanet.config.checks import require
from retinanet.config.data import LoaderKind
from retinanet.config.predict import Precision
from retinanet.config.recipe import (
    DEFAULT_RECIPE,
    RECIPES,
    BoxLoss,
    ClassLoss,
    Matching,
    Optimizer,
    Recipe,
    RecipeName,
    Schedule,
)


@dataclass(frozen=True)
class TrainConfig:
    """How the network learns."""

    recipe: RecipeName | None = None
    """What matching, losses, optimizer and schedule are by default: the paper's, or modern (default: modern)."""
    matching: Matching | None = None
    """Which anchors learn a box: by fixed thresholds of IoU, or by each box's own, ATSS (default: the recipe's)."""
    box_loss: BoxLoss | None = None
    """Loss of the boxes (default: the recipe's)."""
    class_loss: ClassLoss | None = None
    """Loss of the classes: focal, or quality, whose scores learn how well a box fits (default: the recipe's)."""
    epochs: int | None = None
    """Passes over the training images (default: 12; of few images as many as make 1,000 steps, 300 to fine-tune)."""
    iters: int | None = None
    """Steps, in place of --epochs."""
    optimizer: Optimizer | None = None
    """AdamW, or SGD with momentum 0.9 (default: the recipe's)."""
    lr: float | None = None
    """Peak learning rate (default: linear in --batch, from 0.0002 at 16 for adamw, 0.02 for sgd)."""
    schedule: Schedule | None = None
    """The rate falls along a half cosine to zero, or by --gamma at --milestones (default: the recipe's)."""
    warmup: int | None = None
    """Steps of linear warm-up (default: 500, at most a tenth of the run; for sgd a third)."""
    milestones: tuple[float, ...] = (0.667, 0.917)
    """Fractions of the run at which the step schedule lowers the rate."""
    gamma: float = 0.1
    """Factor of the step schedule."""
    weight_decay: float | None = None
    """Weight decay, on weights of convolutions alone (default: 0.05 for adamw, 0.0001 for sgd)."""
    clip_norm: float | None = None
    """Largest norm of the gradient (default: 10 for adamw, which only tames the rare explosion; 1 for sgd)."""
    accumulate: int = 1
    """Parts that a batch is split into, learned one after the other: less memory, the same result."""
    ema: float | None = None
    """Average the weights with this decay, for example 0.9998; the averages are validated and kept."""
    mosaic: float = 0.0
    """Probability that a batch is shown as mosaics, four half-size pictures in one; never in a run's last quarter."""
    precision: Precision | None = None
    """Arithmetic of the network (default: bf16 on GPUs, fp32 on CPUs)."""
    compile: Annotated[bool | None, Parameter(negative="--no-compile")] = None
    """Compile the network's blocks: faster steps after some minutes (default: on GPUs, if the run is long enough)."""
    val_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    patience: int | None = None
    """End early after this many validations without a better AP."""
    logdir: Path | None = None
    """Folder of TensorBoard's files: losses, rates, metrics, and pictures of each validation."""
    seed: int = 0
    """Seed of initial weights, order of images and augmentation."""
    device: str | None = None
    """cuda, cuda:1, cpu … (default: GPUs where there are any)."""
    loader: LoaderKind = "auto"
    """What reads images: DALI or PyTorch (auto: DALI on a GPU where it is installed)."""
    devices: int | None = None
    """GPUs, or processes on a CPU, that train together (default: every GPU; one process on a CPU)."""
    max_restarts: int = 2
    """How often a run begins again from its last checkpoint when one of its processes dies."""
    save_every: float = 10.0
    """Minutes between checkpoints; each validation, the end and an interruption write one too."""
    override: bool = False
    """Start anew where MODEL exists, in place of resuming it."""

    def __post_init__(self) -> None:
        require(self.epochs is None or self.epochs >= 1, f"--epochs must be at least 1, but is {self.epochs}.")
        require(self.iters is None or self.iters >= 1, f"--iters must be at least 1, but is {self.iters}.")
        require(
            self.epochs is None or self.iters is None,
            "--epochs and --iters both say how long a run is, but both are given (one perhaps in the --config file); "
            "leave one of them out.",
        )
        require(self.lr is None or self.lr > 0, f"--lr must be positive, but is {self.lr}.")
        require(self.warmup is None or self.warmup >= 0, f"--warmup must be at least 0, but is {self.warmup}.")
        require(
            all(0 < m < 1 for m in self.milestones) and list(self.milestones) == sorted(self.milestones),
            f"--milestones are ascending fractions of the run between 0 and 1, but are {self.milestones}; "
            "the default is 0.667 0.917.",
        )
        require(self.seed >= 0, f"--seed must be at least 0, but is {self.seed}.")
        require(0 < self.gamma <= 1, f"--gamma must be above 0 and at most 1, but is {self.gamma}.")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"--clip-norm must be positive, but is {self.clip_norm}; leave it out for the default.",
        )
        require(self.accumulate >= 1, f"--accumulate must be at least 1, but is {self.accumulate}.")
        require(
            self.ema is None or 0 < self.ema < 1, f"--ema is a decay between 0 and 1, but is {self.ema}; take 0.9998."
        )
        require(0 <= self.mosaic <= 1, f"--mosaic is a probability from 0 to 1, but is {self.mosaic}.")
        require(self.devices is None or self.devices >= 1, f"--devices must be at least 1, but is {self.devices}.")
        require(self.max_restarts >= 0, f"--max-restarts must be at least 0, but is {self.max_restarts}.")
        require(self.save_every >= 0, f"--save-every takes minutes, 0 or more, but is {self.save_every}.")
        require(self.patience is None or self.patience >= 1, f"--patience must be at least 1, but is {self.patience}.")
        require(self.val_every >= 1, f"--val-every must be at least 1, but is {self.val_every}.")
        require(
            self.weight_decay is None or self.weight_decay >= 0,
            f"--weight-decay must be at least 0, but is {self.weight_decay}.",
        )

    @property
    def chosen(self) -> Recipe:
        """The recipe, with what the options say otherwise."""
        recipe = RECIPES[self.recipe or DEFAULT_RECIPE]
        own = {field.name: getattr(self, field.name, None) for field in fields(recipe)}  # `DataConfig` has the sizes
        return replace(recipe, **{name: value for name, value in own.items() if value is not None})
