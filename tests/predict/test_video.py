"""Videos: frames as images, in order, and as an annotated video."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from command_line import Command, Shapes
from retinanet.data.folder import images_only
from retinanet.data.images import read_image
from retinanet.data.video import Video, read_video
from retinanet.errors import DataError, UsageError
from retinanet.predict.predictor import Predictor, load

decoders = pytest.importorskip("torchcodec.decoders")
encoders = pytest.importorskip("torchcodec.encoders")
try:
    encoders.Encoder()
except Exception:
    pytest.skip("needs FFmpeg's libraries and torchcodec's Encoder", allow_module_level=True)

FRAMES = 9


def make_video(path: Path, frames: Tensor, rate: float = 10.0) -> Path:
    """Of any size: the usual 4:2:0 would have even sides."""
    encoder = encoders.Encoder()
    height, width = frames.shape[2:]
    stream = encoder.add_video(height=height, width=width, frame_rate=rate, crf=1, pixel_format="yuv444p")
    with encoder.open_file(path):
        stream.add_frames(frames)
    return path


@pytest.fixture(scope="module")
def frames(shapes: Shapes) -> Tensor:
    """A picture of 64 × 96 with three black columns that move from frame to frame."""
    picture = next(image for image in map(read_image, sorted(shapes.val_images.iterdir())) if image.shape[2] == 96)
    moving = picture.repeat(FRAMES, 1, 1, 1)
    for index in range(FRAMES):
        moving[index, :, :, 10 * index : 10 * index + 3] = 0
    return moving


@pytest.fixture(scope="module")
def video(frames: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames)


def nearest(frame: Tensor, frames: Tensor) -> int:
    return int((frame.float() - frames.float()).abs().mean(dim=(1, 2, 3)).argmin())


def test_frames_are_images_with_their_numbers(video: Path, frames: Tensor) -> None:
    data = images_only(video)
    assert isinstance(data, Video)
    assert data.image_ids.tolist() == list(range(FRAMES))
    assert data.sizes.tolist() == [[64, 96]] * FRAMES
    assert data.file_names[3] == "clip.mp4#3"
    assert data.frame_rate == pytest.approx(10)
    for index in (0, 5, 2, 8):
        frame = data.read(index)
        assert frame.dtype == torch.uint8
        assert frame.stride() == (1, 3 * 96, 3)  # channels-last, as `read_image` has it
        assert nearest(frame, frames) == index


def test_a_process_that_has_read_a_video_may_fork_readers(video: Path, tmp_path: Path) -> None:
    other = shutil.copy(video, tmp_path / "other.mp4")
    read_video(video).read(0)  # its decoder, with threads of its own, is there when the next line forks
    with multiprocessing.get_context("fork").Pool(1) as pool:
        frame = pool.apply_async(_first_frame, (Path(other),)).get(timeout=60)
    assert torch.equal(frame, read_video(video).read(0))


def _first_frame(path: Path) -> Tensor:
    return read_video(path).read(0)


@pytest.fixture
def infer(retinanet: Command, trained: Path, video: Path, tmp_path: Path) -> Command:
    def run(**options: object):
        given = {"images": video, "output": tmp_path / "out.json", "device": "cpu", "batch": 2, "workers": 2, **options}
        return retinanet("infer", trained, **given)

    return run


def read_all(path: Path) -> Tensor:
    return torch.stack(list(decoders.VideoDecoder(str(path))))


def test_detections_of_a_video_are_those_of_its_frames(
    infer: Command, trained: Path, video: Path, tmp_path: Path
) -> None:
    assert infer(draw=tmp_path / "drawn", devices=3).code == 0  # one process reads a video
    entries = json.loads((tmp_path / "out.json").read_text())
    data, predictor = read_video(video), load(trained)
    for index in (0, 4, 8):
        expected = predictor(data.read(index))
        count = int(expected.count)
        assert sum(entry["image_id"] == index for entry in entries) == count > 0
    listed = json.loads((tmp_path / "out.images.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in listed] == [(i, f"clip.mp4#{i}") for i in range(FRAMES)]


def test_the_annotated_video_has_the_frames_in_their_order(infer: Command, frames: Tensor, tmp_path: Path) -> None:
    assert infer(draw=tmp_path / "drawn").code == 0
    drawn = read_all(tmp_path / "drawn" / "clip.mp4")
    assert drawn.shape == frames.shape
    assert [nearest(frame, frames) for frame in drawn] == list(range(FRAMES))
    assert decoders.VideoDecoder(str(tmp_path / "drawn" / "clip.mp4")).metadata.average_fps == pytest.approx(10)
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["clip.mp4"]


def test_an_interrupted_video_is_whole_after_resuming(
    infer: Command, frames: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = Predictor.run, 0

    def run(predictor: Predictor, batch: object):
        nonlocal count
        count += 1
        if count == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(predictor, batch)

    monkeypatch.setattr(Predictor, "run", run)
    assert infer(draw=tmp_path / "drawn").code == 6
    assert list((tmp_path / "drawn").iterdir()) == []
    assert infer(draw=tmp_path / "drawn", resume=True).code == 0
    assert count == 5
    drawn = read_all(tmp_path / "drawn" / "clip.mp4")
    assert [nearest(frame, frames) for frame in drawn] == list(range(FRAMES))


def test_a_video_is_not_overwritten_by_its_annotated_one(infer: Command, video: Path) -> None:
    before = video.read_bytes()
    done = infer(draw=video.parent)
    assert done.code == 2
    assert "would overwrite" in done.sentence
    assert video.read_bytes() == before


def test_odd_sides_lose_a_line_in_the_annotated_video(infer: Command, tmp_path: Path) -> None:
    odd = make_video(tmp_path / "odd.mkv", torch.zeros(3, 3, 63, 95, dtype=torch.uint8))
    assert images_only(odd).sizes.tolist() == [[63, 95]] * 3
    assert infer(images=odd, draw=tmp_path / "drawn").code == 0
    assert read_all(tmp_path / "drawn" / "odd.mp4").shape == (3, 3, 62, 94)


def test_what_is_no_video_is_a_sentence(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no video .*none\.mp4"):
        images_only(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video" * 100)
    with pytest.raises(DataError, match=r"text\.mp4 can't be decoded \(.*\)") as caught:
        images_only(tmp_path / "text.mp4")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"Frame 99 of .*can't be decoded"):
        read_video(video).read(99)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UsageError, match=r"pip install 'retinanet\[video\]'"):
        images_only(video)


def test_missing_ffmpeg_is_a_sentence(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not properly installed")

    monkeypatch.setattr(decoders, "VideoDecoder", fail)
    with pytest.raises(UsageError, match="apt-get install ffmpeg"):
        images_only(video)
