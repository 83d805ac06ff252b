"""Pictures as the toolkit sees them: uint8 RGB `[3, H, W]`, turned as viewers show them.

EXIF orientation is applied, so boxes refer to the displayed picture. Alpha is dropped, not blended. The high byte
of 16-bit values is kept. Of a file with several frames the first is read. A file that can't be decoded wholly is an
error: no partly decoded picture is ever returned. Ordinary JPEGs are decoded by TorchCodec, all else by Pillow.
"""

from __future__ import annotations

from contextlib import suppress
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from retinanet.data.jpeg import decode, read_content, read_header
from retinanet.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"})

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = (5, 6, 7, 8)
_HEAD = 1 << 16
"""Bytes in which the header of a JPEG ends, if its thumbnail is no larger than they usually are."""


def read_image(path: str | PathLike[str]) -> Tensor:
    """The picture as uint8 RGB `[3, H, W]`, 0…255, channels-last in memory.

    Raises `DataError` naming the file if it is missing, truncated, not an image, or too large.
    """
    try:
        content = read_content(path)
        picture = decode(content) if read_header(content) else None
    except OSError:  # Pillow will meet it too, and has a sentence for it
        picture = None
    return _read_by_pillow(path) if picture is None else picture


def _read_by_pillow(path: str | PathLike[str]) -> Tensor:
    try:
        with Image.open(path) as file:
            file.load()
            turn = _UPRIGHT.get(_orientation(file))
            picture = _to_rgb(file)
            pixels = np.array(picture if turn is None else picture.transpose(turn))
    except Exception as error:  # decoders fail in many ways; whichever it was, this file is unusable
        raise _unreadable(path, error) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_size(path: str | PathLike[str]) -> tuple[int, int]:
    """(height, width) of the displayed picture, from the file's header alone. Raises `DataError` as `read_image`."""
    with suppress(OSError):  # as above
        header = read_header(read_content(path, _HEAD))
        if header:
            return header.size
    try:
        with Image.open(path) as file:
            stored = _stored_size(file)
            return stored[::-1] if _orientation(file) in _QUARTER_TURNS else stored
    except Exception as error:  # in many ways, as above
        raise _unreadable(path, error) from error


class ImageFacts(NamedTuple):
    """What a file is, and what it roughly shows."""

    format: str
    """Pillow's name, such as JPEG."""
    mode: str
    """Pillow's name of the pixels' kind, such as RGB."""
    stored_size: tuple[int, int]
    """(height, width) of the pixels in the file."""
    orientation: int
    """EXIF's, 1 (upright) … 8."""
    thumbnail: np.ndarray
    """uint8 `[side, side]`, the displayed picture in grey, squeezed to a square."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the displayed picture."""
        return self.stored_size[::-1] if self.orientation in _QUARTER_TURNS else self.stored_size


def inspect_image(path: str | PathLike[str], side: int) -> ImageFacts:
    """Facts of a file that is decoded wholly, so that it proves readable. Raises `DataError` as `read_image`."""
    try:
        with Image.open(path) as file:
            kind, mode, stored, orientation = file.format or "?", file.mode, _stored_size(file), _orientation(file)
            file.draft(None, (2 * side, 2 * side))  # JPEGs are decoded smaller, which still reads all of the file
            file.load()
            turn = _UPRIGHT.get(_orientation(file))  # asked again, as Pillow turns a TIFF in loading it
            square = _to_rgb(file).convert("L").resize((side, side), Image.Resampling.BOX)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    return ImageFacts(kind, mode, stored, orientation, np.array(square if turn is None else square.transpose(turn)))


def to_image(picture: np.ndarray | Tensor) -> Tensor:
    """A picture from memory as uint8 RGB `[3, H, W]` on the CPU.

    Arrays are uint8 `[H, W, 3]`; tensors are `[3, H, W]`, uint8 or floating point in 0…1. Anything else: `DataError`.
    """
    if isinstance(picture, np.ndarray):
        _check_layout("array", "[H, W, 3]", picture.shape, picture.shape[2:] == (3,))
        if picture.dtype != np.uint8:
            raise DataError(f"An image array should be uint8 (0…255), this one is {picture.dtype}; convert it.")
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    if not isinstance(picture, Tensor):
        raise DataError(f"An image should be a path, an array or a tensor, this one is a {type(picture).__name__}.")
    _check_layout("tensor", "[3, H, W]", tuple(picture.shape), picture.ndim == 3 and picture.shape[0] == 3)
    if picture.dtype == torch.uint8:
        return picture.cpu()
    if not picture.is_floating_point():
        raise DataError(f"An image tensor should be uint8 or floating point, this one is {picture.dtype}; convert it.")
    low, high = picture.min().item(), picture.max().item()
    if not 0 <= low <= high <= 1:
        raise DataError(f"A floating point image should lie in 0…1, this one spans {low:g}…{high:g}; scale it.")
    return (picture.cpu().float() * 255).round().to(torch.uint8)


def _check_layout(kind: str, layout: str, shape: tuple[int, ...], right: bool) -> None:
    if not right or 0 in shape:
        raise DataError(f"An image {kind} should be {layout} and not empty, this one is {list(shape)}; rearrange it.")


def _stored_size(file: Image.Image) -> tuple[int, int]:
    """(height, width). Of a TIFF `size` is turned already in some versions of Pillow, so its tags are asked."""
    width, height = (file.tag_v2[256], file.tag_v2[257]) if isinstance(file, TiffImageFile) else file.size
    return height, width


def _orientation(file: Image.Image) -> int:
    if file.format == "PNG" and "exif" not in file.info:
        return 1  # getexif would decode the whole picture to look for it
    try:
        orientation = file.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block does not make the pixels unusable; viewers ignore it too
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(file: Image.Image) -> Image.Image:
    if file.mode == "RGB":
        return file
    # Pillow gives 16-bit PNG and PGM files as "I" or as one of the "I;16" modes, depending on its version.
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(file).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if file.mode in ("I", "F"):
        raise ValueError("its 32-bit values have no known range; save it with 8 or 16 bits a channel")
    if file.mode == "P" and "transparency" in file.info:
        return file.convert("RGBA").convert("RGB")  # the same colours, without Pillow's warning
    return file.convert("RGB")


def _unreadable(path: str | PathLike[str], error: Any) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"Image {path} does not exist; check the image folder.")
    if isinstance(error, Image.DecompressionBombError):
        return DataError(f"Image {path} is too large to be decoded ({error}); shrink it.")
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"{path} is not an image of a known format; remove or replace it.")
    return DataError(f"Image {path} can't be decoded ({error}); remove or replace it.")
