"""Real backbones as ONNX: trained ones detect the same, and every alias makes a graph."""

from __future__ import annotations

import copy
from pathlib import Path

import onnxruntime
import pytest
import torch
from same_detections import assert_same_detections, canvases

from command_line import SMALL, Command, Shapes
from retinanet.config import PostprocessConfig
from retinanet.data.images import read_image
from retinanet.export.onnx import detector_graph, save
from retinanet.model.backbone import ALIASES
from retinanet.model.checkpoint import build_network, create_network, create_record, load_checkpoint
from retinanet.model.fusion import fold_batch_norms
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.onnx import OnnxRuntime
from retinanet.types import ClassMap

pytestmark = pytest.mark.slow
CLASSES = ClassMap((3, 17, 44), ("disc", "rectangle", "triangle"))


def record_of(classes: ClassMap, canvas: tuple[int, int], postprocess: PostprocessConfig) -> ArtifactRecord:
    return ArtifactRecord("onnx", classes, canvas, (1, 2, 4), 64, 96, postprocess, "fp32", "model.pth")


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])
def test_a_trained_detector_in_both_forms(train: Command, shapes: Shapes, tmp_path: Path, backbone: str) -> None:
    """Batches of 1, 2 and 4, pictures that fill the canvas and pictures that don't."""
    model = tmp_path / "model.pth"
    assert train(model, **{**SMALL, "backbone": backbone, "width": 32}, iters=30, lr=0.003).code == 0
    detector = Detector(build_network(load_checkpoint(model)), PostprocessConfig()).eval()
    record = record_of(CLASSES, (64, 96), detector.postprocess)
    pictures = [read_image(path) for path in sorted(shapes.val_images.iterdir())]
    for form in ("operator", "fixed"):
        save(detector_graph(detector, record, nms=form), record, tmp_path / "model.onnx")  # type: ignore[arg-type]
        runtime = OnnxRuntime.from_file(tmp_path / "model.onnx", "cpu")
        for count in (1, 2, 4):
            assert_same_detections(runtime, detector, *canvases(pictures[:count], (64, 96)))
            assert_same_detections(runtime, detector, *canvases(pictures[-count:], (64, 96)))


@pytest.mark.parametrize("alias", [*ALIASES, "convnext_atto"])
def test_every_alias_makes_a_graph_that_runs(tmp_path: Path, alias: str) -> None:
    description = create_record(CLASSES, [alias], width=16, weights="none", anchor_scale=4.0, resize=64, max_size=64)
    torch.manual_seed(0)
    network = create_network(description, "none")
    for module in (*network.class_head.modules(), *network.box_head.modules()):
        if isinstance(module, torch.nn.Conv2d):  # untrained heads give each anchor's own box, whose overlaps are ties
            torch.nn.init.kaiming_normal_(module.weight)
    detector = Detector(network, PostprocessConfig(threshold=0.001)).eval()
    record = record_of(CLASSES, (64, 64), detector.postprocess)
    folded = Detector(fold_batch_norms(copy.deepcopy(network)), detector.postprocess).eval()
    save(detector_graph(folded, record, nms="operator"), record, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scores, boxes, _ = session.run(None, {"images": images.numpy(), "image_sizes": torch.full((3, 2), 64).numpy()})
    with torch.inference_mode():
        expected = detector(images, torch.full((3, 2), 64))
    torch.testing.assert_close(torch.from_numpy(scores), expected.scores, rtol=0, atol=1e-4)
    assert scores.max() > 0
    assert boxes.max() <= 64
