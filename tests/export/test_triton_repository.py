"""Model repositories, judged by Triton's own definition of their configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import Command
from retinanet.config import PostprocessConfig
from retinanet.errors import UsageError
from retinanet.export import triton_repository
from retinanet.export.triton_repository import configuration, require_repository, write_repository
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.onnx import OnnxRuntime
from retinanet.types import ClassMap


@pytest.fixture
def parse() -> Callable[[str], Any]:
    """A configuration as Triton reads it; what its definition does not have is an error."""
    definition = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return lambda text: text_format.Parse(text, definition.ModelConfig())


@pytest.fixture
def record() -> ArtifactRecord:
    classes = ClassMap((3, 17), ('a "quoted" name', "Straßenbahn \\ tram\nline"))
    return ArtifactRecord(
        "onnx", classes, (64, 96), (1, 2, 4), 64, 96, PostprocessConfig(detections=7), "fp32", "m.pth"
    )


def shapes_of(config: Any) -> dict[str, tuple[int, list[int]]]:
    return {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in (*config.input, *config.output)}


def test_triton_forms_batches_where_the_artifact_takes_them(
    parse: Callable[[str], Any], record: ArtifactRecord
) -> None:
    config = parse(configuration("shop", record))
    assert (config.name, config.platform, config.max_batch_size) == ("shop", "onnxruntime_onnx", 4)
    assert config.HasField("dynamic_batching")
    uint8, int64, fp32 = 2, 9, 11  # of Triton's DataType
    assert shapes_of(config) == {
        "images": (uint8, [3, 64, 96]),
        "image_sizes": (int64, [2]),
        "scores": (fp32, [7]),
        "boxes": (fp32, [7, 4]),
        "classes": (int64, [7]),
    }
    assert ArtifactRecord.from_json(config.parameters["retinanet"].string_value, "config.pbtxt") == record


@pytest.mark.parametrize(("batch", "first"), [((1, 1, 1), 1), ((8, 8, 8), 8), ((2, 3, 4), -1)])
def test_other_batches_are_the_clients(
    parse: Callable[[str], Any], record: ArtifactRecord, batch: tuple[int, int, int], first: int
) -> None:
    config = parse(configuration("shop", replace(record, batch=batch, format="tensorrt")))
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 0)
    assert not config.HasField("dynamic_batching")
    assert {dims[0] for _, dims in shapes_of(config).values()} == {first}
    assert shapes_of(config)["boxes"][1] == [first, 7, 4]


def test_the_command_writes_a_repository(
    retinanet: Command, trained: Path, tmp_path: Path, parse: Callable[[str], Any]
) -> None:
    """Its model runs, and its configuration fits what ONNX Runtime says of it; a second one lands beside it."""
    done = retinanet("export", trained, tmp_path / "shop.onnx", triton=tmp_path / "models", device="cpu")
    assert done.code == 0, done.err
    model = tmp_path / "models" / "shop"
    assert str(model) in done.out
    assert sorted(str(path.relative_to(model)) for path in model.rglob("*")) == [
        *("1", "1/model.onnx", "config.pbtxt", "labels.txt")
    ]
    assert (model / "1" / "model.onnx").read_bytes() == (tmp_path / "shop.onnx").read_bytes()
    assert (model / "labels.txt").read_text().splitlines() == ["disc", "rectangle", "triangle"]
    config = parse((model / "config.pbtxt").read_text())
    runtime = OnnxRuntime.from_file(model / "1" / "model.onnx", "cpu")
    described = {value.name: value for value in (*runtime._session.get_inputs(), *runtime._session.get_outputs())}
    kinds = {2: "tensor(uint8)", 9: "tensor(int64)", 11: "tensor(float)"}
    for name, (kind, dims) in shapes_of(config).items():
        assert (kinds[kind], ["batch", *dims]) == (described[name].type, described[name].shape)
    assert all((model / output.label_filename).is_file() for output in config.output if output.label_filename)

    shutil.move(tmp_path / "shop.onnx", tmp_path / "other.onnx")
    write_repository(tmp_path / "models", tmp_path / "other.onnx", runtime.record)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["other", "shop"]


def test_labels_are_one_a_line(record: ArtifactRecord, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    model = write_repository(tmp_path / "models", tmp_path / "m.onnx", record)
    assert (model / "labels.txt").read_text(encoding="utf-8") == 'a "quoted" name\nStraßenbahn \\ tram line\n'


def test_what_cannot_work_is_one_sentence(retinanet: Command, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "taken").mkdir(parents=True)
    (tmp_path / "file").write_text("no folder")
    for name, folder, words in (
        ("taken.onnx", "models", "has a model taken already"),
        ("m.pt2", "models", "not .pt2 files"),
        ("m.onnx", "file", "is a file"),
        ("m.onnx", "nowhere/models", "no folder"),
        ("m.onnx", "/proc", "name another folder"),
    ):
        done = retinanet("export", trained, tmp_path / name, triton=tmp_path / folder, device="cpu")
        assert done.code == 2, done.err
        assert words in done.sentence
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "models", "taken"]


def test_triton_runs_no_plans_of_tensorrt_rtx(
    record: ArtifactRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        portable = True

    monkeypatch.setattr(triton_repository, "libraries_for", lambda device: [Library])
    plan = replace(record, format="tensorrt")
    with pytest.raises(UsageError, match="TensorRT-RTX"):
        require_repository(tmp_path / "models", tmp_path / "m.plan", plan, torch.device("cpu"))
    Library.portable = False
    require_repository(tmp_path / "models", tmp_path / "m.plan", plan, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(
    record: ArtifactRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "m.onnx").write_bytes(b"model")
    monkeypatch.setattr(triton_repository.shutil, "copyfile", full)
    with pytest.raises(UsageError, match="No space left"):
        write_repository(tmp_path / "models", tmp_path / "m.onnx", record)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
