"""A matrix whose cells are shaded by their share of the row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retinanet.page.markup import Markup, tag


def matrix(
    title: str, corner: str, row_names: Sequence[str], column_names: Sequence[str], counts: np.ndarray
) -> Markup:
    """Non-negative `counts` `[R, C]` as a table; `corner` says what rows and columns are."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = tag(
        "tr", tag("th", corner), *(tag("th", tag("span", name), scope="col", title=name) for name in column_names)
    )
    body = [
        tag("tr", tag("th", name, scope="row", title=name), *map(_cell, row.tolist(), share.tolist()))
        for name, row, share in zip(row_names, counts, shares, strict=True)
    ]
    inner = tag("table", tag("caption", title), tag("thead", head), tag("tbody", *body), class_="matrix")
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=title)


def _cell(count: float, share: float) -> Markup:
    if not count:
        return tag("td")
    return tag("td", f"{int(count):,}", style=f"--heat:{share:.2f}", title=f"{share:.0%} of the row")
