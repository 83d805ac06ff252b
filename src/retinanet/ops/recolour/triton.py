"""Recolouring on a GPU: every byte is read once and written once, and no memory is taken."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def recolour_(images: Tensor, image_sizes: Tensor, matrices: Tensor) -> None:
    """See `ops.recolour`."""
    count, _, height, width = images.shape
    grid = (triton.cdiv(height * width, BLOCK), count)
    _recolour[grid](
        images,
        image_sizes.contiguous(),
        matrices.contiguous(),
        height,
        width,
        *images.stride(),
        BLOCK=BLOCK,
        num_warps=4,
    )


@triton.jit
def _recolour(
    images,
    image_sizes,
    matrices,
    height,
    width,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    BLOCK: tl.constexpr,
):
    """A block of one picture's pixels, each of which one program alone reads and writes."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = pixel // width
    column = pixel - row * width
    inside = (row < tl.load(image_sizes + 2 * image)) & (column < tl.load(image_sizes + 2 * image + 1))
    inside &= row < height
    place = images + image * image_stride + row * row_stride + column * column_stride
    red = tl.load(place, inside, 0).to(tl.float32)
    green = tl.load(place + channel_stride, inside, 0).to(tl.float32)
    blue = tl.load(place + 2 * channel_stride, inside, 0).to(tl.float32)
    for channel in tl.static_range(3):
        coefficient = matrices + 12 * image + 4 * channel
        mixed = tl.load(coefficient) * red + tl.load(coefficient + 1) * green
        mixed += tl.load(coefficient + 2) * blue + tl.load(coefficient + 3)
        rounded = tl.minimum(tl.maximum(mixed + 0.5, 0.0), 255.0).to(tl.int32)  # towards zero
        tl.store(place + channel * channel_stride, rounded.to(tl.uint8), inside)
