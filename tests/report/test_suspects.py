"""Planted label errors are found, all of them and nothing else."""

from __future__ import annotations

from pathlib import Path

from report_cases import read, write

from retinanet.report.suspects import find_suspects


def box(image_id: int, category_id: int, x: float, size: float = 60, **more: float) -> dict[str, object]:
    return {"image_id": image_id, "category_id": category_id, "bbox": [x, 50, size, size], **more}


def test_planted_label_errors(tmp_path: Path) -> None:
    annotations = [
        *(box(image, 3, 10) for image in (100, 101, 102)),
        box(100, 17, 200),  # all detections say 18
        box(101, 17, 300, 20),  # small, and nothing is near
        box(102, 17, 300, 90),  # large, and nothing is near
        box(103, 17, 10),  # found, but not well
        box(104, 3, 10, 100, iscrowd=1),
        box(104, 18, 250),  # found with the right class and with another
    ]
    results = [
        *(box(image, 3, 11, score=score) for image, score in ((100, 0.9), (101, 0.9), (102, 0.6))),
        box(100, 18, 203, score=0.8),  # other class
        box(100, 3, 320, score=0.95),  # not annotated
        box(101, 3, 150, score=0.7),  # not annotated
        box(102, 3, 150, score=0.3),  # too unsure
        box(103, 17, 40, score=0.9),  # IoU 0.33
        box(104, 3, 30, 20, score=0.9),  # in the crowd
        *(box(104, 18, 251, score=0.99), box(104, 17, 249, score=0.6)),
        box(102, 18, 150, score=0.001),
    ]
    data, found = read(write(tmp_path, annotations, results))
    suspects = find_suspects(data, found)

    def told(kind: str) -> list[tuple[int, int | None, float | None]]:
        """(image id, annotation id, score)"""
        return [
            (
                int(data.image_ids[suspect.image]),
                None if suspect.annotation is None else int(data.annotation_ids[suspect.annotation]),
                None if suspect.detection is None else found.scores[suspect.detection],
            )
            for suspect in suspects
            if suspect.kind == kind
        ]

    assert told("not annotated?") == [(100, None, 0.95), (101, None, 0.7)]
    assert told("other class?") == [(100, 7 * 3 + 1, 0.8)]
    assert told("nothing there?") == [(102, 7 * 5 + 1, None), (101, 7 * 4 + 1, None)]  # the large one first
    assert len(suspects) == 5
    surest = suspects[0]
    assert surest.detection is not None
    assert found.xywh[surest.detection].tolist() == [320, 50, 60, 60]


def test_no_label_errors(tmp_path: Path) -> None:
    data, found = read(write(tmp_path, [box(100, 3, 10)], [box(100, 3, 10, score=0.9)]))
    assert find_suspects(data, found) == []


def test_sure_detections_of_unknown_categories_are_no_suspects(tmp_path: Path) -> None:
    found = [box(100, 3, 10, score=0.2), box(100, 999, 200, score=0.9)]
    assert find_suspects(*read(write(tmp_path, [box(100, 3, 10)], found))) == []
