"""What shape and layout cuDNN's joined convolutions have, so that compilers can trace them: PyTorch does not say."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.nn import functional as F

_OPERATORS = ("aten::cudnn_convolution_relu", "aten::cudnn_convolution_add_relu")


def register() -> None:
    """Tell PyTorch, but for what a newer one knows itself."""
    for name in _OPERATORS:
        if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta"):
            torch.library.impl(name, "Meta")(_like_convolution)


def _like_convolution(x: Tensor, weight: Tensor, *others: object) -> Tensor:
    """`others` end with stride, padding, dilation and groups.

    Channels-last where either tensor is: code that was compiled for another layout would read the wrong numbers.
    """
    result: Tensor = F.conv2d(x, weight, None, *others[-4:])  # type: ignore[call-overload]
    channels_last = torch.channels_last in map(suggest_memory_format, (x, weight))
    return result.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
