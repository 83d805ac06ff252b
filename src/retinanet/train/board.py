"""TensorBoard: losses, rates, COCO's metrics, and pictures of what is annotated beside what is detected."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from retinanet.data.annotations import CocoData
from retinanet.data.images import read_image
from retinanet.errors import DataError, RetinaNetError, UsageError
from retinanet.evaluate.evaluator import positions
from retinanet.extras import require
from retinanet.predict.draw import draw_detections
from retinanet.predict.results import Results
from retinanet.train.validation import Validation

PICTURES = 4
LEAST_SCORE = 0.3
LARGEST_SIDE = 800
"""Pixels: the pictures are for looking at."""
_TAGS = {
    **{"class_loss": "loss/classes", "box_loss": "loss/boxes", "learning_rate": "training/learning rate"},
    **{"images_per_second": "training/images per second", "skipped_steps": "training/skipped steps"},
}


def require_board() -> None:
    """Raise `UsageError` where TensorBoard is not installed."""
    require("tensorboard", "log", "--logdir")


class Board:
    """Event files of a run in `folder`; what an earlier run wrote there after `start_step` is hidden.

    Raises:
        UsageError: TensorBoard is not installed, or `folder` can't be written.
    """

    def __init__(self, folder: Path, validation: Validation | None, *, start_step: int) -> None:
        require_board()
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        try:
            self.writer = SummaryWriter(folder, purge_step=start_step + 1)
        except OSError as error:
            raise UsageError(f"--logdir {folder} can't be written ({error.strerror}); name another folder.") from error
        self.validation = validation
        self._usual_hook = threading.excepthook
        threading.excepthook = self._be_quiet

    def append(self, row: Mapping[str, object]) -> None:
        """Show a row of metrics.csv, with pictures where it is a validation's.

        Raises:
            RetinaNetError: the disk is full, or the folder may not be written any more.
        """
        try:
            self._append(row)
        except OSError as error:
            raise RetinaNetError(
                f"Cannot write --logdir {self.folder} ({error.strerror}); mend it, and give the same command to go on "
                "from the last checkpoint."
            ) from error

    def close(self) -> None:
        """End what was written: each row has come to the disk, or was told not to have."""
        with suppress(OSError):
            self.writer.close()
        threading.excepthook = self._usual_hook

    def _be_quiet(self, ended: threading.ExceptHookArgs) -> None:
        """Leave out the traceback of TensorBoard's thread: what ended it is raised again with the next row."""
        if not type(ended.thread).__module__.startswith("tensorboard."):
            self._usual_hook(ended)

    def _append(self, row: Mapping[str, object]) -> None:
        step = int(str(row["step"]))
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self.writer.add_scalar(_TAGS.get(name, f"validation/{name}"), float(str(value)), step)
        if "AP" in row and self.validation and self.validation.results is not None:
            self._show(step, self.validation.data, self.validation.results)
        self.writer.flush()

    def _show(self, step: int, data: CocoData, results: Results) -> None:
        shown = 0
        for image in range(len(data)):
            if shown == PICTURES:
                break
            try:
                picture = Image.fromarray(read_image(data.image_path(image)).permute(1, 2, 0).numpy())
            except DataError:
                continue  # predicting has told it
            shown += 1
            pair = annotated_and_detected(picture, data, image, results)
            self.writer.add_image(f"validation images/{shown}", pair, step, dataformats="HWC")


def annotated_and_detected(picture: Image.Image, data: CocoData, image: int, results: Results) -> np.ndarray:
    """uint8 RGB `[H, 2 W, 3]`: the picture with its annotations, and with its confident detections."""
    assert data.classes is not None
    scale = min(1.0, LARGEST_SIDE / max(picture.size))
    shown = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    rows = slice(data.offsets[image], data.offsets[image + 1])
    found = results[(results.image_ids == data.image_ids[image]) & (results.scores >= LEAST_SCORE)]
    labels = positions(found.category_ids, np.asarray(data.classes.ids))
    halves = [
        draw_detections(shown, _corners(xywh) * scale, classes, scores, data.classes.names)
        for xywh, classes, scores in (
            (data.boxes[rows], data.labels[rows], None),
            (found.xywh, labels, found.scores),
        )
    ]
    return np.concatenate([np.asarray(half) for half in halves], axis=1)


def _corners(xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
