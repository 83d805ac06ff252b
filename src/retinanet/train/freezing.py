"""Which of a backbone's first stages stay as they are."""

from __future__ import annotations

from retinanet.config import ModelConfig
from retinanet.model.network import RetinaNet

USUAL = 2
"""The stem and the first stage, as torchvision and Detectron2 have it: edges and colours are the same in all
photographs, and these maps are the largest, so that nothing else costs as much in the backward pass."""


def freeze_stages(network: RetinaNet, model: ModelConfig) -> int:
    """Freeze what `--freeze` says, or what is usual; return how many stages that is."""
    stages = model.freeze
    if stages is None:
        # Some backbones, such as HRNet, make even their first map from nearly all that they have.
        separate = all(backbone.share_of(USUAL) < 0.25 for backbone in network.members)
        stages = USUAL if model.learned and separate else 0
    for backbone in network.members:
        backbone.freeze(stages)
    return stages
