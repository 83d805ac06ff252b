"""One ONNX file is the whole detector: the same detections as its checkpoint, from standard operators alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from same_detections import assert_same_detections, canvases

from command_line import SMALL, Command, Shapes
from retinanet import __version__
from retinanet.config import PostprocessConfig
from retinanet.data.images import read_image
from retinanet.export.nms_graph import NMSForm
from retinanet.export.onnx import detector_graph, save
from retinanet.model.checkpoint import build_network, load_checkpoint
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import read_sidecar
from retinanet.predict.runtimes.onnx import OnnxRuntime


def detector_of(checkpoint: Path, postprocess: PostprocessConfig = PostprocessConfig()) -> Detector:
    return Detector(build_network(load_checkpoint(checkpoint)), postprocess).eval()


@pytest.fixture(scope="module")
def fixed(onnx_model: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with NMS in plain tensor operators, for batches of 2 alone."""
    out = tmp_path_factory.mktemp("fixed") / "fixed.onnx"
    record = replace(OnnxRuntime.read_record(onnx_model), batch=(2, 2, 2))
    save(detector_graph(detector_of(trained), record, nms="fixed"), record, out)
    return out


@pytest.mark.parametrize("count", [1, 2, 4])
def test_detections_are_the_checkpoints(onnx_model: Path, trained: Path, shapes: Shapes, count: int) -> None:
    """Pictures of 64 × 96 fill the canvas, those of 64 × 64 don't, nor do pieces of them."""
    pictures = [read_image(path) for path in sorted(shapes.val_images.iterdir())]
    pictures = [*pictures[1::2], *pictures[::2], pictures[1][:, :40, :71]]
    runtime, detector = OnnxRuntime.from_file(onnx_model, "cpu"), detector_of(trained)
    for start in range(0, len(pictures) - count + 1, count):
        images, sizes = canvases(pictures[start : start + count], (64, 96))
        assert_same_detections(runtime, detector, images, sizes)


def test_the_fixed_form_detects_the_same(fixed: Path, trained: Path, shapes: Shapes) -> None:
    pictures = [read_image(path) for path in sorted(shapes.val_images.iterdir())[:2]]
    assert_same_detections(OnnxRuntime.from_file(fixed, "cpu"), detector_of(trained), *canvases(pictures, (64, 96)))
    operators = {node.op_type for node in onnx.load(fixed).graph.node}
    assert not operators & {"NonMaxSuppression", "ScatterND", "Loop", "If", "NonZero"}


def test_blank_slots_detect_nothing(onnx_model: Path) -> None:
    images, sizes = torch.full((2, 3, 64, 96), 200, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.int64)
    assert OnnxRuntime.from_file(onnx_model, "cpu")(images, sizes).boxes.abs().sum() == 0


def test_inputs_and_outputs_are_as_documented(onnx_model: Path, fixed: Path) -> None:
    for path, batch in ((onnx_model, "batch"), (fixed, 2)):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        described = {value.name: (value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())}
        assert described == {
            "images": ("tensor(uint8)", [batch, 3, 64, 96]),
            "image_sizes": ("tensor(int64)", [batch, 2]),
            "scores": ("tensor(float)", [batch, 100]),
            "boxes": ("tensor(float)", [batch, 100, 4]),
            "classes": ("tensor(int64)", [batch, 100]),
        }


def test_anyone_can_run_it(onnx_model: Path) -> None:
    """Without this package: padding included."""
    session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
    images, sizes = np.zeros((3, 3, 64, 96), np.uint8), np.array([[64, 96]] * 3)
    scores, boxes, classes = session.run(None, {"images": images, "image_sizes": sizes})
    assert (classes[scores == 0] == -1).all()
    assert not boxes[scores == 0].any()
    assert (classes[scores > 0] >= 0).all()


