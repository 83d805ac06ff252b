"""Puts our kernels where PyTorch is slower than memory: biases, max pooling, a stem of three channels."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from timm.layers import Conv2dSame
from torch import fx, nn
from torch.nn import functional as F

from retinanet.model.fusion.layers import BiasedConv, ConvRelu, MaxPool
from retinanet.model.fusion.trace import read_modules

STEM_CHANNELS = 4
"""What tensor cores like better than 3."""

_CONVS = (nn.Conv2d, Conv2dSame)


def use_kernels(traced: fx.GraphModule) -> None:
    """In a fused graph, for inference alone."""
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    for target in called - read_modules(traced.graph):
        module = traced.get_submodule(target)
        parent, _, name = target.rpartition(".")
        setattr(traced.get_submodule(parent), name, faster(module))


def widen_stem(traced: fx.GraphModule) -> bool:
    """Let the first convolutions take `STEM_CHANNELS`, of which the last mean nothing; False if that cannot be done."""
    images = next(node for node in traced.graph.nodes if node.op == "placeholder")
    if not all(user.op == "call_module" and user.args == (images,) for user in images.users):
        return False
    calls, read = Counter(node.target for node in traced.graph.nodes), read_modules(traced.graph)
    if any(calls[user.target] > 1 or user.target in read for user in images.users):  # its weights mean more than this
        return False
    stems = [traced.get_submodule(str(user.target)) for user in images.users]
    convs = [stem.conv if isinstance(stem, ConvRelu | BiasedConv) else stem for stem in stems]
    if not all(type(conv) in _CONVS and conv.in_channels == 3 and conv.groups == 1 for conv in convs):
        return False
    for conv in cast(list[nn.Conv2d], convs):
        wider = F.pad(conv.weight.detach(), (0, 0, 0, 0, 0, STEM_CHANNELS - conv.in_channels))
        conv.weight, conv.in_channels = nn.Parameter(wider, requires_grad=False), STEM_CHANNELS
    return True


def faster(module: nn.Module) -> Any:
    """What may take the place of `module` in inference, itself if nothing is faster; a convolution is used up."""
    if type(module) in _CONVS and module.bias is not None:
        return BiasedConv(module)  # type: ignore[arg-type]
    if type(module) is nn.MaxPool2d and not (module.ceil_mode or module.return_indices):
        sides = module.kernel_size, module.stride, module.padding
        if module.dilation == 1 and all(isinstance(side, int) for side in sides):
            return MaxPool(*sides)  # type: ignore[arg-type]
    return module
