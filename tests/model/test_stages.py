"""Which parameters the first stages hold, of architectures that have little in common."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from retinanet.model.backbone import ALIASES, Backbone, describe_backbone
from retinanet.model.network import RetinaNet
from retinanet.model.stages import early_parameters

# What is known of each by its name in timm: up to the stem, and up to the first stage of 1/4.
RESNET = [("conv1.", "bn1."), ("layer1.",)]
MOBILE = [("conv_stem.", "bn1.", "blocks.0."), ("blocks.1.",)]
KNOWN = {
    **{alias: RESNET for alias in ALIASES if alias.startswith("ResNe")},
    "MobileNetV2FPN": MOBILE,
    "tf_efficientnet_lite0": MOBILE,
    "convnext_tiny": [(), ("stem_", "stages_0.")],
    "regnety_002": [("stem.",), ("s1.",)],
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_parameters_are_those_of_the_stages_names(name: str) -> None:
    timm_name = describe_backbone(name, "frozen").name
    with torch.device("meta"):
        names = {name for name, _ in Backbone(describe_backbone(name, "frozen")).body.named_parameters()}
    prefixes: tuple[str, ...] = ()
    assert early_parameters(timm_name, 0) == set()
    for stages, more in enumerate(KNOWN[name], start=1):
        prefixes += more
        assert early_parameters(timm_name, stages) == {name for name in names if name.startswith(prefixes)}
    assert early_parameters(timm_name, 3) > early_parameters(timm_name, 2)
    assert early_parameters(timm_name, 5) == names


def test_a_backbone_that_makes_its_first_maps_from_everything_is_told_apart() -> None:
    with torch.device("meta"):
        shares = [Backbone(describe_backbone(name, "frozen")).share_of(2) for name in ("hrnet_w18_small", "resnet18")]
    assert shares[0] > 0.25 > 0.05 > shares[1] > 0


@pytest.mark.parametrize("norm", ["frozen", "live"])
@pytest.mark.parametrize("stages", [0, 1, 2, 5])
def test_frozen_stages_run_without_autograd_and_keep_their_statistics(record, batch, norm: str, stages: int) -> None:
    torch.manual_seed(0)
    network = RetinaNet(replace(record, backbones=(replace(record.backbones[0], norm=norm),)))
    body = network.members[0].body
    network.members[0].freeze(stages)
    network.eval().train()
    tracked = {}
    parts = {"conv1": 1, "bn1": 1, "layer1": 2, "layer2": 3, "layer3": 4, "layer4": 5}
    for name in parts:
        getattr(body, name).register_forward_hook(
            lambda module, arguments, output, name=name: tracked.update({name: output.requires_grad})
        )
    before = {name: buffer.clone() for name, buffer in body.named_buffers()}
    outputs = network(batch.images, batch.image_sizes)
    sum(level.sum() for level in (*outputs.logits, *outputs.deltas)).backward()
    assert tracked == {name: stage > stages for name, stage in parts.items()}
    for name, parameter in body.named_parameters():
        learns = parts[name.split(".")[0]] > stages and (norm == "live" or parameter.ndim > 1)
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None) == learns, name
    moved = {name for name, buffer in body.named_buffers() if not torch.equal(buffer, before[name])}
    statistics = {name for name in before if parts[name.split(".")[0]] > stages}
    assert moved == (statistics if norm == "live" else set())


def test_frozen_stages_cost_the_backward_pass_nothing(record, batch) -> None:
    def held(stages: int) -> int:
        torch.manual_seed(0)
        network = RetinaNet(record).train()
        network.members[0].freeze(stages)
        sizes = []
        keep = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(batch.images, batch.image_sizes)
        return sum(sizes)

    assert held(2) < held(1) < held(0)
