"""Results files: every format holds exactly what is in memory, whatever the names, in memory that does not grow."""

from __future__ import annotations

import csv
import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinanet.data.annotations import CocoData, FlatStrings
from retinanet.errors import UsageError
from retinanet.predict.formats import parquet
from retinanet.predict.formats.kinds import results_format
from retinanet.predict.image_lists import write_failed_list, write_image_list
from retinanet.predict.results import Results, concatenate, read_results
from retinanet.types import ClassMap

CLASSES = ClassMap((3, 17, 44), ("cat", 'a "big", dog', "鳥"))
NAMES = ("a.jpg", 'b,"c".jpg', "鳥/\udcff.jpg", "d\n.jpg", "e.jpg", "f.jpg")
FORMATS = ("json", "jsonl", "csv", "parquet")


def data_of(names: tuple[str, ...], ids: np.ndarray | None = None) -> CocoData:
    none = np.empty(0, np.int64)
    return CocoData(
        source=Path("photos"),
        images_dir=Path("photos"),
        classes=None,
        image_ids=np.arange(len(names))[::-1] if ids is None else ids,  # not ascending, 0 is an id
        file_names=FlatStrings(names),
        sizes=np.full((len(names), 2), 50),
        offsets=np.zeros(len(names) + 1, np.int64),
        annotation_ids=none,
        boxes=np.empty((0, 4)),
        areas=np.empty(0),
        labels=none,
        crowd=none,
        status=none,
    )


DATA = data_of(NAMES)


def random_results(image_id: int, rows: int) -> Results:
    rng = np.random.default_rng(image_id)
    return Results(
        np.full(rows, image_id),
        rng.choice(CLASSES.ids, rows),
        (rng.random((rows, 4)) * 800).round(3),
        rng.random(rows).round(6),
    )


def write(path: Path, parts: list[Results], data: CocoData = DATA) -> None:
    """Two images a call, the ids of which count down as in `DATA`."""
    pytest.importorskip("pyarrow") if path.suffix == ".parquet" else None
    writer = results_format(path)(path, data, CLASSES)
    for first in range(0, len(parts), 2):
        ids = data.image_ids[first : first + 2][: len(parts) - first]
        writer.write(ids, concatenate(parts[first : first + 2]))
    writer.close()


