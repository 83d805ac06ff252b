"""What rows and cards are filtered by, and the controls above them; `page.js` makes these work."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from retinanet.page.markup import Markup, join, tag


@dataclass(frozen=True)
class Tags:
    """What an item is filtered by; what it lacks does not filter it."""

    classes: tuple[str, ...] = ()
    kind: str = ""
    score: float | None = None
    """0…1."""


NO_TAGS = Tags()


def filtered(tags: Sequence[Tags], items: Markup, noun: Literal["rows", "pictures"]) -> Markup:
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


def data_of(tags: Tags) -> dict[str, str | float | None]:
    """The attributes of an item, by which `page.js` finds it."""
    return {
        "data_classes": json.dumps(tags.classes) if tags.classes else None,
        "data_kind": tags.kind or None,
        "data_score": tags.score,
    }


def _choice(label: str, name: str, values: Iterable[str]) -> Markup:
    options = (tag("option", value, value=value) for value in values)
    return tag("label", tag("span", label), tag("select", tag("option", "all", value=""), *options, name=name))
