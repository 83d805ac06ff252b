"""What one run of training is asked to do: files and options, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from retinanet.config import DataConfig, ModelConfig, TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.data.classes import require_same_classes
from retinanet.data.coco import read_annotations
from retinanet.errors import UsageError
from retinanet.files import require_writable
from retinanet.train.board import require_board


@dataclass(frozen=True)
class TrainingJob:
    """Arguments of `retinanet train`; see its help."""

    path: Path
    images: Path
    annotations: Path
    val_images: Path | None
    val_annotations: Path | None
    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    @property
    def inputs(self) -> dict[str, Path | None]:
        """The options that name files."""
        return {
            **{"images": self.images, "annotations": self.annotations},
            **{"val_images": self.val_images, "val_annotations": self.val_annotations},
        }

    @property
    def shared(self) -> tuple[DataConfig, TrainConfig]:
        """Options that all processes of a run must be given alike; those that may differ between machines are unset."""
        return replace(self.data, workers=None), replace(self.train, device=None, logdir=None, loader="auto")

    def check(self) -> None:
        """What can be known before anything is read. Raises `UsageError`."""
        require_writable(self.path)
        if self.data.batch % self.train.accumulate:
            raise UsageError(
                f"--accumulate must divide --batch ({self.data.batch}) into equal parts, "
                f"but is {self.train.accumulate}."
            )
        if (self.val_images is None) != (self.val_annotations is None):
            raise UsageError("--val-images and --val-annotations go together, but one is missing; give both or none.")
        if self.train.logdir is not None:
            require_board()
        if self.train.patience is not None and self.val_images is None:
            raise UsageError(
                "--patience counts validations, but there are none; give --val-images and --val-annotations."
            )

    def read(self) -> tuple[CocoData, CocoData | None]:
        """Training and validation data, checked against each other. Raises `DataError`."""
        data = read_annotations(self.annotations, self.images)
        data.check_trainable()
        if self.val_annotations is None:
            return data, None
        held_out = read_annotations(self.val_annotations, self.val_images)
        assert data.classes is not None
        require_same_classes(held_out, data.classes)
        return data, held_out
