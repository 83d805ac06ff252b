"""Pictures small enough to travel inside the page."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

from PIL import Image

_QUALITY = 70  # of 100: boxes and labels stay sharp
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
        while len(encoded := _webp(image)) > MOST_BYTES:
            factor = 0.9 * math.sqrt(MOST_BYTES / len(encoded))
            image = image.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))))
        uri = "data:image/webp;base64," + base64.b64encode(encoded).decode("ascii")
        return cls(uri, image.size, alt, caption)


def _webp(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=_QUALITY)
    return stream.getvalue()
