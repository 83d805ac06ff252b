"""Prediction: how images are run through a model, and what becomes of its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retinanet.config.checks import require
from retinanet.config.data import LoaderKind

Precision = Literal["bf16", "fp16", "fp32"]


@dataclass(frozen=True)
class PostprocessConfig:
    """How the heads' outputs become detections."""

    threshold: float = 0.05
    """Lowest score of a detection."""
    nms: float = 0.5
    """A box is dropped when its IoU with a better one of its class is above this."""
    top_n: int = 1000
    """Candidates kept at each pyramid level before suppression."""
    detections: int = 100
    """Detections kept in an image."""

    def __post_init__(self) -> None:
        require(0 < self.threshold < 1, f"--threshold must be between 0 and 1, but is {self.threshold}.")
        require(0 < self.nms <= 1, f"--nms must be above 0 and at most 1, but is {self.nms}.")
        require(self.top_n >= 1, f"--top-n must be at least 1, but is {self.top_n}.")
        require(self.detections >= 1, f"--detections must be at least 1, but is {self.detections}.")


@dataclass(frozen=True)
class PredictConfig:
    """How images are read and run through a model."""

    resize: int | None = None
    """Shorter side of a resized image (default: as the model was trained)."""
    max_size: int | None = None
    """Upper bound of the longer side (default: as the model was trained)."""
    canvas: tuple[int, int] | None = None
    """Place every image on one canvas of H W pixels (default: as they need; an exported model has its own)."""
    batch: int = 8
    """Images in one run of the network; an exported model may take fewer, or need more."""
    workers: int | None = None
    """Processes that read images, for each device (default: the cores shared among them, at most 16)."""
    precision: Precision | None = None
    """Arithmetic of the network (default: fp16 on GPUs, fp32 on CPUs)."""
    device: str | None = None
    """cuda, cuda:1, cpu … (default: the first GPU where there is one)."""
    loader: LoaderKind = "auto"
    """What reads images: DALI or PyTorch (auto: DALI on a GPU where it is installed)."""

    def __post_init__(self) -> None:
        require(self.resize is None or self.resize >= 32, f"--resize must be at least 32 pixels, but is {self.resize}.")
        require(
            self.max_size is None or self.max_size >= (self.resize or 32),
            f"--max-size must be at least --resize ({self.resize or 32}), but is {self.max_size}.",
        )
        require(
            self.canvas is None or all(side >= 32 and side % 32 == 0 for side in self.canvas),
            f"--canvas takes H W, multiples of 32 pixels, but is {self.canvas}.",
        )
        require(self.batch >= 1, f"--batch must be at least 1, but is {self.batch}.")
        require(self.workers is None or self.workers >= 0, f"--workers must be at least 0, but is {self.workers}.")


@dataclass(frozen=True)
class InferConfig(PredictConfig):
    """How `retinanet infer` goes through many images."""

    devices: int | None = None
    """GPUs that share the images, or processes on a CPU (default: every GPU that is worth it; one process on a CPU)."""
    resume: bool = False
    """Go on with the images that an interrupted run has not finished."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.devices is None or self.devices >= 1, f"--devices must be at least 1, but is {self.devices}.")
