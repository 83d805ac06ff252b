"""Pages in headless Chromium: quiet, fitting, usable with mouse and keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import browser
from browser import Browser
from retinanet.page import Card, Page, Picture, Row, Tags, bar_chart, cards, columns, line_chart, matrix, table

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium (apt install chromium)")

HOSTILE = "<img src=x onerror='document.title=\"hacked\"'><script>document.title='hacked'</script>"
LONG = "Donaudampfschifffahrtsgesellschaft" * 4


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser.start() as started:
        yield started


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = Image.new("RGB", (400, 300), "gray")
    pair = [Picture.of(image, "gray", "Annotated"), Picture.of(image, "gray", "Detected")]
    names = ["cat", "dog", HOSTILE, LONG]
    page = Page("A page", LONG, facts=[(name, "0.5") for name in names])
    section = page.section(HOSTILE, LONG)
    rows = [Row([name, 0.1 * i if i else None, LONG], Tags((name,), f"kind {i % 2}")) for i, name in enumerate(names)]
    section.add(table(["class", "AP", "text"], rows, caption="Classes"))
    section.add(matrix("Matrix", "a ↓ b →", names * 6, names * 6, np.arange(576).reshape(24, 24)))
    section.add(columns(bar_chart("Bars", dict.fromkeys(names, 3)), line_chart("Lines", {LONG: ([0, 1], [0, 1])})))
    page.section("Pictures").add(
        cards([Card(name, pair, [LONG], Tags((name,), score=0.2 * i)) for i, name in enumerate(names)])
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    page.write(path)
    return path


@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_quiet_and_fits(tab: Browser, path: Path, width: int, scheme: str) -> None:
    tab.open(path, width, scheme=scheme)
    assert tab.complaints == []
    assert tab.fetched == [path.as_uri()]
    assert tab.js("document.title") == "A page"
    assert tab.js("document.documentElement.scrollWidth") <= width
    outside = tab.js(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, nav, svg') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    ground = tab.js("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(247, 247, 245)") == (scheme == "light")


def shown(tab: Browser, items: str) -> list[str]:
    """The first words of the items that can be seen."""
    titles: list[str] = tab.js(
        f"[...document.querySelectorAll('{items}')].filter(e => e.offsetParent)"
        ".map(e => e.querySelector('h3, td').textContent)"
    )
    return titles


def test_filters_work_by_keys(tab: Browser, path: Path) -> None:
    tab.open(path, 1400)
    assert len(shown(tab, "tbody tr:has(td.number[data-value], td.long)")) == 4
    tab.js("document.querySelector('select[name=kind]').focus()")
    tab.press("k")  # a closed select jumps to what begins with the letter
    assert shown(tab, ".filtered tbody tr") == ["cat", HOSTILE]
    assert tab.js("document.querySelector('[role=status]').textContent") == "2 of 4 rows"
    tab.press("Tab")
    tab.press("d")
    assert shown(tab, ".filtered tbody tr") == []
    tab.press("Home")
    assert shown(tab, ".filtered tbody tr") == ["cat", HOSTILE]
    tab.js("document.querySelector('input[name=score]').focus()")
    tab.press("End")
    assert shown(tab, ".card") == []
    tab.press("Home")
    for _ in range(30):
        tab.press("ArrowRight")
    assert tab.js("document.querySelector('output').textContent") == "0.30"
    assert shown(tab, ".card") == [HOSTILE, LONG]
    assert tab.complaints == []


def test_a_class_with_html_in_its_name_can_be_chosen(tab: Browser, path: Path) -> None:
    tab.open(path, 1400)
    select = "document.querySelector('.cards').parentElement.querySelector('select')"
    tab.js(f"{select}.focus()")
    tab.press("<")
    assert shown(tab, ".card") == [HOSTILE]
    assert tab.js("document.title") == "A page"


def test_tables_are_sorted_by_clicks(tab: Browser, path: Path) -> None:
    tab.open(path, 1400)
    tab.click("th.number button")
    assert shown(tab, ".filtered tbody tr") == [LONG, HOSTILE, "dog", "cat"]
    tab.click("th.number button")
    assert shown(tab, ".filtered tbody tr") == ["dog", HOSTILE, LONG, "cat"]  # what has no number stays last
    assert tab.js("document.querySelector('th.number').ariaSort") == "ascending"
    tab.js("document.querySelector('th button').focus()")
    tab.press("Enter")
    assert shown(tab, ".filtered tbody tr")[1:3] == ["cat", "dog"]


def test_pictures_grow_and_shrink(tab: Browser, path: Path) -> None:
    tab.open(path, 380)
    tab.click(".zoom")
    assert tab.js("document.querySelector('dialog').open")
    assert tab.js("document.querySelectorAll('dialog img').length") == 2
    assert tab.js("document.documentElement.scrollWidth") <= 380
    tab.press("Escape")
    assert not tab.js("document.querySelector('dialog').open")
    tab.js("document.querySelector('.zoom').focus()")
    tab.press("Enter")
    assert tab.js("document.querySelector('dialog').open")
    tab.click("dialog > button")
    assert not tab.js("document.querySelector('dialog').open")
