"""Steps between convolutions on a GPU, on channels-last maps: each value is read and written once.

A thread takes neighbouring channels, 16 bytes at once where the number of channels allows it.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def add_bias(maps: Tensor, bias: Tensor) -> None:
    """`feature_maps.add_bias` on a GPU."""
    _add_bias[_grid(maps)](maps, bias.contiguous(), maps.shape[1], maps.shape[1:].numel(), BLOCK=BLOCK, num_warps=4)


def max_pool(maps: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """`feature_maps.max_pool` on a GPU."""
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in maps.shape[-2:])
    result = _empty(maps, (height, width))
    _max_pool[_grid(result)](
        maps,
        result,
        *maps.shape[1:],
        width,
        result.shape[1:].numel(),
        KERNEL=kernel,
        STRIDE=stride,
        PADDING=padding,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return result


def upsample(maps: Tensor, size: Sequence[int], bias: Tensor) -> Tensor:
    """`feature_maps.upsample` on a GPU."""
    result = _empty(maps, size)
    _upsample[_grid(result)](
        maps, bias.contiguous(), result, *maps.shape[1:], *size, result.shape[1:].numel(), BLOCK=BLOCK, num_warps=4
    )
    return result


def _grid(maps: Tensor) -> tuple[int, int]:
    return triton.cdiv(maps.shape[1:].numel(), BLOCK), len(maps)


def _empty(maps: Tensor, size: Sequence[int]) -> Tensor:
    shape = (*maps.shape[:2], *size)
    return torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last)


@triton.jit
def _add_bias(maps, bias, channels, entries, BLOCK: tl.constexpr):
    """Grid (blocks of an image's entries, images)."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    maps += tl.program_id(1).to(tl.int64) * entries + entry
    value = tl.load(maps, entry < entries).to(tl.float32) + tl.load(bias + entry % channels).to(tl.float32)
    tl.store(maps, value, entry < entries)


@triton.jit
def _max_pool(
    maps,
    result,
    channels,
    height,
    width,
    result_width,
    entries,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (blocks of a result's entries, images)."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    maps += image * height * width * channels
    pixel = entry // channels
    channel = entry % channels
    row = pixel // result_width * STRIDE - PADDING
    column = pixel % result_width * STRIDE - PADDING
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for i in tl.static_range(KERNEL):
        for j in tl.static_range(KERNEL):
            inside = (row + i >= 0) & (row + i < height) & (column + j >= 0) & (column + j < width) & (entry < entries)
            position = ((row + i) * width + column + j) * channels + channel
            best = tl.maximum(best, tl.load(maps + position, inside, float("-inf")).to(tl.float32))
    tl.store(result + image * entries + entry, best, entry < entries)


@triton.jit
def _upsample(maps, bias, result, channels, height, width, result_height, result_width, entries, BLOCK: tl.constexpr):
    """Grid (blocks of a result's entries, images)."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    pixel = entry // channels
    channel = entry % channels
    row = pixel // result_width * height // result_height
    column = pixel % result_width * width // result_width
    position = image * height * width * channels + (row * width + column) * channels + channel
    value = tl.load(maps + position, entry < entries).to(tl.float32) + tl.load(bias + channel).to(tl.float32)
    tl.store(result + image * entries + entry, value, entry < entries)
