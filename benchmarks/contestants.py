"""Who is measured: a detector of ours, and torchvision's of the same kind.

ResNet-50-FPN or another backbone, 80 classes, random weights. Such weights detect next to nothing, so that
post-processing would be idle: `calibrate_network` and `calibrate_peer` scale and shift the last class layer until as
many candidates pass the threshold as in a picture full of objects. What passes depends on the pictures, so each kind of
them needs a calibration of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionsRetinaNet
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinanet.config import PostprocessConfig
from retinanet.export.compare import Differences
from retinanet.export.tolerance import TOLERANCES
from retinanet.model.checkpoint import create_record
from retinanet.model.network import RetinaNet
from retinanet.ops.decode import logit_threshold
from retinanet.predict.runtimes.base import Runtime
from retinanet.preprocess import Placed
from retinanet.types import ClassMap, Detections

RESNET = "resnet50"
CLASSES = 80
CANDIDATES = 6000
"""In the mean of the pictures that weights are calibrated on."""
POSTPROCESS = PostprocessConfig()
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")


def make_network(resize: int, max_size: int, backbone: str = RESNET) -> RetinaNet:
    classes = ClassMap(tuple(range(CLASSES)), tuple(f"class {index}" for index in range(CLASSES)))
    record = create_record(
        classes, [backbone], width=256, weights="none", anchor_scale=4.0, resize=resize, max_size=max_size
    )
    torch.manual_seed(0)
    return RetinaNet(record).eval().to(DEVICE)


def make_peer(backbone: str = RESNET) -> nn.Module:
    torch.manual_seed(0)
    if backbone == RESNET:
        peer = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, detections_per_img=100)
    else:
        peer = TorchvisionsRetinaNet(PeersBody(backbone), CLASSES, detections_per_img=100)
    return peer.eval().to(DEVICE).to(memory_format=torch.channels_last)


class PeersBody(nn.Module):
    """A backbone of timm with a pyramid of torchvision's, as its detectors take them."""

    def __init__(self, name: str, width: int = 256) -> None:
        super().__init__()
        self.body = timm.create_model(name, pretrained=False, features_only=True, out_indices=(2, 3, 4))
        channels = self.body.feature_info.channels()
        self.pyramid = FeaturePyramidNetwork(channels, width, LastLevelP6P7(width, width))
        self.out_channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps by name, finest first."""
        found: dict[str, Tensor] = self.pyramid({str(level): maps for level, maps in enumerate(self.body(images))})
        return found


def resize_in_peer(peer: nn.Module, shorter: int, longer: int) -> None:
    """Have torchvision's model resize its images so; to the sides of a tensor itself it leaves that as it is."""
    peer.transform.min_size, peer.transform.max_size = (shorter,), longer


def noise(count: int, canvas: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images uint8 `[N, 3, H, W]`, channels-last, and their sizes `[N, 2]`, on the device."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *canvas), dtype=torch.uint8, device=DEVICE, generator=generator)
    return images.to(memory_format=torch.channels_last), torch.tensor([list(canvas)] * count, device=DEVICE)


def detect_by_peer(peer: nn.Module, images: Iterable[Tensor]) -> list[dict[str, Tensor]]:
    """What torchvision's model finds in uint8 images `[3, H, W]` on the device."""
    with torch.inference_mode(), half_precision():
        found: list[dict[str, Tensor]] = peer([image / 255 for image in images])
    return found


def half_precision() -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.float16, enabled=GPU)


def agreement(ours: Runtime, eager: Runtime, inputs: tuple[Tensor, Tensor]) -> Differences:
    """How far two ways of ours are apart, of which one is plain PyTorch."""
    differences = Differences(TOLERANCES["fp16" if GPU else "fp32"], POSTPROCESS.threshold)
    expected, found = (Detections(*(column.cpu() for column in runtime(*inputs))) for runtime in (eager, ours))
    for row in range(len(inputs[0])):
        differences.add(*(Detections(*(column[row : row + 1] for column in both)) for both in (expected, found)))
    return differences


def calibrate_on_noise(network: RetinaNet, peer: nn.Module, canvas: tuple[int, int]) -> str:
    """Both models, on noise that fills a canvas; says how many candidates that gives."""
    picture = noise(1, canvas)[0][0]
    resize_in_peer(peer, min(canvas), max(canvas))
    ours = calibrate_network(network, [Placed(picture, canvas, (1.0, 1.0, 0.0, 0.0))])
    return f"ours {ours}, torchvision {calibrate_peer(peer, [picture])}"


def calibrate_network(network: RetinaNet, pictures: Sequence[Placed]) -> str:
    """Let `CANDIDATES` an image pass, in the mean of pictures on their canvases; says how many pass in each."""

    def logits() -> list[Tensor]:
        found = []
        for picture in pictures:
            image_sizes = torch.tensor([picture.size], device=DEVICE)
            levels = network(picture.image[None].to(DEVICE), image_sizes).logits
            found.append(torch.cat([level.flatten() for level in levels]).float())
        return found

    return _calibrate(network.class_head.predict, logits)


def calibrate_peer(peer: nn.Module, images: Sequence[Tensor]) -> str:
    """The same for torchvision's model, which resizes the images uint8 `[3, H, W]` itself."""

    def logits() -> list[Tensor]:
        found = []
        for image in images:
            batch = peer.transform([image.to(DEVICE) / 255])[0].tensors
            found.append(peer.head(list(peer.backbone(batch).values()))["cls_logits"].flatten().float())
        return found

    return _calibrate(peer.head.classification_head.cls_logits, logits)


@torch.inference_mode()
def _calibrate(predict: nn.Conv2d, logits: Callable[[], list[Tensor]]) -> str:
    """Give the logits that `predict` makes, flat for each picture, a deviation of 1, and let the best of them pass."""
    pictures = logits()
    values, threshold = torch.cat(pictures), logit_threshold(POSTPROCESS.threshold)
    deviation, least = values.std(), values.topk(CANDIDATES * len(pictures)).values[-1]
    assert predict.bias is not None
    predict.weight /= deviation
    predict.bias -= least
    predict.bias /= deviation
    predict.bias += threshold
    with half_precision():  # in which it is measured
        counts = [int((values > threshold).sum()) for values in logits()]
    return f"{statistics.mean(counts):,.0f} ({min(counts):,}–{max(counts):,})"
