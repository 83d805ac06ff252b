"""Export: what an artifact is made for, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retinanet.config.checks import require

ExportPrecision = Literal["fp16", "fp32", "int8", "fp8"]
QUANTISED: tuple[ExportPrecision, ...] = ("int8", "fp8")


@dataclass(frozen=True)
class ExportConfig:
    """What an exported detector is made for."""

    size: tuple[int, int] | None = None
    """Canvas of every image, H W in pixels, rounded up to multiples of 32 (default: as the model was trained)."""
    batch: tuple[int, int, int] = (1, 1, 8)
    """Fewest, usual and most images in one run."""
    precision: ExportPrecision | None = None
    """Arithmetic of the network (default: fp16 where the file is built for GPUs, fp32 elsewhere)."""
    device: str | None = None
    """Where it is built and verified: cuda, cuda:1, cpu … (default: the first GPU where there is one)."""
    verify_images: Path | None = None
    """Images, a folder or one, on which the artifact is compared with the checkpoint (default: made-up ones)."""
    verify_annotations: Path | None = None
    """COCO file: print the AP of checkpoint and artifact on its images (of --verify-images, or the calibration's)."""
    calibration_images: Path | None = None
    """Images like those to come, a folder or one: int8 and fp8 take the ranges of values from them."""
    calibration_count: int = 128
    """How many of them are used."""
    triton: Path | None = None
    """Model repository of Triton Inference Server, a folder to which the file is added as a model, configured."""

    def __post_init__(self) -> None:
        require(
            self.size is None or min(self.size) >= 32,
            f"--size takes H W of at least 32 pixels, but is {self.size}.",
        )
        require(
            1 <= self.batch[0] <= self.batch[1] <= self.batch[2],
            f"--batch takes MIN OPT MAX with 1 <= MIN <= OPT <= MAX, but is {' '.join(map(str, self.batch))}.",
        )
        require(
            self.calibration_count >= 1, f"--calibration-count must be at least 1, but is {self.calibration_count}."
        )
        require(
            self.calibration_images is None or self.precision in QUANTISED,
            "--calibration-images is for --precision int8 and fp8; add one of them, or leave it out.",
        )
        require(
            self.verify_annotations is None or self.pictures is not None,
            "--verify-annotations needs the folder of its images: --verify-images DIR.",
        )

    @property
    def pictures(self) -> Path | None:
        """The images that the artifact is compared on, and that `verify_annotations` is about."""
        return self.verify_images or self.calibration_images
