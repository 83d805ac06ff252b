"""What the fused network must leave as it is, and ways to run it that are not the usual one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from retinanet.config import PostprocessConfig
from retinanet.model.fusion import fuse_module, fused
from retinanet.model.fusion.kernels import STEM_CHANNELS, use_kernels, widen_stem
from retinanet.model.fusion.layers import BiasedConv
from retinanet.model.network import RetinaNet
from retinanet.model.record import ModelRecord
from retinanet.predict.runtimes.fused import FusedRuntime
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.types import Batch


def assert_same_outputs(network: RetinaNet, batch: Batch) -> None:
    """`network` in double precision, so that nothing hides behind rounding; it is used up."""
    network = network.double().eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.normal_(part.bias, 0, 0.3)
    with torch.inference_mode():
        expected = network(batch.images, batch.image_sizes)
        outputs = fused(network)(batch.images, batch.image_sizes)
    for one, two in zip([*expected.logits, *expected.deltas], [*outputs.logits, *outputs.deltas], strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-11)


def with_backbone(record: ModelRecord, name: str) -> ModelRecord:
    return replace(record, backbones=(replace(record.backbones[0], name=name),))


@pytest.mark.parametrize(
    "name",
    [
        "edgenext_xx_small",  # asks a convolution for the type of its weight
        "legacy_xception",  # its maps are found by hooks
        "hrnet_w18_small",  # in parallel branches, added up
        "tf_mixnet_s",  # convolutions in groups of several sizes
    ],
)
def test_backbones_of_unusual_make(name: str, record: ModelRecord, batch: Batch) -> None:
    torch.manual_seed(0)
    assert_same_outputs(RetinaNet(with_backbone(record, name)), batch)


def test_an_ensemble(ensemble_record: ModelRecord, batch: Batch) -> None:
    torch.manual_seed(0)
    assert_same_outputs(RetinaNet(ensemble_record), batch)


class Plain(nn.Module):
    def __init__(self, forward: Callable[[nn.Conv2d, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.run = nn.Conv2d(3, 3, 3, padding=1), forward

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.run(self.conv, x)]


@pytest.mark.parametrize(
    ("forward", "widened"),
    [
        (lambda conv, x: conv(x), True),
        (lambda conv, x: torch.relu(conv(x)), True),
        (lambda conv, x: torch.relu(conv(x) + x), False),  # the images themselves are used too
        (lambda conv, x: conv(conv(x)), False),
        (lambda conv, x: conv(x) * conv.weight.sum(), False),
        (lambda conv, x: conv(x / 2), False),
    ],
)
def test_a_stem_is_widened_only_where_it_means_the_same(
    forward: Callable[[nn.Conv2d, Tensor], Tensor], widened: bool
) -> None:
    torch.manual_seed(0)
    plain, images = Plain(forward).eval(), torch.randn(2, 3, 9, 7)
    traced = fuse_module(copy.deepcopy(plain))
    assert isinstance(traced, torch.fx.GraphModule)
    use_kernels(traced)
    assert widen_stem(traced) == widened
    seen = torch.cat([images, images.new_zeros(2, STEM_CHANNELS - 3, 9, 7)], dim=1) if widened else images
    with torch.no_grad():
        torch.testing.assert_close(traced(seen), plain(images))


def test_a_convolution_that_is_called_twice_adds_its_bias_twice() -> None:
    torch.manual_seed(0)
    plain = Plain(lambda conv, x: conv(conv(x).abs())).eval()
    traced = fuse_module(copy.deepcopy(plain))
    use_kernels(traced)
    assert any(isinstance(part, BiasedConv) for part in traced.modules())
    with torch.no_grad():
        images = torch.randn(2, 3, 9, 7)
        torch.testing.assert_close(traced(images), plain(images))


def test_the_runtime_in_bfloat16_on_a_cpu(trained: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [50, 64]])
    options = {"postprocess": PostprocessConfig(), "device": "cpu"}
    exact = TorchRuntime.from_file(trained, **options)(images, sizes)
    found = FusedRuntime.from_file(trained, **options, precision="bf16")(images, sizes)
    assert found.scores.dtype == exact.scores.dtype
    torch.testing.assert_close(found.scores[:, :5], exact.scores[:, :5], rtol=0.1, atol=0.01)


def test_a_backbone_that_timm_finds_maps_in_by_hooks_stays_whole() -> None:
    body = timm.create_model("legacy_xception", pretrained=False, features_only=True, out_indices=(-3, -2, -1))
    assert fuse_module(body.eval()) is body
