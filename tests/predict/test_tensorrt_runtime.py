"""A plan gives what its graph gives, on the memory that it is handed; what does not fit is one sentence."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from command_line import Command, Shapes
from fake_tensorrt import GPU, FakeTensorRT, FakeTensorRTRTX, put_gpu, put_tensorrt, stub_wheel
from retinanet import load
from retinanet.config import PredictConfig
from retinanet.data.images import read_image
from retinanet.errors import ModelError, RetinaNetError, UsageError
from retinanet.export.plan import build_plan
from retinanet.predict.predictor import Predictor
from retinanet.predict.runtimes.artifact import read_sidecar, write_sidecar
from retinanet.predict.runtimes.onnx import OnnxRuntime
from retinanet.predict.runtimes.tensorrt import TensorRTRuntime
from retinanet.predict.runtimes.tensorrt_library import libraries_for

CPU = torch.device("cpu")


class Stream:
    """What the runtime asks of CUDA's streams, noted in the order in which it is asked."""

    cuda_stream = 77
    order: list[str]

    def __init__(self, *_: object) -> None:
        self.order = []

    def wait_stream(self, other: object) -> None:
        self.order.append("waits")


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """A machine with TensorRT and a GPU."""
    module = FakeTensorRT()
    put_gpu(monkeypatch)
    put_tensorrt(monkeypatch, tensorrt=module)
    return module


@pytest.fixture
def plan(trt: FakeTensorRT, onnx_model: Path, tmp_path: Path) -> Path:
    """A plan with its record beside it."""
    return make_plan(onnx_model, tmp_path)


def make_plan(onnx_model: Path, folder: Path) -> Path:
    record = replace(OnnxRuntime.read_record(onnx_model), format="tensorrt")
    out = folder / "model.plan"
    write_sidecar(out, build_plan(onnx.load(onnx_model), record, out, libraries_for(GPU)[0], GPU).record)
    return out


@pytest.fixture
def runtime(plan: Path, monkeypatch: pytest.MonkeyPatch) -> TensorRTRuntime:
    """It, opened as on a GPU, but with its buffers in this machine's memory."""
    current = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *arguments: None)
    honest = TensorRTRuntime._prepare
    monkeypatch.setattr(
        TensorRTRuntime, "_prepare", lambda self, engine, library, device: honest(self, engine, library, CPU)
    )
    opened = TensorRTRuntime.from_file(plan, None)
    assert opened.device == GPU
    opened.device = CPU
    return opened


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_detections_are_the_graphs(runtime: TensorRTRuntime, onnx_model: Path, shapes: Shapes, count: int) -> None:
    """More pictures than a batch takes, and fewer."""
    pictures = sorted(shapes.val_images.iterdir())[:count]
    found = Predictor(runtime)(pictures)
    expected = load(onnx_model, config=PredictConfig(device="cpu"))(pictures)
    assert int(found.count.sum()) > 0
    for column, other in zip(found, expected, strict=True):
        assert torch.equal(column, other)


def test_results_outlive_the_next_call(runtime: TensorRTRuntime, shapes: Shapes) -> None:
    images = [read_image(path) for path in sorted(shapes.val_images.iterdir())[1:6:2]]
    batches = [torch.stack([image, image])[..., :64, :64] for image in images]
    batches = [torch.nn.functional.pad(batch, (0, 32)) for batch in batches]
    sizes = torch.tensor([[64, 64]] * 2)
    first = runtime(batches[0], sizes)
    kept = [column.clone() for column in first]
    runtime(batches[1], sizes)
    assert all(torch.equal(column, copy) for column, copy in zip(first, kept, strict=True))
    channels_last = batches[0].contiguous(memory_format=torch.channels_last)
    assert not channels_last.is_contiguous()
    assert torch.equal(runtime(channels_last, sizes).scores, first.scores)


def test_it_runs_on_a_stream_of_its_own(runtime: TensorRTRuntime, trt: FakeTensorRT) -> None:
    """Which waits for the caller's, and the caller's for it."""
    runtime(torch.zeros(2, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 96]] * 2))
    assert trt.engines[-1].context.streams == [Stream.cuda_stream]
    assert runtime._stream.order == ["waits"]
    assert torch.cuda.current_stream(CPU).order == ["waits"]  # type: ignore[attr-defined]


def test_the_record_is_read_beside_the_plan_or_inside(plan: Path) -> None:
    beside = read_sidecar(plan)
    assert TensorRTRuntime.read_record(plan) == beside
    plan.with_name("model.plan.json").unlink()
    assert TensorRTRuntime.read_record(plan) == replace(beside, file_bytes=None)


def refused(path: Path, kind: type[Exception] = ModelError, **config: Any) -> str:
    with pytest.raises(kind) as caught:
        load(path, config=PredictConfig(**config))
    return str(caught.value)


