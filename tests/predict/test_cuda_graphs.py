"""CUDA graphs: when a shape is recorded, and that replays are the run itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from retinanet import cuda_graphs
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


def test_a_failed_recording_leaves_things_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in that does as PyTorch does: what failed cannot be ended, and neither is anything else."""
    recorders = SimpleNamespace(device="cpu")
    current, recording, sound = ["the caller's"], [], []

    @contextmanager
    def stream(name: str) -> Iterator[None]:
        before, current[0] = current[0], name
        try:
            yield
        finally:
            current[0] = before

    @contextmanager
    def record(graph: object, pool: object, stream: object, mode: str) -> Iterator[None]:
        recording.append(pool)
        before, current[0] = current[0], stream
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError("operation failed due to a previous error during capture") from error
        current[0] = before
        recording.remove(pool)
        sound.append(True)

    def waits(images: Tensor, image_sizes: Tensor) -> Detections:
        if recording:
            raise RuntimeError("operation not permitted when stream is capturing")
        return run(images, image_sizes)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(cuda_graphs, "_recorders_stream", lambda _: recorders)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda _, pool: recording.remove(pool), raising=False)
    graphs = CudaGraphs(waits)
    for value in (1.0, 2.0, 3.0):
        assert graphs(*batch(2, value)).scores[0] == value * 24
        assert current == ["the caller's"]
        assert not recording
    assert sound == [True]  # the recording that brings random numbers back


def test_each_device_records_on_a_stream_of_its_own_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default PyTorch records on the device that it recorded on first; and never two graphs at once."""
    streams: list[str] = []

    class Graph:
        def replay(self) -> None:
            pass

    @contextmanager
    def record(graph: object, pool: object, stream: str, mode: str) -> Iterator[None]:
        assert cuda_graphs._recording.locked()
        streams.append(stream)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    cuda_graphs._recorders_stream.cache_clear()
    try:
        for device in ("cpu", "meta", "cpu"):
            graphs = CudaGraphs(lambda images, _: Detections(*[images] * 4))
            for _ in range(2):
                graphs(*(tensor.to(device) for tensor in batch(2)))
    finally:
        cuda_graphs._recorders_stream.cache_clear()
    assert streams == ["a stream of cpu", "a stream of meta", "a stream of cpu"]
    assert not cuda_graphs._recording.locked()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_devices_in_one_process(trained: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.uint8) for _ in range(3)]
    sizes = torch.tensor([(64, 96)] * 2)
    for device in ("cuda:0", "cuda:1"):
        runtime = FusedRuntime.from_file(trained, postprocess=PostprocessConfig(), device=device, precision="fp16")
        for image in images:  # the second is recorded, the third is replayed
            with torch.inference_mode(), torch.cuda.device(device):
                expected = runtime.detector(image.to(device), sizes.to(device))
            found = runtime(image.to(device), sizes.to(device))
            for column, other in zip(expected, found, strict=True):
                assert torch.equal(column, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_waits_for_the_gpu_runs_and_gives_its_memory_back() -> None:
    def waits(images: Tensor, image_sizes: Tensor) -> Detections:
        return run(images, image_sizes)  # which looks at a sum

    graphs, other = CudaGraphs(waits), torch.cuda.Stream()
    stream = torch.cuda.current_stream()
    for value in (1.0, 2.0, 3.0):
        images, sizes = (tensor.cuda() for tensor in batch(2, value))
        assert graphs(images, sizes).scores[0] == value * 24
        assert torch.cuda.current_stream() == stream
    before = torch.cuda.memory_allocated()
    for _ in range(4):
        borrowed = torch.zeros(2**20, device="cuda")
        borrowed.record_stream(other)
        del borrowed
        torch.cuda.synchronize()
    torch.rand(1, device="cuda")  # looks at what the other stream has done with; and random numbers are drawn again
    assert torch.cuda.memory_allocated() < before + 2 * 4 * 2**20


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
