"""Tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retinanet.page.filters import NO_TAGS, Tags, data_of, filtered
from retinanet.page.markup import Markup, tag

_LONG = 24  # letters: from here on a cell may wrap, but does not shrink to a word a line

Cell = str | float | None
"""Text, a number, or None where there is none."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    cells: Sequence[Cell]
    tags: Tags = NO_TAGS


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
            **data_of(row.tags),
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
    return filtered([row.tags for row in rows], scroller, "rows")


def _column_name(name: str, number: bool, sortable: bool) -> Markup:
    inner = tag("button", name, type="button") if sortable else name
    return tag("th", inner, scope="col", class_="number" if number else None)


def _cell(cell: Cell, number: bool, digits: int) -> Markup:
    shown = "–" if cell is None else cell if isinstance(cell, str) else f"{cell:,.{digits}f}"
    if isinstance(cell, int):
        shown = f"{cell:,}"
    value = None if cell is None or isinstance(cell, str) else cell
    return tag("td", shown, class_="number" if number else "long" if len(shown) > _LONG else None, data_value=value)
