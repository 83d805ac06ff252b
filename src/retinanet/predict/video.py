"""A video with the detections drawn into its frames."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from retinanet.data.video import Video, video_library
from retinanet.files import atomic_write
from retinanet.predict.journal import Finished
from retinanet.predict.pictures import draw_results, drawn_video
from retinanet.types import ClassMap


@contextlib.contextmanager
def annotated_video(video: Video, classes: ClassMap, folder: Path) -> Iterator[Callable[[Finished], None]]:
    """Give a function that adds finished frames, in their order, to the video's namesake in `folder`, an .mp4 file.

    Frames that cannot be read are left out. The file appears at the end, whole. Raises as `atomic_write` and
    `video_library`.
    """
    height, width = (int(side) // 2 * 2 for side in video.sizes[0])  # what players expect of 4:2:0 video
    encoder = video_library("encoders").Encoder()
    stream = encoder.add_video(height=height, width=width, frame_rate=video.frame_rate, pixel_format="yuv420p")
    drawn = -1

    def add(finished: Finished) -> None:
        nonlocal drawn
        for index in video.indices_of(finished.image_ids).tolist():
            if index > drawn:  # a frame that only a second attempt could read comes too late
                drawn = index
                picture = np.array(draw_results(video, index, finished.results, classes))[:height, :width]
                stream.add_frames(torch.from_numpy(picture).permute(2, 0, 1)[None])

    with atomic_write(drawn_video(video, folder)) as temporary, encoder.open_file(temporary):
        yield add
