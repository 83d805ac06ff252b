"""What a training leaves out never ends it: it is counted, and listed beside the checkpoint."""

import csv
import json
import math
from pathlib import Path

from command_line import Command, Shapes, metric_rows


def listed(model: Path) -> list[dict[str, str]]:
    with model.with_name(f"{model.stem}.problems.tsv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_sound_data_leave_no_list(train: Command, tmp_path: Path) -> None:
    (tmp_path / "model.problems.tsv").write_text("of an earlier run")
    done = train(tmp_path / "model.pth", iters=1)
    assert "Left out" not in done.err
    assert not (tmp_path / "model.problems.tsv").exists()


def test_images_that_break_are_blanks_and_are_listed(train: Command, own_shapes: Shapes, tmp_path: Path) -> None:
    paths = sorted(own_shapes.images.iterdir())
    paths[2].write_bytes(paths[2].read_bytes()[:500])
    paths[5].write_bytes(b"no picture")
    done = train(tmp_path / "model.pth", data=own_shapes, epochs=2, workers=1)
    assert done.code == 0
    assert all(math.isfinite(float(row["class_loss"])) for row in metric_rows(tmp_path / "model.pth"))
    assert f"Left out or changed (unusable image: 2): listed in {tmp_path / 'model.problems.tsv'}" in done.err
    rows = sorted(listed(tmp_path / "model.pth"), key=lambda row: int(row["id"]))
    assert [(row["kind"], row["id"]) for row in rows] == [("unusable image", "3"), ("unusable image", "6")]
    assert all(str(path) in row["detail"] for path, row in zip((paths[2], paths[5]), rows, strict=True))


def test_boxes_and_absent_images_are_listed_with_those_that_break(
    train: Command, own_shapes: Shapes, tmp_path: Path
) -> None:
    content = json.loads(own_shapes.annotations.read_text())
    content["annotations"][0]["bbox"][2] = 0
    content["annotations"][1]["bbox"][0] = 5000
    own_shapes.annotations.write_text(json.dumps(content))
    paths = sorted(own_shapes.images.iterdir())
    paths[4].unlink()
    paths[7].write_bytes(b"")
    done = train(tmp_path / "model.pth", data=own_shapes, epochs=1)
    assert done.code == 0
    first, last = (line for line in done.err.splitlines() if line.startswith("Left out"))
    known = "box outside the image: 1, degenerate box: 1, absent image: 1"
    assert f"({known})" in first
    assert f"({known}, unusable image: 1)" in last
    kinds = sorted(row["kind"] for row in listed(tmp_path / "model.pth"))
    assert kinds == ["absent image", "box outside the image", "degenerate box", "unusable image"]


def test_images_are_listed_even_when_the_run_fails(train: Command, own_shapes: Shapes, tmp_path: Path) -> None:
    for path in own_shapes.images.iterdir():
        path.write_bytes(b"no picture")
    done = train(tmp_path / "model.pth", data=own_shapes, epochs=1)
    assert done.code == 3
    assert "None of the 18 images" in done.sentence
    assert len(listed(tmp_path / "model.pth")) == 18


def test_a_validation_image_that_breaks_is_told(train: Command, own_shapes: Shapes, tmp_path: Path) -> None:
    path = sorted(own_shapes.val_images.iterdir())[0]
    path.write_bytes(b"")
    done = train(tmp_path / "model.pth", iters=1, **own_shapes.validation)
    assert done.code == 0
    assert f"Left out: {path}" in done.err or f"Left out: Image {path}" in done.err


def test_a_training_set_that_is_mostly_empty_images(train: Command, own_shapes: Shapes, tmp_path: Path) -> None:
    content = json.loads(own_shapes.annotations.read_text())
    content["annotations"] = content["annotations"][:1]
    own_shapes.annotations.write_text(json.dumps(content))
    assert train(tmp_path / "model.pth", data=own_shapes, epochs=1).code == 0
    (row,) = metric_rows(tmp_path / "model.pth")
    assert row["skipped_steps"] == "0"
    assert 0 < float(row["class_loss"]) < 10
