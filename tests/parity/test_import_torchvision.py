"""torchvision's own RetinaNets, imported from files as it publishes them: the same outputs, the same detections."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models._meta import _COCO_CATEGORIES
from torchvision_twin import (
    detect,
    flat,
    pictures,
    randomise,
    threshold_of_distinct_candidates,
    torchvision_outputs,
)

from retinanet.config import ExportConfig, ImportConfig, PostprocessConfig
from retinanet.export.run import run_export
from retinanet.foreign.run import run_import
from retinanet.model.checkpoint import build_network, load_checkpoint
from retinanet.model.network import RetinaNet
from retinanet.predict.detector import Detector

COCO_IDS = [id_ for id_, name in enumerate(_COCO_CATEGORIES) if name not in ("__background__", "N/A")]
MAKE = {"v1": detection.retinanet_resnet50_fpn, "v2": detection.retinanet_resnet50_fpn_v2}


@torch.no_grad()
def random_model(kind: str, seed: int = 0, norm_eps: float = 1e-5) -> detection.RetinaNet:
    """What torchvision makes, with 91 classes of which 80 are taught, and variances that an epsilon shows in."""
    torch.manual_seed(seed)
    model = MAKE[kind](weights=None, weights_backbone=None).eval()
    randomise(model, seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = norm_eps or 1e-38  # PyTorch 2.11 refuses 0
            module.running_var.mul_(1e-4)
            module.weight.mul_(1e-2)
    outputs, _ = torchvision_outputs(model, *pictures([(128, 160)], (128, 160)))
    logits, deltas = model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg
    logits.weight.mul_(1.5 / outputs["cls_logits"].std())
    logits.bias.sub_(6)  # the best scores lie apart where the sigmoid is steep
    deltas.weight.mul_(0.3 / outputs["bbox_regression"].std())
    unused = [id_ for id_ in range(91) if id_ not in COCO_IDS]
    logits.bias.view(9, 91)[:, unused] = -100  # the background and ids that COCO does not use
    return model


def imported(model: detection.RetinaNet, folder: Path, **options: object) -> RetinaNet:
    torch.save(model.state_dict(), folder / "theirs.pth")
    run_import(folder / "theirs.pth", folder / "ours.pth", ImportConfig(**options))
    return build_network(load_checkpoint(folder / "ours.pth")).eval()


@pytest.mark.parametrize(
    ("kind", "norm_eps", "size", "canvas"),
    [
        ("v1", 0.0, (400, 500), (416, 512)),
        ("v2", 1e-5, (416, 352), (416, 352)),
        pytest.param("v1", 1e-5, (600, 800), (608, 800), marks=pytest.mark.slow),
        pytest.param("v2", 1e-5, (800, 1200), (800, 1216), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_outputs_and_detections_equal_torchvisions(kind, norm_eps, size, canvas, tmp_path: Path) -> None:
    for seed in range(10):
        theirs = random_model(kind, seed, norm_eps)
        theirs.transform.min_size, theirs.transform.max_size = (min(size),), max(size)  # so that it resizes nothing
        images, image_sizes = pictures([size], canvas, seed)
        picture = images[0, :, : size[0], : size[1]]
        threshold = threshold_of_distinct_candidates(theirs, picture)
        if threshold is None:  # rounding could decide here, on this processor
            continue
        ours = imported(theirs, tmp_path, norm_eps=norm_eps)

        expected, anchors = torchvision_outputs(theirs, images, image_sizes)
        outputs = ours(images, image_sizes)
        logits = expected["cls_logits"][..., COCO_IDS]
        assert logits.std() > 0.1, "the comparison would be blind"
        torch.testing.assert_close(flat(outputs.logits, 80), logits, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(flat(outputs.deltas, 4), expected["bbox_regression"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(ours.anchors(outputs), anchors, rtol=0, atol=0)

        expected = detect(theirs, picture, threshold, 0.5, 300)
        found = Detector(ours, PostprocessConfig(threshold=threshold, detections=300))(images, image_sizes)
        count = len(expected["scores"])
        assert found.count.tolist() == [count]
        assert count >= 50
        ids = torch.tensor(ours.record.classes.ids)[found.labels[0, :count]]
        for score, box, label in zip(expected["scores"], expected["boxes"], expected["labels"], strict=True):
            # Scores may lie so near that two detections change places.
            same = (ids == label) & ((found.boxes[0, :count] - box).abs().amax(1) < 0.02)
            assert (same & ((found.scores[0, :count] - score).abs() < 1e-4)).sum() == 1
        return
    raise AssertionError("no random model has distinct candidates")


@torch.no_grad()
def test_the_wrong_epsilon_would_show(tmp_path: Path) -> None:
    theirs = random_model("v1", norm_eps=0.0)
    images, image_sizes = pictures([(128, 160)], (128, 160))
    expected, _ = torchvision_outputs(theirs, images, image_sizes)
    logits = expected["cls_logits"][..., COCO_IDS]
    right, wrong = (flat(imported(theirs, tmp_path, norm_eps=eps)(images, image_sizes).logits, 80) for eps in (0, 1e-5))
    assert (right - logits).abs().max() < 1e-3 < 1e-2 < (wrong - logits).abs().max()


def test_names_and_ids_are_cocos(tmp_path: Path) -> None:
    classes = imported(random_model("v1"), tmp_path).record.classes
    assert list(classes.ids) == COCO_IDS
    assert list(classes.names) == [_COCO_CATEGORIES[id_] for id_ in COCO_IDS]


@pytest.mark.slow
def test_an_import_exports(tmp_path: Path) -> None:
    """Group norm, whole-number strides that are not nominal, cells' centres at their corners; the export compares."""
    pytest.importorskip("onnxscript")
    imported(random_model("v2"), tmp_path)
    config = ExportConfig(size=(160, 224), batch=(1, 2, 2), precision="fp32", device="cpu")
    run_export(tmp_path / "ours.pth", tmp_path / "ours.onnx", config, PostprocessConfig(threshold=0.02))
    assert (tmp_path / "ours.onnx").stat().st_size > 1e8
