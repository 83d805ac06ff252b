"""Backbones of timm: C3, C4 and C5 of an image, normalised as the backbone's own pretraining was."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from retinanet.config import NormMode
from retinanet.errors import UsageError
from retinanet.model.record import BackboneRecord
from retinanet.model.stages import early_parameters
from retinanet.preprocess import normalise

REDUCTIONS = (8, 16, 32)
ALIASES = {
    "ResNet18FPN": "resnet18",
    "ResNet34FPN": "resnet34",
    "ResNet50FPN": "resnet50",
    "ResNet101FPN": "resnet101",
    "ResNet152FPN": "resnet152",
    "ResNeXt50_32x4dFPN": "resnext50_32x4d",
    "MobileNetV2FPN": "mobilenetv2_100",
}
"""Names of NVIDIA's retinanet-examples."""


def describe_backbone(name: str, norm: NormMode) -> BackboneRecord:
    """The record of timm's model `name` (or an alias), with the normalisation of its pretraining.

    Raises `UsageError`, with names alike, for one that timm does not know, and for one that makes no pyramid.
    """
    name = ALIASES.get(name, name)
    if not timm.is_model(name):
        alike = difflib.get_close_matches(name, [*ALIASES, *timm.list_models()], n=3)
        hint = f"did you mean {' or '.join(alike)}?" if alike else "`timm.list_models()` lists what there is."
        raise UsageError(f"--backbone should name a model of timm, but there is no {name!r}; {hint}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(name.partition(".")[0])) or "none"
        raise UsageError(f"timm has no pretraining {name!r}; those of this model are: {known}.") from error
    config = config or timm.models.PretrainedCfg()
    record = BackboneRecord(name, tuple(config.mean), tuple(config.std), norm)
    _require_pyramid(record)
    return record


class Backbone(nn.Module):
    """One timm model without its classifier, from uint8 images to C3…C5 (`channels` says how wide they are)."""

    mean: Tensor
    std: Tensor
    normalise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = staticmethod(normalise)
    """How the network's first step is done; a runtime may have a faster way."""

    def __init__(self, record: BackboneRecord) -> None:
        super().__init__()
        self.record = record
        self.body: Any = timm.create_model(
            record.name, pretrained=False, features_only=True, out_indices=_feature_indices(record.name)
        )
        self.channels: list[int] = self.body.feature_info.channels()
        self._channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        # The record is their one home, so they stay out of the state dict.
        self.register_buffer("mean", torch.tensor(record.mean), persistent=False)
        self.register_buffer("std", torch.tensor(record.std), persistent=False)
        for norm in self._batch_norms():
            if record.norm_eps is not None:
                norm.eps = max(record.norm_eps, torch.finfo(torch.float32).tiny)  # PyTorch 2.11 refuses 0
            if record.norm == "frozen":
                norm.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor, image_sizes: Tensor) -> list[Tensor]:
        """C3, C4, C5 `[N, channels, H/8, W/8]` … of uint8 images `[N, 3, H, W]` and sizes `[N, 2]` (height, width)."""
        features: list[Tensor] = self.body(self.normalise(images, image_sizes, self.mean, self.std))
        return [feature.permute(0, 3, 1, 2) for feature in features] if self._channels_last else features

    def freeze(self, stages: int) -> None:
        """Let nothing learn that C1…C`stages` (0…5) are made from: it runs without autograd, its batch norm as it is.

        C_n is the feature map at 1 / 2^n of the image: 1 is a ResNet's stem, 2 its first stage too.
        """
        early = early_parameters(self.record.name, stages)
        for name, parameter in self.body.named_parameters():
            if name in early:
                parameter.requires_grad_(False)
        self.train(self.training)

    def share_of(self, stages: int) -> float:
        """The share, 0…1, of the backbone's weights that C1…C`stages` are made from."""
        early = early_parameters(self.record.name, stages)
        sizes: dict[str, int] = {name: parameter.numel() for name, parameter in self.body.named_parameters()}
        return sum(size for name, size in sizes.items() if name in early) / sum(sizes.values())

    def train(self, mode: bool = True) -> Backbone:
        """As `nn.Module.train`, but batch norm that is frozen keeps using its statistics."""
        super().train(mode)
        for norm in self._batch_norms():
            if self.record.norm == "frozen" or (norm.affine and not norm.weight.requires_grad):
                norm.eval()
        return self

    def _batch_norms(self) -> list[nn.modules.batchnorm._BatchNorm]:
        return [module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def _feature_indices(name: str) -> tuple[int, ...]:
    """Which of the model's feature maps are its last of reduction 8, 16 and 32."""
    with torch.device("meta"):  # shapes alone: no memory, no initialisation
        stages = timm.create_model(name, pretrained=False, features_only=True).feature_info.info
    last = {stage["reduction"]: index for index, stage in enumerate(stages)}
    return tuple(last[reduction] for reduction in REDUCTIONS)


def _require_pyramid(record: BackboneRecord) -> None:
    """Try the model, without computing, on an image that is no square: many transformers take one size alone."""
    wanted = [(256 // reduction, 320 // reduction) for reduction in REDUCTIONS]
    refusal = UsageError(
        f"A backbone should take images of any size, channels-last in memory, and have feature maps at 1/8, 1/16 and "
        f"1/32 of it, but timm's {record.name} does not; choose a convolutional one, such as resnet50."
    )
    try:
        with torch.device("meta"), torch.no_grad():
            backbone = Backbone(record).to(memory_format=torch.channels_last)  # no format of 3D convolutions' weights
            maps = backbone(torch.zeros(1, 3, 256, 320, dtype=torch.uint8), torch.zeros(1, 2))
    except Exception as error:  # each architecture fails in its own way
        raise refusal from error
    if [tuple(feature.shape[2:]) for feature in maps] != wanted:
        raise refusal
