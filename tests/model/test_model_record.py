import json
from dataclasses import replace

import pytest

from retinanet.errors import ModelError
from retinanet.model.record import MatchingRecord, ModelRecord


def test_a_record_survives_json(ensemble_record):
    record = replace(ensemble_record, matching=MatchingRecord("atss", low_quality=False), class_loss="quality")
    record = replace(record, centre_offset=0.0, box_loss="giou")
    assert ModelRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", {"ids": [3, 3, 44], "names": ["cat", "dog", "bird"]}),
        ("classes", {"ids": [3, "17", 44], "names": ["cat", "dog", "bird"]}),
        ("classes", {"ids": [], "names": []}),
        ("classes", None),
        ("backbones", []),
        ("backbones", [{"name": "resnet18"}]),
        ("backbones", [{"name": "resnet18", "mean": [0, 0, 0], "std": [1, 0, 1], "norm": "live"}]),
        ("backbones", [{"name": "resnet18", "mean": [0, 0, 0], "std": [1, 1, 1], "norm": "thawed"}]),
        ("width", 0),
        ("width", "wide"),
        ("cell_anchors", [[[0, 0, 1, 1]]]),
        ("cell_anchors", [[[-4, -4, 4, 4]]] * 4 + [[[4, -4, -4, 4]]]),
        ("cell_anchors", [[[-4, -4, 4, 4]]] * 4 + [[]]),
        ("strides", [8, 16, 32]),
        ("centre_offset", float("nan")),
        ("stride_rule", "guess"),
        ("p6_source", "c4"),
        ("box_loss", "l2"),
        ("class_loss", "hinge"),
        ("matching", {"kind": "best"}),
        ("matching", {"positive_iou": 0.3, "negative_iou": 0.4}),
        ("resize", 2000),
        ("surprise", 1),
    ],
)
def test_a_value_that_makes_no_network_is_refused(record, name, value):
    with pytest.raises(ModelError):
        ModelRecord.from_dict({**record.to_dict(), name: value})


def test_group_norm_needs_a_width_of_whole_groups(record):
    with pytest.raises(ModelError, match="32"):
        replace(record, head_norm="group", width=48)


def test_a_newer_record_asks_for_an_upgrade(record):
    with pytest.raises(ModelError, match=r"version 99.*upgrade"):
        ModelRecord.from_dict({**record.to_dict(), "version": 99})


@pytest.mark.parametrize("values", [None, [], {}, {"version": None}])
def test_what_is_no_record_is_refused(values):
    with pytest.raises(ModelError):
        ModelRecord.from_dict(values)


def test_a_field_that_is_missing_is_named(record):
    values = record.to_dict()
    del values["cell_anchors"]
    with pytest.raises(ModelError, match="cell_anchors"):
        ModelRecord.from_dict(values)
