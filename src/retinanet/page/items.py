"""Tables and picture cards, and the filters above them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from retinanet.page.markup import Markup, join, tag
from retinanet.page.picture import Picture

_LONG = 24  # letters: from here on a cell may wrap, but does not shrink to a word a line

Cell = str | float | None
"""Text, a number, or None where there is none."""


@dataclass(frozen=True)
class Tags:
    """What an item is filtered by; what it lacks does not filter it."""

    classes: tuple[str, ...] = ()
    kind: str = ""
    score: float | None = None
    """0…1."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    cells: Sequence[Cell]
    tags: Tags = Tags()


@dataclass(frozen=True)
class Card:
    """Pictures with a title, and facts or sentences below them."""

    title: str
    pictures: Sequence[Picture] = ()
    lines: Sequence[str] = ()
    tags: Tags = Tags()


def table(
    header: Sequence[str], rows: Sequence[Row], *, caption: str = "", digits: int = 3, sortable: bool = True
) -> Markup:
    """A table that is sorted by a click on a column's name; numbers stand to the right with `digits` decimals.

    A column is one of numbers when none of its cells is text; int cells are shown whole.
    """
    numeric = [all(not isinstance(row.cells[column], str) for row in rows) for column in range(len(header))]
    names = [
        _column_name(name, number, sortable and len(rows) > 1) for name, number in zip(header, numeric, strict=True)
    ]
    body = (
        tag(
            "tr",
            *(_cell(cell, number, digits) for cell, number in zip(row.cells, numeric, strict=True)),
            **_data(row.tags),
        )
        for row in rows
    )
    inner = tag(
        "table",
        *([tag("caption", caption)] if caption else []),
        tag("thead", tag("tr", *names)),
        tag("tbody", *body),
    )
    scroller = tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption or "Table")
    return _filtered([row.tags for row in rows], scroller, "rows")


def cards(items: Sequence[Card]) -> Markup:
    """Cards in a grid."""
    return _filtered([card.tags for card in items], tag("div", *map(_card, items), class_="cards"), "pictures")


def _card(card: Card) -> Markup:
    pictures = (
        tag(
            "figure",
            tag(
                "button",
                tag("img", src=picture.uri, alt=picture.alt, width=picture.size[0], height=picture.size[1]),
                type="button",
                class_="zoom",
                title="Enlarge",
            ),
            *([tag("figcaption", picture.caption)] if picture.caption else []),
        )
        for picture in card.pictures
    )
    badge = [tag("span", card.tags.kind, class_="badge")] if card.tags.kind else []
    return tag(
        "article",
        tag("div", *pictures, class_="pair" if len(card.pictures) > 1 else "single"),
        tag("h3", card.title, title=card.title),
        *badge,
        *(tag("p", line) for line in card.lines),
        class_="card",
        **_data(card.tags),
    )


def _column_name(name: str, number: bool, sortable: bool) -> Markup:
    inner = tag("button", name, type="button") if sortable else name
    return tag("th", inner, scope="col", class_="number" if number else None)


def _cell(cell: Cell, number: bool, digits: int) -> Markup:
    shown = "–" if cell is None else cell if isinstance(cell, str) else f"{cell:,.{digits}f}"
    if isinstance(cell, int):
        shown = f"{cell:,}"
    value = None if cell is None or isinstance(cell, str) else cell
    return tag("td", shown, class_="number" if number else "long" if len(shown) > _LONG else None, data_value=value)


def _data(tags: Tags) -> dict[str, str | float | None]:
    return {
        "data_classes": json.dumps(tags.classes) if tags.classes else None,
        "data_kind": tags.kind or None,
        "data_score": tags.score,
    }


def _filtered(tags: Sequence[Tags], items: Markup, noun: Literal["rows", "pictures"]) -> Markup:
    """`items` below the filters that their tags call for."""
    classes = sorted({name for each in tags for name in each.classes})
    kinds = list(dict.fromkeys(each.kind for each in tags if each.kind))
    scores = [each.score for each in tags if each.score is not None]
    controls = []
    if len(kinds) > 1:
        controls.append(_choice("Kind", "kind", kinds))
    if len(classes) > 1:
        controls.append(_choice("Class", "class", classes))
    if len(scores) > 1:
        slider = tag("input", type="range", name="score", min=0, max=1, step=0.01, value=0)
        controls.append(tag("label", tag("span", "Score from"), slider, tag("output", "0.00")))
    if not controls:
        return items
    status = tag("p", f"{len(tags)} {noun}", role="status", data_noun=noun)
    # Shown by the script, which makes it work.
    return tag("div", tag("form", join(controls), status, class_="filters", hidden=True), items, class_="filtered")


def _choice(label: str, name: str, values: Iterable[str]) -> Markup:
    options = (tag("option", value, value=value) for value in values)
    return tag("label", tag("span", label), tag("select", tag("option", "all", value=""), *options, name=name))
