"""ODTK checkpoints, imported: the detections that ODTK's own steps give."""

from __future__ import annotations

from pathlib import Path

import odtk_model
import pytest
import torch
from torch import nn
from torchvision_twin import pictures

from retinanet.config import ImportConfig, PostprocessConfig
from retinanet.foreign.odtk import odtk_anchors
from retinanet.foreign.run import run_import
from retinanet.model.checkpoint import build_network, load_checkpoint
from retinanet.predict.detector import Detector

RATIOS, SCALES = [1.0, 2.0, 0.5], [4 * 2 ** (i / 3) for i in range(3)]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@torch.no_grad()
def random_model(backbones: list[str], ratios: list[float], seed: int) -> odtk_model.Model:
    """Random, with norms that count and few scores above 0.05."""
    torch.manual_seed(seed)
    model = odtk_model.Model(backbones, 5, ratios, SCALES).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1)
            module.weight.uniform_(0.7, 1.3)
            module.bias.normal_(std=0.1)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    images = torch.randn(1, 3, 128, 128)
    scores, deltas = model(images)
    for head, maps, spread in ((model.cls_head, scores, 1.0), (model.box_head, deltas, 0.3)):
        head[8].weight.mul_(spread / torch.cat([level.flatten() for level in maps]).std())
    model.cls_head[8].bias.fill_(-6)
    return model


@pytest.mark.parametrize(
    ("backbones", "anchors", "ratios"),
    [
        (["ResNet18FPN"], "exact", RATIOS),
        (["ResNet18FPN"], "rounded", [0.25, 1.0, 3.0]),
        (["MobileNetV2FPN"], "exact", RATIOS),
        (["ResNet18FPN", "MobileNetV2FPN"], "rounded", RATIOS),
    ],
)
@torch.no_grad()
def test_detections_equal_odtks(backbones, anchors, ratios, tmp_path: Path) -> None:
    theirs = random_model(backbones, ratios, seed=0)
    torch.save(theirs.checkpoint(), tmp_path / "theirs.pth", _use_new_zipfile_serialization=False)
    run_import(tmp_path / "theirs.pth", tmp_path / "ours.pth", ImportConfig(odtk_anchors=anchors))
    ours = build_network(load_checkpoint(tmp_path / "ours.pth")).eval()
    images, sizes = pictures([(256, 384)], (256, 384))

    normal = (images / 255 - MEAN[:, None, None]) / STD[:, None, None]
    expected = odtk_model.detect(theirs, normal, rounded=anchors == "rounded", threshold=0.05)
    found = Detector(ours, PostprocessConfig())(images, sizes)

    assert found.count.tolist() == [len(expected)]
    assert len(expected) > 30
    rows = zip(found.scores[0], found.labels[0], found.boxes[0], strict=True)
    for (score, label, box), (our_score, our_label, our_box) in zip(expected, rows, strict=False):
        assert our_label == label
        assert float(our_score) == pytest.approx(score, abs=1e-5)
        # Inclusive pixels end where continuous coordinates end, less 1.
        assert our_box.tolist() == pytest.approx([box[0], box[1], box[2] + 1, box[3] + 1], abs=0.02)
    assert ours.record.matching.low_quality is False


def test_our_anchors_are_odtks_with_their_last_pixel() -> None:
    for rounded in (False, True):
        ours = odtk_anchors(RATIOS, SCALES, "rounded" if rounded else "exact")
        for level, stride in zip(ours, (8, 16, 32, 64, 128), strict=True):
            theirs = torch.tensor(odtk_model.cell_anchors(stride, RATIOS, SCALES, rounded))
            torch.testing.assert_close(torch.tensor(level) - torch.tensor([0.0, 0, 1, 1]), theirs)
