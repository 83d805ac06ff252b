"""CUDA graphs: when a shape is recorded, and that replays are the run itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from retinanet.config import PostprocessConfig
from retinanet.predict.runtimes.cuda_graphs import LIMIT, CudaGraphs, Run
from retinanet.predict.runtimes.fused import FusedRuntime
from retinanet.types import Detections


def run(images: Tensor, image_sizes: Tensor) -> Detections:
    return Detections(*(torch.full((len(images),), float(images.sum())) for _ in range(4)))


class Capture:
    """Stands in for the recorder, which needs a GPU."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.replays = 0

    def __call__(self, run: Run, images: Tensor, image_sizes: Tensor) -> Run:
        self.shapes.append(tuple(images.shape))

        def replay(images: Tensor, image_sizes: Tensor) -> Detections:
            self.replays += 1
            return run(images, image_sizes)

        return replay


def batch(count: int, value: float = 1.0) -> tuple[Tensor, Tensor]:
    return torch.full((count, 3, 2, 2), value), torch.full((count, 2), 2)


def test_a_shape_is_recorded_at_its_second_use() -> None:
    capture = Capture()
    graphs = CudaGraphs(run, capture)
    for value in (1.0, 2.0, 3.0):
        assert graphs(*batch(2, value)).scores[0] == value * 24
    graphs(*batch(1))
    assert capture.shapes == [(2, 3, 2, 2)]
    assert capture.replays == 2


def test_the_shape_used_longest_ago_is_forgotten() -> None:
    capture = Capture()
    graphs = CudaGraphs(run, capture)
    for count in range(1, LIMIT + 1):
        graphs(*batch(count))
    graphs(*batch(1))  # so 2 is the oldest now
    graphs(*batch(LIMIT + 1))
    assert capture.shapes == [(1, 3, 2, 2)]
    graphs(*batch(1))
    graphs(*batch(2))
    assert len(capture.shapes) == 1
    assert capture.replays == 2


def test_what_cannot_be_recorded_runs_as_it_is() -> None:
    def refuse(run: Run, images: Tensor, image_sizes: Tensor) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = CudaGraphs(run, refuse)
    assert [graphs(*batch(2, value)).scores[0] for value in (1.0, 2.0, 3.0)] == [24, 48, 72]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replays_equal_runs_on_a_gpu(trained: Path) -> None:
    runtime = FusedRuntime.from_file(trained, postprocess=PostprocessConfig(), device="cuda", precision="fp16")
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 3, 64, 96), (1, 3, 96, 64)):
        sizes = torch.tensor([shape[2:]] * shape[0], device="cuda")
        images = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).cuda() for _ in range(4)]
        with torch.inference_mode():
            expected = [runtime.detector(image, sizes) for image in images]
        for _ in range(2):  # recorded in the first round
            found = [runtime(image, sizes) for image in images]
            for one, two in zip(expected, found, strict=True):
                for column, other in zip(one, two, strict=True):
                    assert torch.equal(column, other)
