"""Pictures small enough to travel inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

LARGEST_SIDE = 512
MOST_BYTES = 48_000
"""Of one encoded picture, so that a page of 100 stays below 10 MB whatever they show."""


@dataclass(frozen=True)
class Picture:
    """An embedded picture."""

    uri: str
    """The data: URI."""
    size: tuple[int, int]
    """Width and height in pixels as embedded."""
    alt: str
    """What it shows, for those who cannot see it."""
    caption: str = ""

    @classmethod
    def of(cls, image: Image.Image, alt: str, caption: str = "") -> Picture:
        """Embed `image` as WebP: its longer side at most `LARGEST_SIDE`, its file at most `MOST_BYTES`."""
        image = image.convert("RGB")
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        quality = 72
        encoded = _webp(image, quality)
        while len(encoded) > MOST_BYTES:
            quality -= 15
            if quality < 40:
                image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)))
            encoded = _webp(image, max(quality, 40))
        uri = "data:image/webp;base64," + base64.b64encode(encoded).decode("ascii")
        return cls(uri, image.size, alt, caption)


def _webp(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality)
    return stream.getvalue()
