"""The page: its head, its sections, and the file."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from retinanet import __version__
from retinanet.files import atomic_write
from retinanet.page.markup import Markup, join, tag


class Section:
    """A part of the page, with an entry in its table of contents."""

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self.lead = lead
        self.blocks: list[str] = []

    def add(self, *blocks: str) -> None:
        """Append blocks (`Markup`; text becomes a paragraph)."""
        self.blocks += (block if isinstance(block, Markup) else tag("p", block) for block in blocks)


class Page:
    """What a page holds, in the order in which it is added."""

    def __init__(self, title: str, lead: str = "", facts: Sequence[tuple[str, str]] = ()) -> None:
        """`facts` are shown large at the top, as (name, value)."""
        self.title = title
        self.lead = lead
        self.facts = list(facts)
        self.sections: list[Section] = []

    def section(self, title: str, lead: str = "") -> Section:
        """Begin a section."""
        self.sections.append(Section(title, lead))
        return self.sections[-1]

    def html(self) -> str:
        """The whole page. Its content security policy lets nothing run but its own script, and nothing be fetched."""
        script, style = _asset("page.js"), _asset("page.css")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        facts = [tag("div", tag("dt", name), tag("dd", value)) for name, value in self.facts]
        return Template(_asset("page.html")).substitute(
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
            title=tag("title", self.title),
            style=style,
            script=script,
            heading=tag("h1", self.title),
            lead=tag("p", self.lead, class_="lead") if self.lead else "",
            facts=tag("dl", *facts, class_="facts") if facts else "",
            contents=join(
                tag("a", section.title, href=f"#section-{index}") for index, section in enumerate(self.sections)
            ),
            sections=join(_section(section, index) for index, section in enumerate(self.sections)),
            version=__version__,
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page to `path`, whole or not at all.

        Raises:
            UsageError: the folder does not exist or cannot be written, or `path` is a folder.
            RetinaNetError: the disk is full.
        """
        with atomic_write(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")


def _section(section: Section, index: int) -> Markup:
    name = f"section-{index}"
    heading = tag("h2", section.title, id=f"{name}-title")
    lead = [tag("p", section.lead, class_="lead")] if section.lead else []
    return tag("section", heading, *lead, *section.blocks, id=name, aria_labelledby=f"{name}-title")


def _asset(name: str) -> str:
    return files("retinanet.page").joinpath(name).read_text(encoding="utf-8")
