"""Our network with the record and the weights of a torchvision RetinaNet: what the parity tests compare."""

import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet18
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet.foreign.torchvision import rename
from retinanet.model.network import RetinaNet
from retinanet.model.record import BackboneRecord, ModelRecord
from retinanet.types import ClassMap

CLASSES = 6
CANDIDATES = 400
"""At most so many of an image's scores pass the threshold: suppression works hard, and they still lie apart."""


def resnet18_retinanet(width: int) -> detection.RetinaNet:
    """A torchvision RetinaNet that is quick on large images."""
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    backbone = BackboneWithFPN(resnet18(), layers, [128, 256, 512], width, LastLevelP6P7(width, width))
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in (32, 64, 128, 256, 512))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    return detection.RetinaNet(backbone, CLASSES, anchor_generator=anchors)


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Random statistics and affine values of all norms, and heads whose outputs differ visibly from cell to cell."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1 and tensor.is_floating_point():
            positive = name.endswith(("weight", "running_var"))
            low, high = (0.5, 1.0) if positive else (-0.2, 0.2)
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
        elif name.startswith("head"):
            tensor.mul_(5)


def twin(model: detection.RetinaNet, backbone: str) -> RetinaNet:
    """Our network for a torchvision `model` whose backbone timm calls `backbone`."""
    state = rename(model.state_dict())
    width = model.head.classification_head.cls_logits.in_channels
    record = ModelRecord(
        classes=ClassMap(tuple(range(CLASSES)), tuple(f"class {index}" for index in range(CLASSES))),
        backbones=(
            BackboneRecord(backbone, tuple(model.transform.image_mean), tuple(model.transform.image_std), "frozen"),
        ),
        cell_anchors=tuple(tuple(map(tuple, level.tolist())) for level in model.anchor_generator.cell_anchors),
        width=width,
        centre_offset=0.0,
        stride_rule="grid",
        p6_source="p5" if model.backbone.fpn.extra_blocks.use_P5 else "c5",
        head_norm="group" if "class_head.tower.0.1.weight" in state else "none",
    )
    network = RetinaNet(record)
    network.load_state_dict(state)
    return network.eval()


def pictures(sizes: list[tuple[int, int]], canvas: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random uint8 images `[N, 3, H, W]`, zero outside their picture, and their sizes `[N, 2]`."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(len(sizes), 3, *canvas, dtype=torch.uint8)
    for image, (height, width) in zip(images, sizes, strict=True):
        coarse = torch.randint(0, 256, (1, 3, height // 8 + 1, width // 8 + 1), generator=generator, dtype=torch.uint8)
        image[:, :height, :width] = nn.functional.interpolate(coarse, scale_factor=8)[0, :, :height, :width]
    return images, torch.tensor(sizes)


def torchvision_outputs(
    model: detection.RetinaNet, images: Tensor, image_sizes: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Raw outputs of torchvision's head, `[N, M, C]` and `[N, M, 4]`, and its anchors `[M, 4]`."""
    dtype = model.head.classification_head.cls_logits.weight.dtype
    singles = [
        model.transform.normalize(image[:, :height, :width].to(dtype) / 255)
        for image, (height, width) in zip(images, image_sizes.tolist(), strict=True)
    ]
    batch = torch.zeros(images.shape, dtype=dtype)
    for slot, single in zip(batch, singles, strict=True):
        slot[:, : single.shape[1], : single.shape[2]] = single
    features = list(model.backbone(batch).values())
    sizes = [tuple(size) for size in image_sizes.tolist()]
    return model.head(features), model.anchor_generator(ImageList(batch, sizes), features)[0]


def flat(levels: tuple[Tensor, ...], channels: int) -> Tensor:
    """Our outputs per level `[N, A*channels, H, W]` in torchvision's layout `[N, M, channels]`."""
    return torch.cat(
        [level.unflatten(1, (-1, channels)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in levels], dim=1
    )


def detect(
    model: detection.RetinaNet, image: Tensor, threshold: float, iou: float, detections: int
) -> dict[str, Tensor]:
    model.score_thresh, model.nms_thresh, model.detections_per_img = threshold, iou, detections
    (found,) = model([image.float() / 255])
    return found


def threshold_of_distinct_candidates(model: detection.RetinaNet, image: Tensor) -> float | None:
    """None where two scores, or an overlap and 0.5, are so near that rounding could decide."""
    everything = detect(model, image, 0.0, 1.0, 10_000)
    best = everything["scores"].sort(descending=True).values[: CANDIDATES + 1]
    cut = int(best.diff()[CANDIDATES - 100 :].argmin()) + CANDIDATES - 100  # the widest gap of the last hundred
    threshold = float(best[cut : cut + 2].mean())
    passing = everything["scores"] > threshold
    boxes, labels = everything["boxes"][passing], everything["labels"][passing]
    overlaps = box_iou(boxes, boxes)[labels[:, None] == labels]
    distinct = best[: cut + 1].diff().abs().min() > 1e-7 and (overlaps - 0.5).abs().min() > 1e-5
    return threshold if distinct else None
