"""The scales and the frame that charts are drawn on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from retinanet.page.markup import Markup, join, tag

WIDTH, HEIGHT = 360, 232
LEFT, TOP, RIGHT, BOTTOM = 46, 26, 350, 190
"""The plot's place in the chart, in the SVG's units, which are about a pixel on a telephone."""
SERIES = 7
"""Colours of series, `--s0` … `--s6` of the style sheet."""


@dataclass(frozen=True)
class Axis:
    """From values to places."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, log: bool = False, zero: bool = False) -> Axis:
        """An axis that holds the finite ones of `values` (above 0 if `log`), and 0 if `zero`."""
        usable = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
        low, high = min(usable), max(usable)
        if zero and not log:
            low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - (0 if zero and low == 0 else 0.5), high + 0.5)
        return cls(low, high, start, end, log)

    def __call__(self, value: float) -> float:
        """Where `value` stands; values off the axis stand at its ends."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 1)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers within the axis."""
        if self.log and self.high / self.low >= 8:
            first, last = math.floor(math.log2(self.low)), math.ceil(math.log2(self.high))
            step = max(1, math.ceil((last - first) / about))
            powers = (2.0**power for power in range(first, last + 1, step))
            return [power for power in powers if self.low <= power <= self.high]
        rough = (self.high - self.low) / about
        size = 10.0 ** math.floor(math.log10(rough))
        step_size = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
        first = math.ceil(self.low / step_size - 1e-9)
        last = math.floor(self.high / step_size + 1e-9)
        return [round(index * step_size, 12) for index in range(first, last + 1)]


def short(value: float) -> str:
    """A number as an axis shows it: 0.25, 40, 12k, 3M, 2e-05."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.4g}"


def frame(x: Axis, y: Axis, x_label: str, y_label: str) -> Markup:
    """Grid, numbers and names of the axes; the vertical one's name stands above it, where it reads without turning."""
    parts = []
    for value in y.ticks():
        parts.append(tag("line", x1=LEFT, x2=RIGHT, y1=y(value), y2=y(value), class_="grid"))
        parts.append(tag("text", short(value), x=LEFT - 6, y=y(value) + 4, text_anchor="end"))
    for value in x.ticks():
        parts.append(tag("line", x1=x(value), x2=x(value), y1=BOTTOM, y2=BOTTOM + 4, class_="axis"))
        parts.append(tag("text", short(value), x=x(value), y=BOTTOM + 17, text_anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="axis"))
    parts.append(tag("text", x_label, x=(LEFT + RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle", class_="name"))
    parts.append(tag("text", y_label, x=4, y=14, class_="name"))
    return join(parts)


def chart(
    title: str, drawing: Markup, description: str, *, height: float = HEIGHT, legend: Sequence[str] = ()
) -> Markup:
    """The figure around a drawing: its title, the picture with a description, and which colour is which series."""
    svg = tag(
        "svg", tag("title", title), tag("desc", description), drawing, viewBox=f"0 0 {WIDTH} {height:g}", role="img"
    )
    keys = [
        tag("li", tag("span", class_=f"key s{index % SERIES} d{index // SERIES}"), name)
        for index, name in enumerate(legend)
    ]
    return tag(
        "figure",
        tag("figcaption", title),
        svg,
        *([tag("ul", *keys, class_="legend")] if len(keys) > 1 else []),
        class_="chart",
    )
