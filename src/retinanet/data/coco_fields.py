"""What each field of a COCO annotation file has to be, for whoever has to correct it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_LONGEST = 60
"""Characters of a value that a sentence shows."""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


_Field = tuple[Callable[[Any], bool], str]
_INTEGER: _Field = (_is_integer, "an integer of 64 bits")
_IMAGE_ID: _Field = (lambda value: _is_integer(value) and value >= 0, "an integer of 64 bits, 0 or more")
_TEXT: _Field = (_is_text, "text")
_FIELDS: dict[str, dict[str, _Field]] = {
    "images": {"id": _IMAGE_ID, "file_name": _TEXT, "height": _INTEGER, "width": _INTEGER},
    "annotations": {
        **{"id": _INTEGER, "image_id": _INTEGER, "category_id": _INTEGER},
        **{"bbox": (_is_box, "four numbers"), "area": (_is_number, "a number")},
        "iscrowd": (lambda value: _is_integer(value) and -128 <= value < 128, "0 or 1"),
    },
    "categories": {"id": _INTEGER, "name": _TEXT},
}


def wrong_value(key: str, element: Any) -> str:
    """What is wrong with an element of `images`, `annotations` or `categories` that could not be read."""
    if not isinstance(element, dict):
        return f"it should be an object, but is {_shown(element)}"
    wrong = (
        f"{name} should be {what}, but is {_shown(element[name])}"
        for name, (fits, what) in _FIELDS[key].items()
        if name in element and not fits(element[name])
    )
    return next(wrong, "one of its numbers is out of range")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
