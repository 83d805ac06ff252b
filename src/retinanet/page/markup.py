"""HTML that is safe by its type: text is escaped wherever it enters."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Literal

_VOID = ("img", "input", "br", "rect", "path", "line", "circle")


class Markup(str):
    """HTML of our own making; any other `str` is text."""

    __slots__ = ()


def markup(content: str) -> Markup:
    """`content` as it is where it is `Markup`, escaped where it is text; stray surrogates become backslash escapes."""
    if isinstance(content, Markup):
        return content
    return Markup(escape(content.encode("utf-8", "backslashreplace").decode()))


def tag(name: str, /, *content: str, **attributes: str | float | bool | None) -> Markup:
    """An element: `tag("p", "a < b", class_="lead")`.

    Underscores in attribute names become dashes, one at the end is dropped; True is an attribute without value, None
    and False leave it out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{markup(str(value))}"')
    if name in _VOID and not content:
        return Markup(f"<{' '.join(words)}/>")
    return Markup(f"<{' '.join(words)}>{join(content)}</{name}>")


def join(content: Iterable[str]) -> Markup:
    """All of `content`, one after the other."""
    return Markup("".join(map(markup, content)))


def paragraph(*content: str) -> Markup:
    """Running text."""
    return tag("p", *content)


def note(text: str, kind: Literal["good", "info", "warning", "error"] = "info") -> Markup:
    """A remark that stands out; its kind is said by a word as well as by its colour."""
    return tag(
        "p", tag("strong", {"good": "All well"}.get(kind, kind.capitalize()) + ": "), text, class_=f"note {kind}"
    )


def listing(items: Iterable[str]) -> Markup:
    """A list with bullets."""
    return tag("ul", *(tag("li", item) for item in items))


def fold(summary: str, *content: str) -> Markup:
    """Content that is closed until its summary is clicked (or Enter is pressed on it)."""
    return tag("details", tag("summary", summary), *content)


def columns(*blocks: str) -> Markup:
    """Blocks side by side where there is room, below each other where there is not."""
    return tag("div", *blocks, class_="columns")
