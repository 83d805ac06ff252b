"""The sections with pictures: worst and best images, likely label errors."""

from __future__ import annotations

from typing import get_args

from retinanet.data.annotations import CocoData
from retinanet.page import Markup, Page, Row, cards, fold, note, table
from retinanet.predict.results import Results
from retinanet.report.figures import Figures
from retinanet.report.pictures import describe, image_card, suspect_card
from retinanet.report.suspects import SURE, Kind, Suspect, find_suspects

WORST, BEST, SUSPECTS = 16, 6, 30
"""Most cards of a section. With two pictures each they bound the page's size."""
LISTED = 500


def add_images(page: Page, data: CocoData, figures: Figures) -> None:
    """The images with the lowest and the highest F1."""
    summaries = figures.diagnostics["img_summary"]
    errors = {place: each["fp"] + each["fn"] for place, each in summaries.items()}
    worst = sorted((place for place in summaries if errors[place]), key=lambda p: (summaries[p]["f1"], -errors[p], p))
    best = sorted(
        (place for place in summaries if summaries[place]["tp"]),
        key=lambda p: (-summaries[p]["f1"], -summaries[p]["tp"], p),
    )
    position = {image_id: index for index, image_id in enumerate(data.image_ids.tolist())}
    for title, lead, places in (
        (
            "Worst images",
            "Those with the lowest F1, the most errors first. Detections are shown from the suggested threshold of "
            "their class on. Click on a picture to enlarge it.",
            worst[:WORST],
        ),
        ("Best images", "Those with the highest F1, the most objects first.", best[:BEST]),
    ):
        if places:
            images = [position[int(figures.evaluation.image_ids[place])] for place in places]
            page.section(title, lead).add(cards([image_card(data, figures, image) for image in images]))


def add_suspects(page: Page, data: CocoData, results: Results) -> None:
    """Where annotations may be wrong or missing."""
    section = page.section(
        "Likely label errors",
        f"Detections with a score of {SURE:.2f} or more where nothing, or another class, is annotated; and annotations "
        "that no detection of any score overlaps. Each is a question: the detector may be wrong as well.",
    )
    suspects = find_suspects(data, results)
    if not suspects:
        section.add(note("Nothing contradicts the annotations.", "good"))
        return
    by_kind = {kind: [suspect for suspect in suspects if suspect.kind == kind] for kind in get_args(Kind)}
    kinds = {kind: of_kind for kind, of_kind in by_kind.items() if of_kind}
    counts = "; ".join(f"“{kind}” {len(of_kind):,} times" for kind, of_kind in kinds.items())
    section.add(f"{counts}. Pictured are up to {SUSPECTS // len(kinds)} of each, the surest or largest.")
    sure = results[results.scores >= SURE]
    shown = [suspect for of_kind in kinds.values() for suspect in of_kind[: SUSPECTS // len(kinds)]]
    section.add(cards([suspect_card(data, sure, results, suspect) for suspect in shown]))
    listed = [suspect for of_kind in kinds.values() for suspect in of_kind[: LISTED // len(kinds)]]
    section.add(fold(f"{len(listed):,} of them as a list, with ids", _list(data, results, listed)))


def _list(data: CocoData, results: Results, suspects: list[Suspect]) -> Markup:
    rows = []
    for suspect in suspects:
        sentence, tags = describe(data, results, suspect)
        annotation = "" if suspect.annotation is None else str(data.annotation_ids[suspect.annotation])
        image_id = str(data.image_ids[suspect.image])
        cells = (suspect.kind, sentence, data.file_names[suspect.image], image_id, annotation, tags.score)
        rows.append(Row(cells, tags))
    header = ("question", "found", "file", "image id", "annotation id", "score")
    return table(header, rows, caption="Likely label errors")