def read(path: Path) -> list[tuple]:
    """(image id, file name, category id, category, x, y, width, height, score) as an independent program reads them."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [tuple(row.values()) for row in csv.DictReader(file)]
        return [(int(a), b, int(c), d, *map(float, numbers)) for a, b, c, d, *numbers in rows]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return [tuple(row.values()) for row in pyarrow.parquet.read_table(path).to_pylist()]
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            (
                line["image_id"],
                line["file_name"],
                found["category_id"],
                found["category"],
                *found["bbox"],
                found["score"],
            )
            for line in lines
            for found in line["detections"]
        ]
    names = dict(zip(DATA.image_ids.tolist(), NAMES, strict=True))
    classes = dict(zip(CLASSES.ids, CLASSES.names, strict=True))
    return [
        (e["image_id"], names[e["image_id"]], e["category_id"], classes[e["category_id"]], *e["bbox"], e["score"])
        for e in json.loads(path.read_text())
    ]


@pytest.mark.parametrize("ending", FORMATS)
@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(0, 5), max_size=len(NAMES)))
def test_a_file_holds_exactly_what_is_in_memory(
    tmp_path_factory: pytest.TempPathFactory, ending: str, counts: list[int]
) -> None:
    parts = [random_results(len(NAMES) - 1 - index, rows) for index, rows in enumerate(counts)]
    path = tmp_path_factory.mktemp("results") / f"detections.{ending}"
    write(path, parts)
    everything = concatenate(parts)
    classes, names = dict(zip(CLASSES.ids, CLASSES.names, strict=True)), dict(zip(range(6), NAMES[::-1], strict=True))
    if ending == "parquet":  # its text is UTF-8, so other bytes are escaped
        names = {id_: name.replace("\udcff", "\\udcff") for id_, name in names.items()}
    expected = [
        (image_id, names[image_id], category_id, classes[category_id], *box, score)
        for image_id, category_id, box, score in zip(
            *(column.tolist() for column in vars(everything).values()), strict=True
        )
    ]
    assert read(path) == expected
    if ending == "json":
        for one, other in zip(vars(read_results(path)).values(), vars(everything).values(), strict=True):
            np.testing.assert_array_equal(one, other)
    if ending == "jsonl":
        assert len(path.read_text().splitlines()) == len(counts)  # those without detections too


def test_extreme_numbers_stay_json(tmp_path: Path) -> None:
    results = Results(np.zeros(3, int), np.full(3, 3), np.tile([0.0, 0, 1e5, 1e-4], (3, 1)), np.array([1.0, 1e-5, 0]))
    for ending in ("json", "jsonl"):
        write(tmp_path / f"a.{ending}", [random_results(5, 0)] * 5 + [results])
        assert [row[-1] for row in read(tmp_path / f"a.{ending}")] == [1.0, 1e-5, 0.0]


@pytest.mark.parametrize("ending", FORMATS)
def test_memory_does_not_grow_with_the_number_of_images(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow") if ending == "parquet" else None
    monkeypatch.setattr(parquet, "_GROUP", 5_000)
    data = data_of(tuple(f"{index}.jpg" for index in range(3000)), np.arange(3000))
    part = random_results(0, 50)
    writer = results_format(Path(f"a.{ending}"))(tmp_path / f"a.{ending}", data, CLASSES)
    tracemalloc.start()
    try:
        for index in range(3000):
            if index == 300:
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
            image_ids = np.array([index])
            writer.write(image_ids, Results(np.full(50, index), part.category_ids, part.xywh, part.scores))
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        writer.close()
    assert peak < 2_000_000  # 135,000 rows of 56 bytes are 7.6 MB


def test_small_groups_make_the_same_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = pytest.importorskip("pyarrow.parquet")
    parts = [random_results(len(NAMES) - 1 - index, 4) for index in range(6)]
    write(tmp_path / "one.parquet", parts)
    monkeypatch.setattr(parquet, "_GROUP", 5)
    write(tmp_path / "many.parquet", parts)
    assert arrow.ParquetFile(tmp_path / "many.parquet").num_row_groups > 1
    assert read(tmp_path / "one.parquet") == read(tmp_path / "many.parquet")


@pytest.mark.parametrize("ending", FORMATS)
def test_images_that_failed_are_lines_where_images_are(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("pyarrow") if ending == "parquet" else None
    path = tmp_path / f"a.{ending}"
    writer = results_format(path)(path, DATA, CLASSES)
    writer.write_failed(7, 'Image "x" is truncated')
    writer.close()
    if ending == "jsonl":
        assert json.loads(path.read_text()) == {"image_id": 7, "error": 'Image "x" is truncated'}
    else:
        assert read(path) == []


def test_other_endings_and_a_missing_package_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"\.json, \.jsonl, \.csv, \.parquet, but is results\.txt"):
        results_format(Path("results.txt"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"pip install 'retinanet\[parquet\]'"):
        results_format(Path("results.PARQUET"))


def test_the_image_list_makes_results_readable_by_coco_tools(tmp_path: Path) -> None:
    path = write_image_list(tmp_path / "detections.json", DATA, CLASSES)
    assert path == tmp_path / "detections.images.json"
    content = json.loads(path.read_text())
    assert content["images"][2] == {"id": 3, "file_name": "鳥/\udcff.jpg", "width": 50, "height": 50}
    assert content["categories"][2] == {"id": 44, "name": "鳥"}
    assert content["annotations"] == []


def test_the_list_of_failures_is_there_only_when_there_are_some(tmp_path: Path) -> None:
    path = write_failed_list(tmp_path / "detections.csv", {9: "two\nlines\t\udcff", 1: "missing"})
    assert path == tmp_path / "detections.failed.tsv"
    assert path.read_text() == "image_id\treason\n1\tmissing\n9\ttwo lines \\udcff\n"
    assert write_failed_list(tmp_path / "detections.csv", {}) is None
    assert not path.exists()
