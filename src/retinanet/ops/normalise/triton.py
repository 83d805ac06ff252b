"""Normalisation on a GPU: one pass, where each step alone would read and write the whole batch."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048


def normalise(images: Tensor, image_sizes: Tensor, mean: Tensor, std: Tensor, channels: int = 3) -> Tensor:
    """`normalise.normalise` on a GPU; images of any strides."""
    count, _, height, width = images.shape
    shape = (count, channels, height, width)
    result = torch.empty(shape, dtype=mean.dtype, device=images.device, memory_format=torch.channels_last)
    grid = (triton.cdiv(channels * height * width, BLOCK), count)
    _normalise[grid](
        images,
        image_sizes.contiguous(),
        mean,
        std,
        result,
        height,
        width,
        *images.stride(),
        CHANNELS=channels,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return result


@triton.jit
def _normalise(
    images,
    image_sizes,
    mean,
    std,
    result,
    height,
    width,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of one picture's values, in the result's order: neighbours are channels, then columns."""
    image = tl.program_id(1).to(tl.int64)
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pixel = entry // CHANNELS
    channel = entry - pixel * CHANNELS
    row = pixel // width
    column = pixel - row * width
    inside = (row < tl.load(image_sizes + 2 * image)) & (column < tl.load(image_sizes + 2 * image + 1))
    inside &= (row < height) & (channel < 3)
    source = images + image * image_stride + channel * channel_stride + row * row_stride + column * column_stride
    grey = tl.load(source, inside, 0).to(tl.float32)
    centre = tl.load(mean + channel, channel < 3, 0).to(tl.float32)
    scaled = (grey / 255 - centre) / tl.load(std + channel, channel < 3, 1).to(tl.float32)
    target = result + image * (CHANNELS * height * width) + entry
    tl.store(target, tl.where(inside, scaled, 0.0), row < height)
