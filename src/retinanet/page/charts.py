"""Line, bar, histogram and scatter charts as inline SVG; colours come from the page's style sheet."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from retinanet.page.axes import BOTTOM, LEFT, RIGHT, SERIES, TOP, WIDTH, Axis, chart, frame, short
from retinanet.page.markup import Markup, join, tag

_MOST_POINTS = 1500
_BAR_HEIGHT, _NAME_WIDTH, _VALUE_WIDTH = 22, 118, 46

Points = tuple[ArrayLike, ArrayLike]
"""x and y, as long as each other; points that are not finite are left out."""


def line_chart(
    title: str,
    series: Mapping[str, Points],
    *,
    x_label: str = "",
    y_label: str = "",
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> Markup:
    """A line for each of up to 14 series (beyond 7, dashed); a y that is not finite breaks its line.

    `diagonal` adds the line y = x for comparison.
    """
    lines = {name: _arrays(points) for name, points in series.items()}
    x, y = _axes(list(lines.values()), x_range, y_range)
    parts = [frame(x, y, x_label, y_label)]
    if diagonal:
        ends = max(x.low, y.low), min(x.high, y.high)
        parts.append(tag("path", d=_path([(x(end), y(end)) for end in ends]), class_="diagonal"))
    for index, (name, (xs, ys)) in enumerate(lines.items()):
        places = [(x(a), y(b)) if math.isfinite(a) and math.isfinite(b) else None for a, b in zip(xs, ys, strict=True)]
        style = f"line s{index % SERIES} d{index // SERIES}"
        parts.append(tag("path", tag("title", name), d=_path(places), class_=style))
    described = (f"{name}: from {short(ys[0])} to {short(ys[-1])}" for name, (_, ys) in lines.items() if len(ys))
    return chart(title, join(parts), f"{y_label} by {x_label}. " + "; ".join(described), legend=list(series))


def scatter(
    title: str,
    series: Mapping[str, Points],
    *,
    x_label: str = "",
    y_label: str = "",
    log: bool = False,
) -> Markup:
    """A dot for each point; of more than 1,500 in a series, evenly spaced ones. `log`: both axes are logarithmic."""
    clouds = {name: _arrays(points) for name, points in series.items()}
    x, y = _axes(list(clouds.values()), None, None, log=log)
    parts = [frame(x, y, x_label, y_label)]
    for index, (name, (xs, ys)) in enumerate(clouds.items()):
        usable = np.isfinite(xs) & np.isfinite(ys) & ((xs > 0) & (ys > 0) | (not log))
        rows = np.flatnonzero(usable)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_POINTS)).astype(int)]
        dots = "".join(f"M{x(a):g} {y(b):g}h0" for a, b in zip(xs[rows], ys[rows], strict=True))
        parts.append(tag("path", tag("title", name), d=dots, class_=f"dots s{index % SERIES} d{index // SERIES}"))
    described = (f"{name}: {len(xs):,} points" for name, (xs, _) in clouds.items())
    return chart(title, join(parts), f"{y_label} against {x_label}. " + "; ".join(described), legend=list(series))


def histogram(
    title: str, edges: ArrayLike, counts: ArrayLike, *, x_label: str = "", y_label: str = "count", log: bool = False
) -> Markup:
    """Bars between B + 1 ascending edges, as `numpy.histogram` gives them; `log`: the edges' axis is logarithmic."""
    bounds, heights = np.asarray(edges, dtype=float), np.asarray(counts, dtype=float)
    x = Axis.over(bounds.tolist(), LEFT, RIGHT, log=log)
    y = Axis.over(heights.tolist(), BOTTOM, TOP, zero=True)
    parts = [frame(x, y, x_label, y_label)]
    for low, high, height in zip(bounds[:-1], bounds[1:], heights, strict=True):
        left, width = x(low) + 0.5, max(x(high) - x(low) - 1, 0.5)
        label = tag("title", f"{short(low)} … {short(high)}: {short(height)}")
        place = {"x": left, "y": y(height), "width": round(width, 1), "height": round(BOTTOM - y(height), 1)}
        parts.append(tag("rect", label, **place, class_="bar s0"))
    described = f"{int(heights.sum()):,} in all, from {short(bounds[0])} to {short(bounds[-1])}."
    return chart(title, join(parts), described)


def bar_chart(title: str, bars: Mapping[str, float], *, maximum: float | None = None, digits: int = 0) -> Markup:
    """A horizontal bar with its number for each name, in the order given; none below zero."""
    top = maximum or max(bars.values(), default=0) or 1
    room = WIDTH - _NAME_WIDTH - _VALUE_WIDTH
    parts = []
    for index, (name, value) in enumerate(bars.items()):
        middle = index * _BAR_HEIGHT + _BAR_HEIGHT / 2
        length = round(max(room * min(value / top, 1), 1), 1)
        number = f"{value:,.{digits}f}"
        label = tag("title", f"{name}: {number}")
        parts.append(tag("text", label, _cut(name), x=_NAME_WIDTH - 8, y=middle + 4, text_anchor="end"))
        place = {"x": _NAME_WIDTH, "y": middle - 7, "width": length, "height": 14}
        parts.append(tag("rect", label, **place, rx=2, class_="bar s0"))
        parts.append(tag("text", number, x=_NAME_WIDTH + length + 5, y=middle + 4))
    described = "; ".join(f"{name}: {value:,.{digits}f}" for name, value in list(bars.items())[:30])
    return chart(title, join(parts), described, height=max(len(bars), 1) * _BAR_HEIGHT)


def _arrays(points: Points) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = (np.asarray(values, dtype=float).reshape(-1) for values in points)
    assert len(xs) == len(ys)
    return xs, ys


def _axes(
    points: Sequence[tuple[np.ndarray, np.ndarray]],
    x_range: tuple[float, float] | None,
    y_range: tuple[float, float] | None,
    *,
    log: bool = False,
) -> tuple[Axis, Axis]:
    all_x, all_y = (np.concatenate([[], *(each[side] for each in points)]).tolist() for side in (0, 1))
    return (
        Axis.over(x_range or all_x, LEFT, RIGHT, log=log),
        Axis.over(y_range or all_y, BOTTOM, TOP, log=log, zero=y_range is None),
    )


def _path(places: Sequence[tuple[float, float] | None]) -> str:
    words, pen_down = [], False  # h0 makes a dot of a lone point
    for place in places:
        if place is not None:
            words.append(f"L{place[0]:g} {place[1]:g}" if pen_down else f"M{place[0]:g} {place[1]:g}h0")
        pen_down = place is not None
    return "".join(words)


def _cut(name: str, most: int = 17) -> str:
    """What of a name fits before a bar; wide letters (Chinese, Japanese, Korean) take the room of two."""
    room = most
    for index, letter in enumerate(name):
        room -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if room < 0:
            return name[: max(index - 1, 1)] + "…"
    return name
