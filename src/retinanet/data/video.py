"""A video as a data set: its frames are the images, their numbers (from 0) the ids."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from retinanet import extras
from retinanet.data.annotations import CocoData, FlatStrings
from retinanet.errors import DataError, UsageError

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"})


@dataclass(frozen=True, eq=False)
class Video(CocoData):
    """Frames are decoded one after the other, so one process should read them, in order."""

    frame_rate: float = 25.0
    """Frames a second."""

    def read(self, index: int) -> Tensor:
        """Frame `index` as uint8 RGB `[3, H, W]`, channels-last in memory. Raises `DataError` if it is damaged."""
        try:
            frame: Tensor = _own_decoder(self.source)[index]
        except (RuntimeError, IndexError) as error:
            raise DataError(f"Frame {index} of {self.source} can't be decoded ({_reason(error)}).") from error
        return frame


def read_video(path: Path) -> Video:
    """The frames of the video at `path`.

    Raises:
        UsageError: FFmpeg or TorchCodec is missing.
        DataError: the file is missing, or no video that FFmpeg can read.
    """
    if not path.is_file():
        raise DataError(f"There is no video {path}; check the path.")
    try:
        decoder = _open(path)
        frames, rate = len(decoder), decoder.metadata.average_fps
        _, height, width = decoder[0].shape  # as displayed, which the header alone does not say
    except (RuntimeError, IndexError) as error:
        raise DataError(f"Video {path} can't be decoded ({_reason(error)}); remove or replace it.") from error
    none = np.empty(0, np.int64)
    return Video(
        source=path,
        images_dir=path.parent,
        classes=None,
        image_ids=np.arange(frames),
        file_names=FlatStrings([f"{path.name}#{index}" for index in range(frames)]),
        sizes=np.tile(np.array([height, width]), (frames, 1)),
        offsets=np.zeros(frames + 1, np.int64),
        annotation_ids=none,
        boxes=np.empty((0, 4)),
        areas=np.empty(0),
        labels=none,
        crowd=none.astype(bool),
        status=none,
        frame_rate=rate or Video.frame_rate,
    )


def video_library(part: str) -> Any:
    """TorchCodec's `decoders` or `encoders`. Raises `UsageError` where it, or FFmpeg, is missing."""
    return extras.require(f"torchcodec.{part}", "video", "A video")


def _open(path: Path) -> Any:
    try:
        return video_library("decoders").VideoDecoder(str(path), num_ffmpeg_threads=0)
    except RuntimeError as error:
        if "Could not load libtorchcodec" in str(error):
            raise UsageError("A video needs FFmpeg's libraries, which are not here: apt-get install ffmpeg.") from error
        raise


_decoders: dict[tuple[int, int], tuple[Path, Any]] = {}
"""(process, thread) → the video that it reads, and the decoder."""


def _own_decoder(path: Path) -> Any:
    """A decoder of this thread's own.

    One that came by a fork waits for threads that did not come along, for ever, even when it is closed: it is left
    where it is.
    """
    reader = (os.getpid(), threading.get_ident())
    known = _decoders.get(reader)
    if known is None or known[0] != path:
        known = _decoders[reader] = (path, _open(path))
    return known[1]


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0].rpartition(".cpp:")[2]
