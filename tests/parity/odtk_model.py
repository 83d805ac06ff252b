"""ODTK as its source has it, step by step: network, anchors, inclusive box coding, decoding and suppression.

Written after NVIDIA/retinanet-examples: odtk/model.py, odtk/box.py, csrc/cuda/decode.cu and, for the older anchors,
retinanet/box.py before version 0.2.1. Slow and plain: it is the judge of `retinanet import`.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2, resnet18

CHANNELS = {"ResNet18FPN": (128, 256, 512), "MobileNetV2FPN": (32, 96, 320)}


class Features(nn.Module):
    """A pyramid and, as `features`, the backbone with its classifier."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.features = resnet18() if name == "ResNet18FPN" else mobilenet_v2()
        self.is_resnet = name == "ResNet18FPN"
        c3, c4, c5 = CHANNELS[name]
        self.lateral3, self.lateral4, self.lateral5 = (nn.Conv2d(c, 256, 1) for c in (c3, c4, c5))
        self.pyramid6 = nn.Conv2d(c5, 256, 3, stride=2, padding=1)
        self.pyramid7 = nn.Conv2d(256, 256, 3, stride=2, padding=1)
        self.smooth3, self.smooth4, self.smooth5 = (nn.Conv2d(256, 256, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        c3, c4, c5 = self.maps(x)
        p5 = self.lateral5(c5)
        p4 = F.interpolate(p5, scale_factor=2) + self.lateral4(c4)
        p3 = F.interpolate(p4, scale_factor=2) + self.lateral3(c3)
        p6 = self.pyramid6(c5)
        return [self.smooth3(p3), self.smooth4(p4), self.smooth5(p5), p6, self.pyramid7(F.relu(p6))]

    def maps(self, x: Tensor) -> list[Tensor]:
        if self.is_resnet:
            net = self.features
            x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
            c3 = net.layer2(x)
            c4 = net.layer3(c3)
            return [c3, c4, net.layer4(c4)]
        found = []
        for index, layer in enumerate(self.features.features[:-1]):
            x = layer(x)
            if index in (6, 13, 17):
                found.append(x)
        return found


class Model(nn.Module):
    def __init__(self, backbones: list[str], classes: int, ratios: list[float], scales: list[float]) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict({name: Features(name) for name in backbones})
        self.classes, self.ratios, self.scales = classes, ratios, scales
        anchors = len(ratios) * len(scales)
        self.cls_head, self.box_head = head(classes * anchors), head(4 * anchors)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = [feature for backbone in self.backbones.values() for feature in backbone(x)]
        return [self.cls_head(f) for f in features], [self.box_head(f) for f in features]

    def checkpoint(self) -> dict:
        state = {k: v for k, v in self.state_dict().items() if "num_batches_tracked" not in k}  # its norm is fixed
        keys = {"classes": self.classes, "ratios": self.ratios, "scales": self.scales}
        return {"backbone": list(self.backbones), "state_dict": state, **keys, "iteration": 90000}


def head(out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(256, out, 3, padding=1))


def cell_anchors(stride: int, ratios: list[float], scales: list[float], rounded: bool) -> list[list[float]]:
    """Inclusive boxes (x1, y1, x2, y2) of the cell at the origin."""
    anchors = []
    for scale in scales:
        for ratio in ratios:
            width = math.sqrt(stride * stride / ratio)
            if rounded:
                width = round(width)
                height = round(width * ratio)
                end = -1.0
            else:
                height, end = width * ratio, 0.0
            anchors.append(
                [
                    *(0.5 * (stride - side * scale) for side in (width, height)),
                    *(0.5 * (stride + side * scale) + end for side in (width, height)),
                ]
            )
    return anchors


def detect(
    model: Model,
    images: Tensor,
    *,
    rounded: bool,
    threshold: float,
    top_n: int = 1000,
    nms: float = 0.5,
    keep: int = 100,
) -> list[tuple[float, int, list[float]]]:
    """(score, class, inclusive box) of one image `[1, 3, H, W]`, best first; H and W are multiples of 128."""
    candidates = []
    for scores, deltas in zip(*model(images), strict=True):
        candidates += decode(model, images, scores.sigmoid()[0], deltas[0], rounded, threshold, top_n)
    candidates.sort(key=lambda candidate: -candidate[0])
    kept: list[tuple[float, int, list[float]]] = []
    for score, label, box in candidates:
        if len(kept) < keep and all(label != other or inclusive_iou(box, b) <= nms for _, other, b in kept):
            kept.append((score, label, box))
    return kept


def decode(
    model: Model, images: Tensor, scores: Tensor, deltas: Tensor, rounded: bool, threshold: float, top_n: int
) -> list[tuple[float, int, list[float]]]:
    height, width = scores.shape[1:]
    stride = images.shape[-1] // width
    anchors = cell_anchors(stride, model.ratios, model.scales, rounded)
    flat = scores.flatten()
    best = flat.where(flat > threshold, 0).topk(min(top_n, int((flat > threshold).sum())))
    found = []
    for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        x, y = index % width, index // width % height
        channel = index // (width * height)
        anchor, label = channel // model.classes, channel % model.classes
        dx, dy, dw, dh = deltas[4 * anchor : 4 * anchor + 4, y, x].tolist()
        x1, y1, x2, y2 = (
            offset + corner for offset, corner in zip((x * stride, y * stride) * 2, anchors[anchor], strict=True)
        )
        w, h = x2 - x1 + 1, y2 - y1 + 1
        centre_x, centre_y = dx * w + x1 + 0.5 * w, dy * h + y1 + 0.5 * h
        new_w, new_h = math.exp(dw) * w, math.exp(dh) * h
        box = [
            max(0.0, centre_x - 0.5 * new_w),
            max(0.0, centre_y - 0.5 * new_h),
            min(centre_x + 0.5 * new_w - 1, width * stride - 1),
            min(centre_y + 0.5 * new_h - 1, height * stride - 1),
        ]
        found.append((score, label, box))
    return found


def inclusive_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)
