"""Steps between convolutions, for inference on GPUs: memory-bound, and several times slower in PyTorch than memory is.

Maps that are not channels-last, or not on a GPU, are left to PyTorch. A bias has the dtype of its maps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from retinanet.ops.backend import kernels_available


def add_bias(maps: Tensor, bias: Tensor) -> Tensor:
    """`maps` `[N, C, H, W]`, to which `bias` `[C]` has been added in place."""
    if not _suits(maps):
        return maps.add_(bias[:, None, None])
    from retinanet.ops.feature_maps import triton

    triton.add_bias(maps, bias)
    return maps


def max_pool(maps: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The largest of each square of side `kernel`: `[N, C, H', W']`, from `[N, C, H, W]`. NaN may get lost."""
    if not _suits(maps):
        return F.max_pool2d(maps, kernel, stride, padding)
    from retinanet.ops.feature_maps import triton

    return triton.max_pool(maps, kernel, stride, padding)


def upsample(maps: Tensor, size: Sequence[int], bias: Tensor) -> Tensor:
    """`maps` `[N, C, h, w]` plus `bias` `[C]` as their nearest neighbours on a finer grid: `[N, C, *size]`."""
    if not _suits(maps):
        return F.interpolate(maps + bias[:, None, None], size=tuple(size))
    from retinanet.ops.feature_maps import triton

    return triton.upsample(maps, size, bias)


def _suits(maps: Tensor) -> bool:
    return maps.is_cuda and maps.is_contiguous(memory_format=torch.channels_last) and kernels_available()