def test_the_graph_is_clean(onnx_model: Path) -> None:
    """Standard operators of one opset; the checker accepts it; nothing tells of the machine that it was made on."""
    model = onnx.load(onnx_model)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    content = onnx_model.read_bytes()
    assert not re.search(rb"(/home|/root|/usr|/tmp|/work|site-packages|\.py\b)", content)
    weights = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    assert len(content) < weights + 250 * len(model.graph.node)
    assert len(model.graph.node) < 600


def test_the_record_travels_in_the_file_and_beside_it(onnx_model: Path, trained: Path) -> None:
    record = OnnxRuntime.read_record(onnx_model)
    assert record == read_sidecar(onnx_model)
    network = load_checkpoint(trained).record
    assert record.classes == network.classes
    assert (record.resize, record.max_size) == (network.resize, network.max_size)
    assert (record.canvas, record.batch, record.precision) == ((64, 96), (2, 3, 4), "fp32")
    assert record.source == "model.pth"
    assert record.versions["retinanet"] == __version__
    properties = {entry.key: entry.value for entry in onnx.load(onnx_model).metadata_props}
    assert json.loads(properties["category_ids"]) == {"0": 3, "1": 17, "2": 44}
    assert json.loads(properties["names"]) == {"0": "disc", "1": "rectangle", "2": "triangle"}


def test_half_precision_weighs_half(retinanet: Command, trained: Path, onnx_model: Path, tmp_path: Path) -> None:
    done = retinanet("export", trained, tmp_path / "half.onnx", precision="fp16", device="cpu")
    assert done.code == 0, done.err
    assert "fp16" in done.out
    model = onnx.load(tmp_path / "half.onnx")
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.dims[0] > 1}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert (tmp_path / "half.onnx").stat().st_size < 0.75 * onnx_model.stat().st_size


def test_the_command_says_what_it_made(retinanet: Command, trained: Path, tmp_path: Path) -> None:
    done = retinanet("export", trained, tmp_path / "model.onnx", size=(60, 70), batch=(2, 2, 2), device="cpu")
    assert done.code == 0, done.err
    assert "64 96" in done.err  # rounded up
    assert "[2, 3, 64, 96]" in done.out
    assert re.search(r"8 pictures: [1-9]\d* detections, 0 without a partner", done.out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.json"]


def test_pictures_to_verify_on_can_be_given(retinanet: Command, trained: Path, shapes: Shapes, tmp_path: Path) -> None:
    done = retinanet("export", trained, tmp_path / "m.onnx", verify_images=shapes.val_images, device="cpu")
    assert done.code == 0
    assert "7 pictures" in done.out


@pytest.mark.parametrize(
    ("form", "postprocess"),
    [
        ("operator", PostprocessConfig(threshold=0.08, nms=0.3, top_n=20, detections=7)),
        ("fixed", PostprocessConfig(detections=600)),  # more than there are candidates
    ],
)
def test_postprocessing_is_as_asked(
    trained: Path, onnx_model: Path, shapes: Shapes, tmp_path: Path, form: NMSForm, postprocess: PostprocessConfig
) -> None:
    detector = detector_of(trained, postprocess)
    record = replace(OnnxRuntime.read_record(onnx_model), batch=(2, 2, 2), canvas=(32, 64), postprocess=postprocess)
    save(detector_graph(detector, record, nms=form), record, tmp_path / "m.onnx")
    pictures = [read_image(path) for path in sorted(shapes.val_images.iterdir())[:2]]
    runtime = OnnxRuntime.from_file(tmp_path / "m.onnx", "cpu")
    assert_same_detections(runtime, detector, *canvases(pictures, (32, 64)))


@pytest.mark.slow
def test_an_ensemble_exports(train: Command, retinanet: Command, tmp_path: Path) -> None:
    model = tmp_path / "pair.pth"
    recipe = {**SMALL, "backbone": ("test_resnet", "test_efficientnet"), "iters": 2}
    assert train(model, **recipe).code == 0
    assert retinanet("export", model, tmp_path / "pair.onnx", threshold=0.005, device="cpu").code == 0
