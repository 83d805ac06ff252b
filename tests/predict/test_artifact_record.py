"""An artifact's record comes back as it was, and whatever else is found in its place gets a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retinanet.config import PostprocessConfig
from retinanet.errors import ModelError
from retinanet.predict.runtimes.artifact import ArtifactRecord, read_sidecar, sidecar, write_sidecar
from retinanet.types import ClassMap

RECORD = ArtifactRecord(
    format="onnx",
    classes=ClassMap((3, -7, 90), ("naïve", 'a "quoted" one', "")),
    canvas=(800, 1344),
    batch=(1, 4, 8),
    resize=800,
    max_size=1333,
    postprocess=PostprocessConfig(threshold=0.1, nms=0.6, top_n=500, detections=50),
    precision="fp16",
    source="model.pth",
    device="cuda",
    compute_capabilities=("8.0", "9.0"),
    versions={"torch": "2.11"},
)


def test_a_record_comes_back(tmp_path: Path) -> None:
    assert ArtifactRecord.from_json(RECORD.to_json(), "here") == RECORD
    write_sidecar(tmp_path / "engine.plan", RECORD)
    assert sidecar(tmp_path / "engine.plan") == tmp_path / "engine.plan.json"
    assert read_sidecar(tmp_path / "engine.plan") == RECORD


def test_it_is_one_line_of_ascii() -> None:
    """Some formats keep it as a name."""
    assert RECORD.to_json().isascii()
    assert "\n" not in RECORD.to_json()


def damaged(**changes: object) -> str:
    return json.dumps({**json.loads(RECORD.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        (RECORD.to_json()[:-20], "damaged"),
        (damaged(version=2), "upgrade"),
        (damaged(classes={"ids": [1], "names": []}), "damaged"),
        (damaged(postprocess={"threshold": 7}), "damaged"),
        (damaged(surprise=1), "damaged"),
    ],
)
def test_anything_else_gets_a_sentence(text: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as raised:
        ArtifactRecord.from_json(text, "engine.plan")
    assert "engine.plan" in str(raised.value)


def test_a_missing_sidecar_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"engine\.plan\.json"):
        read_sidecar(tmp_path / "engine.plan")
