"""The record fits into a plan's name, whatever the classes are called and however many they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retinanet.config import PostprocessConfig
from retinanet.errors import ModelError
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.plan_name import MOST_BYTES, plan_name, record_of_name
from retinanet.types import ClassMap

RECORD = ArtifactRecord(
    format="tensorrt",
    classes=ClassMap((3, 17), ("disc", "Straßenbahn 🚋")),
    canvas=(800, 1344),
    batch=(1, 1, 8),
    resize=800,
    max_size=1333,
    postprocess=PostprocessConfig(),
    precision="fp16",
    source="model.pth",
    device="cuda",
    compute_capabilities=("8.9", "12.0"),
    versions={"tensorrt": "10.8.0.43"},
)


def with_classes(count: int, word: str) -> ArtifactRecord:
    ids = tuple(range(1, 3 * count + 1, 3))
    return replace(RECORD, classes=ClassMap(ids, tuple(f"{word} {index}" for index in ids)))


@pytest.mark.parametrize("record", [RECORD, with_classes(80, "traffic light")])
def test_a_record_that_fits_comes_back_whole(record: ArtifactRecord) -> None:
    assert record_of_name(plan_name(record), "engine.plan") == record


def test_names_are_left_out_first() -> None:
    record = with_classes(365, "something with a long name, 長い名前")
    name = plan_name(record)
    assert len(name.encode()) <= MOST_BYTES
    found = record_of_name(name, "engine.plan")
    assert found.classes.ids == record.classes.ids
    assert found.classes.names[:2] == ("1", "4")
    assert replace(found, classes=record.classes) == record


def test_then_the_ids_and_the_record_must_lie_beside() -> None:
    name = plan_name(with_classes(1203, "lvis"))
    assert len(name.encode()) <= MOST_BYTES
    with pytest.raises(ModelError, match=r"too many classes .* copy its record engine\.plan\.json beside it"):
        record_of_name(name, "engine.plan")


@pytest.mark.parametrize(("missing", "kept"), [(0, True), (-1, False)])
def test_nothing_is_left_out_too_early_or_too_late(missing: int, kept: bool) -> None:
    room = MOST_BYTES - len(RECORD.to_json()) - missing
    record = replace(RECORD, source=RECORD.source + room * "x")
    assert len(record.to_json()) == MOST_BYTES - missing
    assert ("disc" in plan_name(record)) == kept


@pytest.mark.parametrize("name", ["", "Unnamed Network 0", "main_graph", "7", "[]", "{}", '{"classes": 3}'])
def test_another_plans_name_gets_a_sentence(name: str) -> None:
    with pytest.raises(ModelError, match=r"engine\.plan"):
        record_of_name(name, "engine.plan")
