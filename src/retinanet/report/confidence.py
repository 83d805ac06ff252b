"""The section on confidence: what scores are worth, and from which on to believe them."""

from __future__ import annotations

from retinanet.page import Page, Row, columns, histogram, line_chart, table
from retinanet.report.figures import MATCH_IOU, Figures


def add_confidence(page: Page, figures: Figures) -> None:
    """Calibration and thresholds."""
    section = page.section(
        "Confidence",
        f"Of detections with score 0.8, a calibrated detector has 8 in 10 right (IoU {MATCH_IOU:.2f}). Expected "
        f"calibration error: {figures.calibration['ece']:.3f}.",
    )
    bins = figures.calibration["bins"]
    filled = [each for each in bins if each["count"]]
    points = [each["avg_confidence"] for each in filled], [each["avg_accuracy"] for each in filled]
    edges = [*(each["bin_lower"] for each in bins), bins[-1]["bin_upper"]]
    section.add(
        columns(
            line_chart(
                "Reliability",
                {"detections": points},
                x_label="score",
                y_label="share that is right",
                x_range=(0, 1),
                y_range=(0, 1),
                diagonal=True,
            ),
            histogram("Scores", edges, [each["count"] for each in bins], x_label="score", y_label="detections"),
        ),
        "The suggested threshold of a class is the score at which precision and recall are best balanced (the highest "
        "F1). Take a higher one where a false alarm costs more than a miss.",
    )
    header = ["class", "suggested threshold", "precision there", "recall there", "calibration error", "objects"]
    rows = [Row([c.name, c.threshold, c.precision, c.recall, c.calibration_error, c.objects]) for c in figures.classes]
    section.add(table(header, rows, caption="Thresholds"))
