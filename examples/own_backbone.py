"""A backbone of your own: register it with timm, and every command knows it by its name.

python examples/own_backbone.py train model.pth --backbone plainnet --weights none --images … --annotations …
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from retinanet.cli import main

# How images were normalised in your pretraining; the checkpoint keeps it.
default_cfgs = generate_default_cfgs({"plainnet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}})


class PlainNet(nn.Module):
    """Five stages of two convolutions, each of which halves the resolution."""

    def __init__(self, width: int = 32, in_chans: int = 3, num_classes: int = 1000, **kwargs: Any) -> None:
        super().__init__()
        # What timm takes the feature maps by: their module, how many channels, and the stride to the image.
        self.feature_info = []
        channels = in_chans
        for index in range(5):
            stage = nn.Sequential(*_convolution(channels, width, stride=2), *_convolution(width, width, stride=1))
            self.add_module(f"stage{index}", stage)
            self.feature_info.append({"num_chs": width, "reduction": 2 ** (index + 1), "module": f"stage{index}"})
            channels, width = width, min(2 * width, 256)

    def forward(self, x: Tensor) -> Tensor:
        """The last feature map; a classifier of your pretraining would follow."""
        for stage in self.children():
            x = stage(x)
        return x


def _convolution(channels: int, width: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)


@register_model
def plainnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The name of this function is the name of the backbone."""
    model: nn.Module = build_model_with_cfg(PlainNet, "plainnet", pretrained, **kwargs)
    return model


if __name__ == "__main__":
    main()
