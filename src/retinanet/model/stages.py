"""Which parameters a backbone's early feature maps are made from, whatever its architecture."""

from __future__ import annotations

import functools

import timm
import torch


@functools.lru_cache(maxsize=16)
def early_parameters(name: str, stages: int) -> frozenset[str]:
    """Names of the parameters behind C1…C`stages` of timm's model `name`, C_n being its map at 1 / 2^n of the image.

    Autograd knows them: the gradient of the last of these maps reaches them and no others. It runs on the meta device,
    where shapes alone are computed. Empty for 0, and where the model has no map that early.
    """
    with torch.device("meta"), torch.enable_grad():
        body = timm.create_model(name, pretrained=False, features_only=True)
        early = [index for index, stage in enumerate(body.feature_info.info) if stage["reduction"] <= 2**stages]
        if not stages or not early:
            return frozenset()
        feature = body(torch.zeros(1, 3, 256, 320))[early[-1]]
        parameters = dict(body.named_parameters())
        gradients = torch.autograd.grad(feature.sum(), list(parameters.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None)