def test_another_gpu(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpu(monkeypatch, "NVIDIA A10", (8, 6))
    sentence = refused(plan)
    assert "built by TensorRT 10.8.0.43 for GPUs of compute capability 9.0" in sentence
    assert "this is TensorRT 10.8.0.43 on NVIDIA A10, compute capability 8.6" in sentence
    assert sentence.endswith("export the model again here.")


def test_another_version(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tensorrt(monkeypatch, tensorrt=FakeTensorRT("10.13.0.35"))
    sentence = refused(plan)
    assert "built by TensorRT 10.8.0.43" in sentence
    assert "this is TensorRT 10.13.0.35 on NVIDIA H100" in sentence
    # Without its record, TensorRT itself has to find out.
    plan.with_name("model.plan.json").unlink()
    assert "Version tag does not match" in refused(plan)


def test_no_gpu(plan: Path, monkeypatch: pytest.MonkeyPatch, retinanet: Command, shapes: Shapes) -> None:
    assert "--device cpu" in refused(plan, UsageError, device="cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = retinanet("infer", plan, images=shapes.val_images)
    assert done.code == 4
    assert "runs on GPUs alone, but this machine has none" in done.sentence
    plan.with_name("model.plan.json").unlink()
    assert "runs on GPUs alone" in refused(plan)


@pytest.mark.parametrize(("module", "words"), [(None, "tensorrt"), (stub_wheel(), "libnvinfer.so.10 was not found")])
def test_no_library(plan: Path, monkeypatch: pytest.MonkeyPatch, module: Any, words: str) -> None:
    put_tensorrt(monkeypatch, tensorrt=module)
    sentence = refused(plan, UsageError)
    assert words in sentence
    assert "\n" not in sentence
    assert "built by TensorRT 10.8.0.43" in sentence
    assert sentence.endswith("pip install 'retinanet[tensorrt]'.")
    plan.with_name("model.plan.json").unlink()
    assert "pip install 'retinanet[tensorrt]' or pip install 'retinanet[tensorrt-rtx]'" in refused(plan, UsageError)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
def test_a_truncated_plan(plan: Path, part: float) -> None:
    content = plan.read_bytes()
    plan.write_bytes(content[: int(part * len(content))])
    assert f"but its record says {len(content)}" in refused(plan)
    plan.with_name("model.plan.json").unlink()
    assert "Serialization assertion failed" in refused(plan)


def test_a_plan_of_the_right_size_that_is_damaged(plan: Path) -> None:
    plan.write_bytes(bytes(plan.stat().st_size))
    assert "it is damaged, or was built by another version" in refused(plan)


def test_someone_elses_plan(plan: Path, onnx_model: Path, tmp_path: Path) -> None:
    content = plan.read_bytes()
    head, _, graph = content.partition(b"\n")
    plan.with_name("model.plan.json").unlink()
    for name in (b'""', b'"Unnamed Network 0"', b'"[1]"', b'"{}"'):
        start, end = head.index(b'"name": ') + 8, head.index(b', "network_flags"')
        plan.write_bytes(head[:start] + name + head[end:] + b"\n" + graph)
        assert "a plan that was not made here" in refused(plan)


def test_a_plan_for_rtx_gpus_says_itself_whether_it_fits(
    monkeypatch: pytest.MonkeyPatch, onnx_model: Path, tmp_path: Path
) -> None:
    put_gpu(monkeypatch)
    put_tensorrt(monkeypatch, tensorrt_rtx=FakeTensorRTRTX(flaws=2))
    plan = make_plan(onnx_model, tmp_path)
    sentence = refused(plan)
    assert "built by TensorRT-RTX 1.7.1.116 for GPUs of compute capability 8.0, 8.6, 8.9, 12.0" in sentence
    assert "this is TensorRT-RTX 1.7.1.116 on NVIDIA H100, compute capability 9.0 (UNSUPPORTED_CC)" in sentence
    put_tensorrt(monkeypatch, tensorrt_rtx=FakeTensorRTRTX())
    monkeypatch.setattr(TensorRTRuntime, "_prepare", lambda *_: None)
    assert isinstance(load(plan).runtime, TensorRTRuntime)


def test_a_record_that_does_not_say_what_built_it(plan: Path) -> None:
    write_sidecar(plan, replace(read_sidecar(plan), versions={}))
    assert "which TensorRT built it" in refused(plan)


def test_no_room_to_run(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fake_tensorrt.Engine.create_execution_context", lambda self: None)
    with pytest.raises(RetinaNetError, match=r"cannot run the plan .*free GPU memory"):
        load(plan)


def test_a_library_that_cannot_start(plan: Path, trt: FakeTensorRT) -> None:
    """As without a driver: TensorRT's own classes then raise this."""

    def fail(logger: Any) -> None:
        logger.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35.")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Runtime = fail  # type: ignore[method-assign]
    assert "TensorRT 10.8.0.43 cannot start here (CUDA initialization failure with error: 35.)" in refused(plan)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_plan_built_on_this_gpu_runs_on_it(
    retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path, precision: str
) -> None:
    """The real thing: nothing stands in, and the engine's own layers are asked."""
    if not any(map(importlib.util.find_spec, ("tensorrt", "tensorrt_rtx"))):
        pytest.skip("needs TensorRT")
    plan = tmp_path / "model.plan"
    done = retinanet("export", trained, plan, precision=precision, batch=(1, 2, 4))
    assert done.code == 0, done.err
    if "It cannot run here" in done.out:
        pytest.skip(done.out)
    assert "73 convolutions" in done.out
    assert "the engine's layers confirm" in done.out
    pictures = sorted(shapes.val_images.iterdir())
    found = load(plan)(pictures)
    expected = load(trained, config=PredictConfig(canvas=(64, 96), precision="fp32"))(pictures)
    assert int(found.count.sum()) > 0
    near = 1e-3 if precision == "fp32" else 0.02
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=near)


def test_tensorrt_keeps_one_logger(trt: FakeTensorRT) -> None:
    """It holds on to the first for as long as the process lives."""
    assert libraries_for(GPU)[0].logger is libraries_for(GPU)[0].logger
