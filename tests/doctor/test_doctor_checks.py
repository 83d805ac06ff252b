"""Single checks against something slower and plainer, and what they must not take for a fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from doctor_data import coco, write_file
from PIL import Image

from retinanet.data.coco import read_annotations
from retinanet.doctor.box_checks import SAME_BOX, check_boxes
from retinanet.doctor.class_checks import similar_names
from retinanet.doctor.duplicates import check_duplicates, check_overlap
from retinanet.doctor.findings import MAX_CASES, Case, found
from retinanet.doctor.scan import scan_images


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU of two COCO boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def test_repeated_boxes_are_those_of_a_pairwise_comparison(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    boxes: list[tuple[int, int, tuple[float, ...]]] = []
    for _ in range(120):
        x, y, w, h = random.uniform(0, 40, 2).tolist() + random.uniform(5, 50, 2).tolist()
        image, category = (int(value) for value in random.integers(1, 3, 2))
        boxes.append((image, category, (x, y, w, h)))
        if random.random() < 0.5:
            moved = (random.normal(0, 0.02, 4) * [w, h, w, h] + [x, y, w, h]).clip(0.1).tolist()
            boxes.append((int(random.integers(1, 3)), category, tuple(moved)))
    data = coco(tmp_path, [(100, 100)] * 2, boxes)
    expected = {
        j + 1
        for j, (image, category, box) in enumerate(boxes)
        for other_image, other_category, other in boxes[:j]
        if (image, category) == (other_image, other_category) and overlap(box, other) >= SAME_BOX
    }
    (finding,) = check_boxes(data, "training")
    assert finding.kind == "duplicate-boxes"
    assert {case.annotation_ids[1] for case in finding.cases} == expected
    assert 5 < len(expected) < 60
    for case in finding.cases:
        first, second = (boxes[annotation_id - 1] for annotation_id in case.annotation_ids)
        assert overlap(first[2], second[2]) >= SAME_BOX


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Traffic Light", "traffic_light"),
        ("car", "car"),
        ("car ", "Car"),
        ("person", "persons"),
        ("bus", "buses"),
        ("bicycle", "bicyle"),
        ("aeroplane", "aerpolane"),
        ("ｃａｆｅ", "cafe"),
    ],
)
def test_names_that_may_mean_one_class(one: str, other: str) -> None:
    assert similar_names(["zebra", one, "giraffe", other]) == [(one, other)]


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "car", "cap"),
        ("bus", "us"),
        ("level1", "level2", "level10"),
        ("speed limit 50", "speed limit 80"),
        ("baseball bat", "baseball glove"),
        ("left hand", "right hand"),
        ("?", "!"),
        ("犬", "猫"),
    ],
)
def test_names_that_differ(names: tuple[str, ...]) -> None:
    assert similar_names(names) == []


def test_photographs_that_share_their_light_are_not_the_same(tmp_path: Path) -> None:
    """Bright above and dark below, each with another texture; and plain ones, which show nothing to compare."""
    random = np.random.default_rng(1)
    light = np.linspace(220, 60, 96)[:, None]
    (tmp_path / "images").mkdir()
    for index in range(1, 13):
        texture = 25 * random.standard_normal((12, 12)).repeat(8, 0).repeat(8, 1)
        pixels = light + texture if index <= 8 else np.full((96, 96), 17.0 * index)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "images" / f"{index}.jpg")
    data = read_annotations(
        write_file(tmp_path / "a.json", [(96, 96)] * 12, [(1, 1, (1, 1, 9, 9))]), tmp_path / "images"
    )
    scan = scan_images(data, 0, "test")
    assert check_duplicates(scan, "training") == []
    (finding,) = check_overlap(scan, scan)
    assert finding.count == 12


def test_of_many_images_some_are_opened_and_that_is_known(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index in range(1, 10):
        Image.new("L", (20, 20)).save(tmp_path / "images" / f"{index}.jpg")
    path = write_file(tmp_path / "a.json", [(20, 20)] * 9, [(1, 1, (1, 1, 9, 9))])
    scan = scan_images(read_annotations(path, tmp_path / "images"), 2, "test", limit=4)
    assert [one.image for one in scan.opened] == [0, 3, 5, 8]


def test_a_finding_names_so_many_cases_and_counts_all() -> None:
    (finding,) = found("a", "note", "training", "Things", "Remove.", (Case(str(i)) for i in range(5000)), 5000)
    assert (finding.count, len(finding.cases)) == (5000, MAX_CASES)
    assert finding.sentence == "Things: 5,000. Remove."
    assert found("a", "note", "training", "Things", "Remove.", []) == []


PEAK = """
import re, sys
from pathlib import Path
from retinanet.config import DataConfig
from retinanet.doctor import coverage
from retinanet.doctor.run import diagnose
coverage.MATCHED_IMAGES = 5  # they take time, but one after the other
status = Path("/proc/self/status")
def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", status.read_text())[1]) * 1024
def boxes(file):
    sets = {"training": (Path(file).parent, Path(file))}
    return diagnose(sets, DataConfig(resize=64, workers=0), 4.0, with_overfit=False, seed=0).profiles["training"].boxes
boxes(sys.argv[1])
for file in sys.argv[2:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    print(boxes(file), memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are measured as Linux does it")
def test_memory_grows_by_a_few_times_what_the_file_does(tmp_path: Path) -> None:
    """1 GB within 4 GiB: less than three times the growth of a file without segmentations, the densest there is."""
    Image.new("RGB", (100, 100)).save(tmp_path / "1.jpg")
    random = np.random.default_rng(0)
    places = random.uniform(0, 50, (80_000, 4)).round(2).tolist()
    files = []
    for count in (100, 20_000, len(places)):
        files.append(write_file(tmp_path / f"{count}.json", [(100, 100)], []))
        document = json.loads(files[-1].read_text())
        document["images"] = [{**document["images"][0], "id": image} for image in range(1, 101)]
        document["annotations"] = [
            {"id": i, "image_id": i % 100 + 1, "category_id": 1, "iscrowd": 0, "area": 100.0, "bbox": places[i]}
            for i in range(count)
        ]
        files[-1].write_text(json.dumps(document))
    run = subprocess.run([sys.executable, "-c", PEAK, *files], capture_output=True, text=True, check=True)
    boxes, peak, more_boxes, higher_peak = map(int, run.stdout.split())
    assert more_boxes > 3.9 * boxes > 3.9 * 19_000
    assert higher_peak - peak < 3 * (files[2].stat().st_size - files[1].stat().st_size)
