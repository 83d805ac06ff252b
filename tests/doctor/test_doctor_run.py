"""`retinanet doctor` on sound data, and with each fault planted: it finds exactly that, and says so three times."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import browser
from command_line import Done, Shapes, words_of
from retinanet.cli import main
from retinanet.data.synthetic import make_dataset
from retinanet.doctor import overfit

Document = dict[str, Any]


class Ward:
    """A data set to damage, and the doctor to call."""

    def __init__(self, data: Shapes, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.data, self.root, self.capsys, self.patch = data, data.images.parent, capsys, patch

    def edit(self, change: Callable[[Document], object], file: str = "train.json") -> None:
        path = self.root / file
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    def __call__(self, **options: Any) -> tuple[Done, Document]:
        sizes = {"resize": 64, "max_size": 96, "workers": 0, "batch": 1, "anchor_scale": 2}
        out = {"output": self.root / "doctor.html", "json": self.root / "doctor.json"}
        sets = {**self.data.training, **self.data.validation}
        words = words_of({**sets, **sizes, **out, **options})
        self.patch.setattr(sys, "argv", ["retinanet", "doctor", *words])
        self.capsys.readouterr()
        code = 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cyclopts application invoked without tokens")
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        record = self.root / "doctor.json"
        return Done(code, *self.capsys.readouterr()), json.loads(record.read_text()) if record.exists() else {}

    def finding(self, code: int, **options: Any) -> Document:
        """The one thing that the doctor finds."""
        done, record = self(**options)
        assert [finding["kind"] for finding in record["findings"]] == [record["findings"][0]["kind"]]
        (finding,) = record["findings"]
        assert done.code == code, done.err
        assert f"{finding['kind']}, {finding['split']}]" in done.out
        assert finding["kind"] in (self.root / "doctor.html").read_text()
        return dict(finding)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    make_dataset(root / "train", 14, 64, seed=3, aspects=(1.0, 1.5), empty=0)
    make_dataset(root / "val", 6, 64, seed=3, aspects=(1.0, 1.5), empty=0)
    return root


@pytest.fixture
def ward(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ward:
    return Ward(Shapes.at(shutil.copytree(sound, tmp_path / "data")), capsys, monkeypatch)


def ids_of(finding: Document, what: str) -> list[int]:
    return [one for case in finding["cases"] for one in case[what]]


def test_sound_data_have_no_findings(ward: Ward) -> None:
    done, record = ward()
    assert done.code == 0
    assert record["findings"] == []
    assert "Findings: none" in done.out
    training = record["data"]["training"]
    document = json.loads(ward.data.annotations.read_text())
    assert (training["images"], training["boxes"]) == (14, len(document["annotations"]))
    assert training["formats"] == {"JPEG RGB": 14}
    assert training["sizes"] == {"64×64": 7, "96×64": 7}
    for each in training["classes"]:
        of_class = [a for a in document["annotations"] if a["category_id"] == each["id"]]
        assert each["boxes"] == len(of_class)
        assert each["images"] == len({a["image_id"] for a in of_class})


def annotation(**values: Any) -> Callable[[Document], None]:
    """Overwrite values of the third annotation."""
    return lambda document: document["annotations"][2].update(values)


@pytest.mark.parametrize(
    ("bbox", "kind"),
    [
        ([30, 30, 60, 20], "box-over-edge"),
        ([200, 10, 20, 20], "box-outside"),
        ([10, 10, 0, 20], "degenerate-box"),
        ([10, 10, float("nan"), 20], "box-not-finite"),
        ([10, 10, 2, 2], "tiny-box"),
    ],
)
def test_a_wrong_box(ward: Ward, bbox: list[float], kind: str) -> None:
    first = next(i["id"] for i in json.loads(ward.data.annotations.read_text())["images"] if i["width"] == 64)

    def plant(document: Document) -> None:
        document["annotations"].append(
            {"id": 999, "image_id": first, "category_id": 3, "iscrowd": 0, "bbox": bbox, "area": 1}
        )

    ward.edit(plant)
    finding = ward.finding(0)
    assert (finding["kind"], finding["count"]) == (kind, 1)
    assert ids_of(finding, "annotation_ids") == [999]
    assert ids_of(finding, "image_ids") == [first]
    assert ids_of(finding, "file_names") == [f"{first - 1:05d}.jpg"]


@pytest.mark.parametrize("crowd", [0, 1])
def test_a_box_that_is_there_twice(ward: Ward, crowd: int) -> None:
    """A crowd's box may well be an object's box too."""

    def plant(document: Document) -> None:
        original = document["annotations"][4]
        x, y, width, height = original["bbox"]
        document["annotations"].append({**original, "id": 999, "bbox": [x, y, width, height - 0.3], "iscrowd": crowd})
        # Of another class it is no duplicate.
        other = {**original, "id": 998, "category_id": 3 if original["category_id"] == 17 else 17}
        document["annotations"].append(other)

    ward.edit(plant)
    if crowd:
        assert ward()[1]["findings"] == []
    else:
        finding = ward.finding(0)
        assert (finding["kind"], finding["count"]) == ("duplicate-boxes", 1)
        assert ids_of(finding, "annotation_ids") == [5, 999]


@pytest.mark.parametrize(
    ("plant", "kind", "what", "ids"),
    [
        (lambda d: d["images"].append({**d["images"][5], "id": 3}), "repeated-image-id", "image_ids", [3]),
        (annotation(id=1), "repeated-annotation-id", "annotation_ids", [1]),
        (annotation(image_id=77), "undefined-image", "annotation_ids", [3]),
        (annotation(category_id=4), "undefined-category", "annotation_ids", [3]),
        (lambda d: d["categories"].append({"id": 17, "name": "cow"}), "repeated-category-id", "image_ids", []),
        (annotation(bbox=[1, 2, 3]), "unreadable-record", "image_ids", []),
        (annotation(bbox=[1, 2, 3, "4"]), "unreadable-record", "image_ids", []),
        (lambda d: d["annotations"][2].pop("category_id"), "unreadable-record", "image_ids", []),
    ],
)
def test_a_file_that_training_refuses(
    ward: Ward, plant: Callable[[Document], object], kind: str, what: str, ids: list[int]
) -> None:
    ward.edit(plant)
    _, record = ward()
    # An image that is listed under two ids is also one file that is there twice.
    assert [each["kind"] for each in record["findings"] if each["kind"] != "duplicate-images"] == [kind]
    finding = record["findings"][0]
    assert (finding["count"], finding["severity"]) == (1, "error")
    assert ids_of(finding, what) == ids
    assert ward()[0].code == 3


def test_all_faults_of_a_file_are_listed_at_once(ward: Ward) -> None:
    def plant(document: Document) -> None:
        document["annotations"][0].pop("bbox")
        document["annotations"][1]["category_id"] = 5
        document["annotations"][2]["image_id"] = 55
        document["annotations"][4]["id"] = 4
        document["images"][13]["width"] = 0

    ward.edit(plant)
    done, record = ward()
    expected = [
        "unreadable-record",
        "repeated-annotation-id",
        "undefined-image",
        "undefined-category",
        "sizeless-image",
    ]
    assert [each["kind"] for each in record["findings"]] == expected
    assert done.code == 3
    assert done.sentence.startswith("retinanet: Training would be pointless")


def test_missing_and_broken_files(ward: Ward) -> None:
    (ward.data.images / "00001.jpg").unlink()
    assert ward.finding(0)["kind"] == "missing-image"
    picture = ward.data.images / "00004.jpg"
    whole = picture.read_bytes()
    shutil.copy(ward.data.images / "00003.jpg", ward.data.images / "00001.jpg")
    Image.effect_noise((96, 64), 50).save(ward.data.images / "00001.jpg")
    picture.write_bytes(whole[:-200])
    finding = ward.finding(0)
    assert (finding["kind"], finding["count"]) == ("broken-image", 1)
    assert ids_of(finding, "file_names") == ["00004.jpg"]
    assert "truncated" in finding["cases"][0]["detail"]


def test_sizes_that_are_declared_wrongly(ward: Ward) -> None:
    ward.edit(lambda document: document["images"][1].update(width=120))
    finding = ward.finding(0)
    assert (finding["kind"], finding["split"]) == ("wrong-size", "training")
    assert ids_of(finding, "image_ids") == [2]
    assert finding["cases"][0]["detail"] == "declared as 120×64, but is 96×64"


@pytest.mark.parametrize(("orientation", "kind"), [(6, "exif-rotation"), (3, "exif-flip"), (1, None)])
def test_exif_rotation(ward: Ward, orientation: int, kind: str | None) -> None:
    path = ward.data.images / "00001.jpg"  # 96×64
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as picture:
        picture.save(path, exif=exif)
    if kind is None:
        assert ward()[1]["findings"] == []
    else:
        finding = ward.finding(0)
        assert finding["kind"] == kind
        assert ids_of(finding, "file_names") == ["00001.jpg"]


def test_boxes_that_followed_their_exif_rotation_are_sound(ward: Ward) -> None:
    path = ward.data.images / "00001.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert ward()[1]["findings"] == []


def test_images_that_are_there_twice(ward: Ward) -> None:
    shutil.copy(ward.data.images / "00003.jpg", ward.data.images / "00005.jpg")
    finding = ward.finding(0)
    assert (finding["kind"], finding["count"]) == ("duplicate-images", 1)
    assert ids_of(finding, "file_names") == ["00003.jpg", "00005.jpg"]


def test_images_that_look_the_same(ward: Ward) -> None:
    """Darker and compressed again."""
    with Image.open(ward.data.images / "00003.jpg") as picture:
        picture.point(lambda value: value * 0.8).save(ward.data.images / "00005.jpg", quality=60)
    finding = ward.finding(0)
    assert (finding["kind"], finding["count"]) == ("near-duplicate-images", 1)
    assert ids_of(finding, "file_names") == ["00003.jpg", "00005.jpg"]


@pytest.mark.parametrize("recompressed", [False, True])
def test_a_training_image_in_the_validation_set(ward: Ward, recompressed: bool) -> None:
    source, target = ward.data.images / "00003.jpg", ward.data.val_images / "00001.jpg"
    if recompressed:
        with Image.open(source) as picture:
            picture.save(target, quality=50)
    else:
        shutil.copy(source, target)
    finding = ward.finding(0)
    assert (finding["kind"], finding["split"], finding["count"]) == ("train-val-overlap", "validation", 1)
    assert ids_of(finding, "file_names") == ["00001.jpg"]
    assert "00003.jpg" in finding["cases"][0]["detail"]


def test_classes_without_examples(ward: Ward) -> None:
    ward.edit(lambda document: document["categories"].append({"id": 50, "name": "unicorn"}))
    ward.edit(lambda document: document["categories"].append({"id": 50, "name": "unicorn"}), "val.json")
    finding = ward.finding(0)
    assert finding["kind"] == "class-without-boxes"
    assert finding["cases"][0]["detail"] == "50 unicorn"


def test_a_class_that_is_only_in_the_validation_set(ward: Ward) -> None:
    def only_discs_and_rectangles(document: Document) -> None:
        document["annotations"] = [a for a in document["annotations"] if a["category_id"] != 44]

    ward.edit(only_discs_and_rectangles)
    finding = ward.finding(0)
    assert (finding["kind"], finding["split"]) == ("class-only-in-val", "validation")
    assert finding["cases"][0]["detail"].startswith("44 triangle")


def test_a_validation_set_of_other_classes(ward: Ward) -> None:
    ward.edit(lambda document: document["categories"][0].update(name="cow"), "val.json")
    finding = ward.finding(3)
    assert (finding["kind"], finding["severity"]) == ("different-classes", "error")


def test_nothing_to_learn_from(ward: Ward) -> None:
    def crowds(document: Document) -> None:
        for each in document["annotations"]:
            each["iscrowd"] = 1

    for file in ("train.json", "val.json"):
        ward.edit(crowds, file)
    done, record = ward()
    assert done.code == 3
    assert "nothing-usable" in [finding["kind"] for finding in record["findings"]]


def test_names_from_the_data_never_run(ward: Ward) -> None:
    for file in ("train.json", "val.json"):
        ward.edit(lambda document: document["categories"][0].update(name="<script>alert(1)</script>"), file)
    done, _ = ward()
    assert done.code == 0
    page = (ward.root / "doctor.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium (apt install chromium)")
def test_the_page_in_a_browser(ward: Ward) -> None:
    for file in ("train.json", "val.json"):
        ward.edit(lambda document: document["categories"][0].update(name="<img src=x onerror=alert(1)>"), file)
    ward.edit(lambda document: document["annotations"][0].update(bbox=[1, 1, 0, 5]))
    assert ward()[0].code == 0
    page = ward.root / "doctor.html"
    with browser.start() as tab:
        for width in (380, 1400):
            tab.open(page, width)
            assert tab.js("document.documentElement.scrollWidth") <= width
        assert tab.js("document.images.length") > 0
        assert tab.complaints == []
        assert tab.fetched == [page.as_uri()]


def test_json_on_stdout_is_all_there_is_on_stdout(ward: Ward) -> None:
    done, _ = ward(json="-")
    assert json.loads(done.out)["findings"] == []


@pytest.mark.parametrize("option", ["output", "json"])
def test_a_folder_that_cannot_be_written(ward: Ward, option: str) -> None:
    closed = ward.root / "closed"
    closed.mkdir()
    closed.chmod(0o500)
    target = closed / "doctor" if os.getuid() else ward.root / "absent" / "doctor"  # root may write anywhere
    done, _ = ward(**{option: target})
    assert done.code == 2
    assert str(target.parent) in done.sentence


@pytest.mark.parametrize("option", ["output", "json"])
def test_the_annotations_are_not_overwritten(ward: Ward, option: str) -> None:
    before = {path: path.read_bytes() for path in ward.root.rglob("*.json")}
    done, _ = ward(**{option: next(path for path in before if path.name == "train.json")})
    assert done.code == 2
    assert "would overwrite" in done.sentence
    assert {path: path.read_bytes() for path in before} == before


def test_one_batch_is_learned_by_heart(ward: Ward) -> None:
    """Crowds, which are not taught, are not expected back."""

    def add_crowds(document: Document) -> None:
        for index, image in enumerate(document["images"]):
            crowd = {"id": 900 + index, "image_id": image["id"], "category_id": 3, "iscrowd": 1, "area": 64}
            document["annotations"] += [{**crowd, "bbox": [0, 0, 8, 8]}]

    ward.edit(add_crowds)
    done, record = ward(overfit=True)
    assert done.code == 0
    losses = record["overfit"]["losses"]
    assert losses[-1] < 0.3 * losses[0]
    assert 0.7 * record["overfit"]["boxes"] <= record["overfit"]["found"] <= record["overfit"]["boxes"]
    assert record["overfit"]["boxes"] > 0
    assert "learned by heart" in (ward.root / "doctor.html").read_text()


def test_what_cannot_be_learned_is_an_error(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overfit, "STEPS", 2)
    assert ward.finding(3, overfit=True)["kind"] == "overfit-failed"
