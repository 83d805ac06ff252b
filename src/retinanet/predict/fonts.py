"""Fonts for class names in any script: the system's, as far as it has some, else Pillow's own."""

from __future__ import annotations

import functools

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow looks for these in the system's font folders; of those found, the first that suits a text draws it.
_FILES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "msyh.ttc", "meiryo.ttc", "malgun.ttf"),
    *("NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "NotoSansHebrew-Regular.ttf"),
    *("Arial Unicode.ttf", "Nirmala.ttf", "FreeSans.ttf", "unifont.ttf"),
)
_UNASSIGNED = "\U0010ffff"


def font_for(text: str, size: int) -> Font:
    """The font, `size` pixels high, that lacks the fewest characters of `text`; these it draws as empty frames."""
    return min(_fonts(size), key=lambda font: sum(_lacks(font, character) for character in set(text)))


@functools.cache
def _fonts(size: int) -> tuple[Font, ...]:
    found: list[Font] = []
    for file in _FILES:
        try:
            found.append(ImageFont.truetype(file, size))
        except OSError:
            continue
    return (*found, ImageFont.load_default(size))


@functools.lru_cache(maxsize=4096)
def _lacks(font: Font, character: str) -> bool:
    """Whether the font draws the character as it draws one that no font has."""
    if character.isspace():
        return False
    return bytes(font.getmask(character)) == bytes(font.getmask(_UNASSIGNED))
