"""Pages as text: what comes from the data is text, what is numbers is drawn where it belongs."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet.errors import UsageError
from retinanet.page import (
    Card,
    Markup,
    Page,
    Picture,
    Row,
    Tags,
    bar_chart,
    cards,
    columns,
    fold,
    histogram,
    line_chart,
    listing,
    matrix,
    note,
    paragraph,
    scatter,
    table,
    tag,
)
from retinanet.page.axes import BOTTOM, LEFT, RIGHT, TOP, Axis, short
from retinanet.page.picture import LARGEST_SIDE, MOST_BYTES

HOSTILE = """</script></title><script>alert(1)</script><img src=x onerror='alert(1)'>"quoted" & $script \ud800"""


class Elements(HTMLParser):
    """Names of all elements and their attributes; fails on a tag that does not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(name: str) -> Page:
    """Every block, with `name` wherever text can stand."""
    picture = Picture.of(Image.new("RGB", (40, 30), "red"), name, name)
    tags = [Tags((name,), name, 0.3), Tags(("other",), "kind", 0.6)]
    page = Page(name, name, facts=[(name, name)])
    section = page.section(name, name)
    section.add(name, paragraph(name), note(name), fold(name, name), listing([name]), columns(paragraph(name)))
    section.add(table([name, "n"], [Row([name, 1], each) for each in tags], caption=name))
    section.add(cards([Card(name, [picture], [name], each) for each in tags]))
    points = ([0, 1], [1, 2])
    section.add(line_chart(name, {name: points, "b": points}, x_label=name, y_label=name))
    section.add(scatter(name, {name: points}, x_label=name, y_label=name), bar_chart(name, {name: 1}))
    section.add(histogram(name, [0, 1], [1], x_label=name, y_label=name))
    section.add(matrix(name, name, [name], [name], np.ones((1, 1))))
    return page


def test_text_from_the_data_stays_text() -> None:
    harmless, hostile = Elements(page_of("harmless " * 9).html()), Elements(page_of(HOSTILE).html())
    assert [name for name, _ in hostile.found] == [name for name, _ in harmless.found]
    assert [sorted(attributes) for _, attributes in hostile.found] == [sorted(a) for _, a in harmless.found]
    assert HOSTILE.replace("\ud800", "\\ud800") in hostile.text


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    page_of("a").write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    elements = Elements(text)
    addresses = [a[key] for _, a in elements.found for key in ("src", "href", "action") if key in a]
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for name, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        page_of("a").write(tmp_path / "missing" / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_attributes() -> None:
    assert tag("p", "a < b", class_="x", data_kind='"', hidden=True, id=None) == (
        '<p class="x" data-kind="&quot;" hidden>a &lt; b</p>'
    )
    assert tag("p", Markup("<b>x</b>")) == "<p><b>x</b></p>"


def test_numbers_in_tables() -> None:
    html = table(["class", "AP", "n"], [Row(["a", 0.12345, 1234]), Row(["b", None, 0])])
    cells = re.findall(r"<td(.*?)>(.*?)</td>", html)
    assert [text for _, text in cells] == ["a", "0.123", "1,234", "b", "–", "0"]
    assert 'data-value="0.12345"' in cells[1][0]  # sorting sees all digits
    assert ["number" in attributes for attributes, _ in cells] == [False, True, True] * 2


def test_filters_come_with_what_can_be_filtered() -> None:
    def controls(*tags: Tags) -> list[str]:
        return re.findall(r'name="(\w+)"', table(["a"], [Row(["x"], each) for each in tags]))

    assert controls(Tags(), Tags()) == []
    assert controls(Tags(("a",), "k", 0.5), Tags(("a",), "k")) == []
    assert controls(Tags(("a", "b")), Tags()) == ["class"]
    assert controls(Tags(kind="k", score=0.1), Tags(kind="l", score=0.2)) == ["kind", "score"]


def path_points(html: str, css: str) -> list[tuple[float, float]]:
    d = re.search(rf'd="([^"]*)" class="{css}', html)
    assert d
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", d[1])]


def test_lines_run_through_their_points() -> None:
    html = line_chart("t", {"a": ([0, 1, 2, 4], [0, np.nan, 5, 10])})
    middle = ((LEFT + RIGHT) / 2, (BOTTOM + TOP) / 2)
    assert path_points(html, "line") == [(LEFT, BOTTOM), middle, (RIGHT, TOP)]
    assert len(re.findall(r"M[\d.]+ [\d.]+h0", html)) == 2  # broken at the missing value, a lone point is a dot


def test_dots_stand_at_their_points_on_logarithmic_axes() -> None:
    html = scatter("t", {"a": ([1, 10, 100, 0, np.inf], [1, 10, 100, 5, 5])}, log=True)
    middle = ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2)
    assert path_points(html, "dots") == [(LEFT, BOTTOM), middle, (RIGHT, TOP)]
    many = np.arange(1, 100_001)
    assert len(path_points(scatter("t", {"a": (many, many)}), "dots")) == 1500


def test_bars_are_as_high_as_their_counts() -> None:
    html = histogram("t", [0, 1, 2, 4], [10, 5, 0])
    bars = [[float(value) for value in bar] for bar in re.findall(r'width="([\d.]+)" height="([\d.]+)"', html)]
    assert [height for _, height in bars] == pytest.approx([BOTTOM - TOP, (BOTTOM - TOP) / 2, 0])
    assert bars[2][0] == pytest.approx(2 * bars[0][0], abs=1.2)
    html = bar_chart("t", {"a": 8, "b": 2})
    lengths = [float(width) for width in re.findall(r'width="([\d.]+)"', html)]
    assert lengths[0] == pytest.approx(4 * lengths[1])


@pytest.mark.parametrize("values", [[], [5], [0, 0], [-1e-9, 1e9], [np.nan, np.inf, 3], [1e-300, 1e-299]])
@pytest.mark.parametrize("log", [False, True])
def test_axes_hold_whatever_comes(values: list[float], log: bool) -> None:
    for zero in (False, True):
        axis = Axis.over(values, 0, 100, log=log, zero=zero)
        assert axis.low < axis.high
        assert all(0 <= axis(tick) <= 100 for tick in axis.ticks())
        assert 0 < len(axis.ticks()) <= 12


def test_ticks_are_round() -> None:
    assert Axis(0, 1, 0, 1).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert Axis(0, 4321, 0, 1).ticks() == [0, 1000, 2000, 3000, 4000]
    assert Axis(3, 1000, 0, 1, log=True).ticks() == [8, 32, 128, 512]
    assert [short(value) for value in (0.25, 1500, 12000, 3e6, 0.00002)] == ["0.25", "1500", "12k", "3M", "2e-05"]


def test_pictures_are_small_whatever_they_show() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    picture = Picture.of(Image.fromarray(noise), "noise")
    encoded = base64.b64decode(picture.uri.partition(",")[2])
    assert len(encoded) <= MOST_BYTES
    decoded = Image.open(io.BytesIO(encoded))
    assert decoded.format == "WEBP"
    assert decoded.size == picture.size
    assert picture.size[0] / picture.size[1] == pytest.approx(4 / 3, rel=0.02)
    assert Picture.of(Image.new("L", (2000, 10)), "a line").size == (LARGEST_SIDE, 3)


def test_empty_charts_and_tables() -> None:
    page = Page("empty")
    page.section("none").add(
        line_chart("a", {}), scatter("b", {"x": ([], [])}, log=True), bar_chart("c", {}), table(["a"], []), cards([])
    )
    Elements(page.html())
