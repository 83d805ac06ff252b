"""JPEG files without Pillow: what their headers say, and their pixels.

Everything out of the ordinary (CMYK, broken EXIF blocks, huge pictures …) is left to Pillow, whose verdict counts.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; Huffman coded
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_EXIF, _XMP_ORIENTATION = b"Exif\0\0", b"tiff:Orientation"
_APP1, _APP14, _START_OF_SCAN, _END_OF_IMAGE = 0xE1, 0xEE, 0xDA, b"\xff\xd9"
_RGB_IDS = b"RGB"  # libjpeg takes components of these names for RGB
_ORIENTATION_TAG, _SHORT = 0x0112, 3


class JpegHeader(NamedTuple):
    """An ordinary picture: 8 bits, greyscale or YCbCr."""

    size: tuple[int, int]
    """(height, width) as displayed."""
    orientation: int
    """EXIF's, 1 (upright) … 8."""
    scan: int
    """Where in the file the pixels begin."""


def read_content(path: str | os.PathLike[str], most: int | None = None) -> bytearray:
    """All bytes of a file, or the first `most`. Raises `OSError`."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        content = bytearray(size if most is None else min(size, most))
        if file.readinto(content) != len(content):
            raise OSError("it shrank while it was read")
        return content


def read_header(content: bytearray) -> JpegHeader | None:
    """The header of an ordinary JPEG; None for all else, which may still be a picture."""
    try:
        return _read_header(content)
    except (IndexError, ValueError):
        return None


def is_whole(content: bytearray, header: JpegHeader) -> bool:
    """Whether the file reaches the end of its picture: among the pixels the end's mark can't occur."""
    return content.rfind(_END_OF_IMAGE, header.scan) >= 0


def decode(content: bytearray) -> Tensor | None:
    """The picture of an ordinary JPEG as displayed, uint8 RGB `[3, H, W]`, channels-last in memory.

    None where TorchCodec can't decode it, or can't be loaded.
    """
    torchcodec = _torchcodec()
    if torchcodec is None:
        return None
    try:
        picture: Tensor = torchcodec.decode_jpeg(torch.frombuffer(content, dtype=torch.uint8), mode="RGB")
    except RuntimeError:
        return None
    return picture


@cache
def _torchcodec() -> Any:
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError):  # PyPI's build needs the CUDA build of PyTorch
        return None
    return decoders


def _read_header(content: bytearray) -> JpegHeader | None:
    if content[:2] != b"\xff\xd8":
        return None
    at, size, orientation = 2, (0, 0), 0
    while True:
        if content[at] != 0xFF:
            return None
        marker, end = content[at + 1], at + 2 + (content[at + 2] << 8 | content[at + 3])
        if marker in _FRAMES:
            precision, components = content[at + 4], content[at + 9]
            size = (content[at + 5] << 8 | content[at + 6], content[at + 7] << 8 | content[at + 8])
            ids = content[at + 10 : end : 3]
            if precision != 8 or components not in (1, 3) or ids == _RGB_IDS:
                return None
        elif marker in _OTHER_FRAMES or (
            marker == _APP14 and content[at + 4 : at + 9] == b"Adobe" and not content[at + 15]
        ):
            return None
        elif marker == _APP1:
            block = content[at + 4 : end]
            if block[:6] == _EXIF:
                if orientation:
                    return None  # a block in several parts
                orientation = _orientation(block[6:])
            elif _XMP_ORIENTATION in block:
                return None
        elif marker == _START_OF_SCAN:
            break
        at = end
    pixels = size[0] * size[1]
    if end > len(content) or not pixels or pixels > (Image.MAX_IMAGE_PIXELS or pixels) or not orientation <= 8:
        return None
    shown = size[::-1] if orientation >= 5 else size
    return JpegHeader(shown, orientation or 1, end)


def _orientation(tiff: bytearray) -> int:
    """Of an EXIF block; 1 where it does not say. Raises `ValueError` or `IndexError` for a broken one."""
    order: Any = {b"II": "little", b"MM": "big"}.get(bytes(tiff[:2]))
    if order is None:
        raise ValueError("no TIFF header")
    start = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[start : start + 2], order)
    if start + 2 + 12 * count > len(tiff):
        raise ValueError("entries are missing")
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if int.from_bytes(tiff[entry : entry + 2], order) == _ORIENTATION_TAG:
            kind, values = (int.from_bytes(tiff[entry + a : entry + b], order) for a, b in ((2, 4), (4, 8)))
            value = int.from_bytes(tiff[entry + 8 : entry + 10], order)
            if (kind, values) != (_SHORT, 1) or not 1 <= value <= 8:
                raise ValueError("no orientation")
            return value
    return 1
