"""One self-contained HTML page from tables, charts and pictures: no network, no framework, light and dark.

    page = Page("Report of model.pth", "val.json: 120 images", facts=[("AP", "0.412"), ("images", "120")])
    section = page.section("Classes", "Average precision of each class, best first.")
    section.add(table(["class", "AP"], [Row(["cat", 0.51]), Row(["dog", None])]))
    section.add(columns(histogram("Scores", edges, counts), line_chart("Loss", {"class": (steps, losses)})))
    picture = Picture.of(image, "a cat on a table", "Ground truth")
    section.add(cards([Card("a.jpg", [picture], tags=Tags(classes=("cat",), kind="missed", score=0.9))]))
    page.write("report.html")

Every block is `Markup`. Whatever else is put into a block is text and is escaped, so names from the data show as they
are and never run. Rows and cards that carry `Tags` get filters by class, kind and score above them.
"""

from retinanet.page.cards import Card, cards
from retinanet.page.charts import bar_chart, histogram, line_chart, scatter
from retinanet.page.filters import Tags
from retinanet.page.markup import Markup, columns, fold, listing, note, paragraph, tag
from retinanet.page.matrix import matrix
from retinanet.page.page import Page, Section
from retinanet.page.picture import Picture
from retinanet.page.table import Row, table

__all__ = [
    "Card",
    "Markup",
    "Page",
    "Picture",
    "Row",
    "Section",
    "Tags",
    "bar_chart",
    "cards",
    "columns",
    "fold",
    "histogram",
    "line_chart",
    "listing",
    "matrix",
    "note",
    "paragraph",
    "scatter",
    "table",
    "tag",
]
