"""Cards with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retinanet.page.filters import NO_TAGS, Tags, data_of, filtered
from retinanet.page.markup import Markup, tag
from retinanet.page.picture import Picture


@dataclass(frozen=True)
class Card:
    """Pictures with a title, and facts or sentences below them."""

    title: str
    pictures: Sequence[Picture] = ()
    lines: Sequence[str] = ()
    tags: Tags = NO_TAGS


def cards(items: Sequence[Card]) -> Markup:
    """Cards in a grid."""
    return filtered([card.tags for card in items], tag("div", *map(_card, items), class_="cards"), "pictures")


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
        **data_of(card.tags),
    )
