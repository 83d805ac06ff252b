"""The builder, with a stand-in for TensorRT: what it is told, and what is made of its answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from command_line import Command
from fake_tensorrt import GPU, FakeTensorRT, FakeTensorRTRTX, put_gpu, put_tensorrt, stub_wheel
from retinanet.errors import ExportError, UsageError
from retinanet.export.describe import Built
from retinanet.export.plan import Plan, build_plan
from retinanet.export.tensorrt import describe_plan
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.onnx import OnnxRuntime
from retinanet.predict.runtimes.plan_name import record_of_name
from retinanet.predict.runtimes.tensorrt_library import libraries_for

CPU = torch.device("cpu")
Build = Callable[..., Built]


@pytest.fixture
def record(onnx_model: Path) -> ArtifactRecord:
    """Of a detector in fp32 for batches of 2 to 4."""
    return replace(OnnxRuntime.read_record(onnx_model), format="tensorrt")


@pytest.fixture
def build(onnx_model: Path, record: ArtifactRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build its plan, `model.plan`, by what is installed."""
    put_gpu(monkeypatch)

    def run(device: torch.device = GPU, **changes: Any) -> Built:
        graph, out, library = onnx.load(onnx_model), tmp_path / "model.plan", libraries_for(device)[0]
        plan = build_plan(graph, replace(record, **changes), out, library, device)
        assert isinstance(plan, Plan)
        return describe_plan(graph, plan, out, library, device)

    return run


def header_of(folder: Path) -> dict[str, Any]:
    """What the stand-in was told."""
    header: dict[str, Any] = json.loads((folder / "model.plan").read_bytes().partition(b"\n")[0])
    return header


@pytest.mark.parametrize(("version", "flag"), [("10.8.0.43", 0b10), ("11.4.0.106", 0b01)])
def test_what_tensorrt_is_told(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, flag: int
) -> None:
    """A strongly typed network, whatever the flag's value; fp32 that is fp32; the batch; the record as its name."""
    put_tensorrt(monkeypatch, tensorrt=FakeTensorRT(version))
    built = build()
    header = header_of(tmp_path)
    assert header["network_flags"] == flag
    assert header["flags"] == []
    assert header["verbosity"] == "detailed"
    images, sizes = [[count, 3, 64, 96] for count in (2, 3, 4)], [[count, 2] for count in (2, 3, 4)]
    assert header["profiles"] == [{"images": images, "image_sizes": sizes}]
    assert built.record.versions["tensorrt"] == version
    assert (built.record.device, built.record.compute_capabilities) == ("cuda", ("9.0",))
    assert built.record.file_bytes == (tmp_path / "model.plan").stat().st_size
    assert record_of_name(header["name"], "") == replace(built.record, file_bytes=None)


def test_a_constant_batch_needs_no_profile(
    onnx_model: Path, record: ArtifactRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_gpu(monkeypatch)
    put_tensorrt(monkeypatch, tensorrt=FakeTensorRT())
    graph = onnx.load(onnx_model)
    for value in graph.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2
    build_plan(graph, replace(record, batch=(2, 2, 2)), tmp_path / "model.plan", libraries_for(GPU)[0], GPU)
    assert header_of(tmp_path)["profiles"] == []


@pytest.mark.parametrize(
    ("installed", "device", "chosen"),
    [
        ({"tensorrt": FakeTensorRT(), "tensorrt_rtx": FakeTensorRTRTX()}, GPU, "tensorrt"),
        ({"tensorrt": stub_wheel(), "tensorrt_rtx": FakeTensorRTRTX()}, GPU, "tensorrt_rtx"),
        ({"tensorrt": None, "tensorrt_rtx": FakeTensorRTRTX()}, GPU, "tensorrt_rtx"),
        ({"tensorrt": FakeTensorRT(), "tensorrt_rtx": FakeTensorRTRTX()}, CPU, "tensorrt_rtx"),
    ],
)
def test_which_library_builds(
    monkeypatch: pytest.MonkeyPatch, installed: dict, device: torch.device, chosen: str
) -> None:
    put_tensorrt(monkeypatch, **installed)
    assert libraries_for(device)[0].key == chosen


def test_no_library_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    put_tensorrt(monkeypatch, tensorrt=stub_wheel())
    with pytest.raises(UsageError, match=r"libnvinfer.*pip install 'retinanet\[tensorrt\]' or pip install") as caught:
        libraries_for(GPU)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"^A plan needs TensorRT-RTX .*: pip install 'retinanet\[tensorrt-rtx\]'\.$"):
        libraries_for(CPU)


def test_the_command_says_what_is_missing(
    retinanet: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_tensorrt(monkeypatch)
    done = retinanet("export", trained, tmp_path / "model.engine", device="cpu")
    assert done.code == 2
    assert "pip install 'retinanet[tensorrt-rtx]'" in done.sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["top_n", "detections"])
def test_more_than_tensorrt_sorts(retinanet: Command, trained: Path, tmp_path: Path, option: str) -> None:
    done = retinanet("export", trained, tmp_path / "model.plan", device="cpu", **{option: 3841})
    assert done.code == 2
    assert f"at most 3840, but --{option.replace('_', '-')} is 3841" in done.sentence
    assert list(tmp_path.iterdir()) == []


def test_the_engines_layers_are_looked_at(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tensorrt(monkeypatch, tensorrt=FakeTensorRT())
    built = build()
    assert built.stand_in is None
    assert built.lines == (
        "Built by TensorRT 10.8.0.43 for GPUs of compute capability 9.0.",
        "73 convolutions in fp32: the engine's layers confirm 73 of them.",
    )


@pytest.mark.parametrize("becomes", ["Channel major FP16 format where channel % 8 == 0", "Half", "Int8"])
def test_an_engine_in_another_precision_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch, becomes: str) -> None:
    put_tensorrt(monkeypatch, tensorrt=FakeTensorRT(becomes=becomes))
    with pytest.raises(ExportError, match=r"73 of 73 convolutions in another precision.*fp32 became (fp16|int8)"):
        build()


def test_an_engine_that_does_not_say(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    put_tensorrt(monkeypatch, tensorrt=FakeTensorRT(becomes="unknown"))
    assert "does not say what its layers compute in" in build().lines[1]


def test_a_graph_in_another_precision_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_tensorrt(monkeypatch, tensorrt=FakeTensorRT())
    with pytest.raises(ExportError, match="fp16 was asked for, but the network has 73 convolutions in fp32"):
        build(precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_fails_says_why(build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_tensorrt(monkeypatch, tensorrt=FakeTensorRT(fails="Could not find any implementation for node X."))
    with pytest.raises(ExportError, match=r"^TensorRT 10\.8\.0\.43 cannot build model\.pth \(Could not find any"):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_plan_for_rtx_gpus_on_a_gpu_that_is_none(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is built, and its graph is compared in its place."""
    put_tensorrt(monkeypatch, tensorrt_rtx=FakeTensorRTRTX(flaws=2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # for ONNX Runtime's place
    built = build()
    assert header_of(tmp_path)["compute_capabilities"] == [80, 86, 89, 120]
    assert isinstance(built.stand_in, OnnxRuntime)
    assert "cannot run here: it was built by TensorRT-RTX" in built.lines[2]
    assert "UNSUPPORTED_CC" in built.lines[2]
