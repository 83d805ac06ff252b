from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from retinanet.errors import UsageError
from retinanet.model.backbone import ALIASES, Backbone, describe_backbone


def random_images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.uint8)
    return images, torch.tensor([[64, 96], [40, 70]])


# One of each kind of feature extractor, with unlike feature numbering, and channels-last maps.
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "vgg11", "test_mambaout"])
@torch.no_grad()
def test_features_at_strides_8_16_32_of_normalised_images(name):
    torch.manual_seed(0)
    backbone = Backbone(describe_backbone(name, "live")).eval()
    images, sizes = random_images()

    c3, c4, c5 = backbone(images, sizes)

    assert [c.shape[2:] for c in (c3, c4, c5)] == [(8, 12), (4, 6), (2, 3)]
    assert [c.shape[1] for c in (c3, c4, c5)] == backbone.channels
    config = timm.get_pretrained_cfg(name)
    mean, std = torch.tensor(config.mean)[:, None, None], torch.tensor(config.std)[:, None, None]
    x = (images / 255 - mean) / std
    x[1, :, 40:] = 0
    x[1, :, :, 70:] = 0
    torch.testing.assert_close(c5, _last_map(backbone, x), rtol=1e-4, atol=1e-4)


def _last_map(backbone: Backbone, x: torch.Tensor) -> torch.Tensor:
    last = backbone.body(x)[-1]
    return last if last.shape[1] == backbone.channels[-1] else last.permute(0, 3, 1, 2)


def test_every_alias_is_a_model_of_timm():
    for alias, name in ALIASES.items():
        assert describe_backbone(alias, "frozen").name == name


def test_normalisation_is_the_backbones_own():
    assert describe_backbone("tf_efficientnet_lite0", "frozen").mean == (0.5, 0.5, 0.5)
    assert describe_backbone("resnet18", "frozen").mean == (0.485, 0.456, 0.406)


def test_an_unknown_name_gets_suggestions_and_is_never_guessed():
    with pytest.raises(UsageError, match="did you mean resnet50"):
        describe_backbone("resnet5O", "frozen")
    with pytest.raises(UsageError, match="MobileNetV2FPN"):
        describe_backbone("MobileNetv2FPN", "frozen")
    with pytest.raises(UsageError, match=r"resnet18\.a1_in1k"):
        describe_backbone("resnet18.nothing", "frozen")


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "inception_v3", "lambda_resnet26t"],
    ids=["one map", "one size", "odd", "convolutions in 3D"],
)
def test_a_model_that_makes_no_pyramid_is_refused(name):
    with pytest.raises(UsageError, match=name):
        describe_backbone(name, "frozen")


# test_efficientnet has timm's own subclass of batch norm, with an activation inside.
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_frozen_batch_norm_neither_learns_nor_counts(name):
    backbone = Backbone(describe_backbone(name, "frozen"))
    network = nn.Sequential(backbone)
    network.eval()
    network.train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]

    sum(feature.square().mean() for feature in backbone(*random_images())).backward()

    assert norms
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert all(norm.weight.grad is None and norm.bias.grad is None for norm in norms)
    assert any(parameter.grad is not None for parameter in backbone.parameters())
    assert backbone.body.training


def test_live_batch_norm_learns_and_counts():
    backbone = Backbone(describe_backbone("test_resnet", "live"))
    norm = next(module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))
    sum(feature.square().mean() for feature in backbone(*random_images())).backward()
    assert norm.num_batches_tracked == 1
    assert norm.weight.grad is not None


def test_norm_epsilon_of_the_record_replaces_the_backbones():
    """0 becomes one that every PyTorch takes (2.11 refuses 0) and that no sum shows."""
    for given in (0.0, 0.001):
        record = replace(describe_backbone("test_resnet", "frozen"), norm_eps=given)
        norms = [module for module in Backbone(record).modules() if isinstance(module, nn.BatchNorm2d)]
        assert norms
        for norm in norms:
            assert norm.eps > 0
            assert torch.tensor(1e-30) + norm.eps == torch.tensor(1e-30) + given
