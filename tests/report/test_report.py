"""`retinanet report`, from the command line to the page."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_cases import SIDE, random_case, read

import browser
from command_line import Command, Shapes
from retinanet.config import PostprocessConfig, PredictConfig
from retinanet.errors import UsageError
from retinanet.evaluate import evaluate
from retinanet.report import run
from retinanet.report.figures import measure
from retinanet.report.galleries import BEST, SUSPECTS, WORST

HOSTILE = "<img src=x onerror=alert(1)> & 'Katze' 猫"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations, results and images; a class has HTML in its name."""
    folder = random_case(tmp_path_factory.mktemp("case"))
    content = json.loads((folder / "annotations.json").read_text())
    content["categories"][0]["name"] = HOSTILE
    (folder / "annotations.json").write_text(json.dumps(content))
    for image in content["images"]:
        Image.new("RGB", (SIDE, SIDE), (image["id"], 90, 120)).save(folder / image["file_name"])
    return folder


@pytest.fixture(scope="module")
def page(case: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    output = tmp_path_factory.mktemp("report") / "report.html"
    options = {"postprocess": PostprocessConfig(), "predict": PredictConfig()}
    run.run_report(case / "results.json", images=case, annotations=case / "annotations.json", output=output, **options)
    return output


def table_of(html: str, caption: str) -> dict[str, list[str]]:
    """The cells of each row by the first of them."""
    inner = re.search(rf"<caption>{caption}</caption>.*?</table>", html, flags=re.DOTALL)
    assert inner
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", inner[0])]
    return {unescape(cells[0]): cells[1:] for cells in rows}


def test_the_page_shows_what_was_measured(case: Path, page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    data, results = read(case)
    figures = measure(data, results)
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert facts["AP"] == f"{evaluate(data, results).AP:.3f}"
    assert facts["AP small"] == f"{figures.metrics.APs:.3f}"
    by_class, thresholds = table_of(html, "By class, weakest first"), table_of(html, "Thresholds")
    for of_class in figures.classes:
        numbers = (of_class.AP, of_class.AP50, of_class.AP75, of_class.APs, of_class.APm, of_class.APl)
        shown = ["–" if number is None else f"{number:.3f}" for number in numbers]
        assert by_class[of_class.name][:6] == shown
        assert by_class[of_class.name][7] == str(of_class.objects)
        threshold = "–" if of_class.threshold is None else f"{of_class.threshold:.3f}"
        assert thresholds[of_class.name][0] == threshold
    missed = table_of(html, "Kinds of error")["missed object"]
    assert missed[1:] == [str(figures.tide["counts"]["Miss"]), f"{figures.tide['delta_ap']['Miss']:.3f}"]
    matrix = table_of(html, "Confusion matrix")
    assert matrix["nothing"] == [str(count) if count else "" for count in figures.confusion[-1]]
    assert f"Expected calibration error: {figures.calibration['ece']:.3f}" in html


def test_worst_images_come_first(case: Path, page: Path) -> None:
    """By the F1 of the detections at or above the suggested thresholds."""
    html = page.read_text(encoding="utf-8")
    worst, best = (re.search(rf"{name} images</h2>.*?</section>", html)[0] for name in ("Worst", "Best"))  # type: ignore[index]
    shown = [[float(f1) for f1 in re.findall(r"F1 ([\d.]+);", part)] for part in (worst, best)]
    summaries = measure(*read(case)).diagnostics["img_summary"].values()
    f1 = sorted(round(each["f1"], 2) for each in summaries)
    assert shown[0] == pytest.approx(f1[:WORST])
    assert shown[1] == pytest.approx(f1[: -BEST - 1 : -1])
    assert html.count("data:image/webp") <= 2 * (WORST + BEST + SUSPECTS)


def test_html_in_names_is_text(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; &#x27;Katze&#x27; 猫" in html


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium (apt install chromium)")
def test_the_report_in_a_browser(page: Path) -> None:
    with browser.start() as tab:
        for width in (380, 1400):
            tab.open(page, width)
            assert tab.js("document.documentElement.scrollWidth") <= width
        tab.js("[...document.querySelectorAll('select[name=kind]')].at(-2).focus()")
        for kind in ("not annotated?", "other class?", "nothing there?"):
            tab.press("ArrowDown")
            shown = tab.js("[...document.querySelectorAll('section:last-of-type .card')].filter(e => e.offsetParent)"
                           ".map(e => e.dataset.kind)")  # fmt: skip
            assert set(shown) == {kind}
        assert tab.complaints == []
        assert tab.fetched == [page.as_uri()]


def test_a_page_of_5000_images_stays_below_10_mb(tmp_path: Path, retinanet: Command) -> None:
    """Noise, which no codec makes small, and more classes than fit into a matrix."""
    random = np.random.default_rng(0)
    noise = tmp_path / "noise.jpg"
    Image.fromarray(random.integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(noise)
    (tmp_path / "images").mkdir()
    boxes = np.concatenate([random.uniform(0, 300, (20_000, 2)), random.uniform(5, 180, (20_000, 2))], axis=1).round(1)
    owners, labels = random.integers(0, 5000, 20_000).tolist(), random.integers(1, 81, 20_000).tolist()
    rows = list(zip(range(20_000), owners, labels, boxes.tolist(), strict=True))
    for image in range(5000):
        (tmp_path / "images" / f"{image}.jpg").hardlink_to(noise)
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(5000)],
        "categories": [{"id": id_, "name": f"class {id_}"} for id_ in range(1, 81)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, image, label, box in rows
        ],
    }
    results = [
        {"image_id": image, "category_id": label if random.random() < 0.7 else 1 + label % 80, "bbox": box,
         "score": round(random.random(), 3)}
        for _, image, label, box in rows
        if random.random() < 0.8
    ]  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    output = tmp_path / "report.html"
    options = {"images": tmp_path / "images", "annotations": tmp_path / "annotations.json", "output": output}
    assert retinanet("report", tmp_path / "results.json", **options).code == 0
    html = output.read_text(encoding="utf-8")
    assert html.count("data:image/webp") == 2 * (WORST + BEST + SUSPECTS)
    assert 2e6 < output.stat().st_size < 10e6


def test_a_model_is_run_and_reported_with_its_training(
    retinanet: Command, train: Command, shapes: Shapes, tmp_path: Path
) -> None:
    model, output = tmp_path / "model.pth", tmp_path / "mine.html"
    done = train(model, **shapes.validation, iters=6)
    assert done.code == 0
    automatic = tmp_path / "model.report.html"
    assert done.err.count(str(automatic)) == 1
    assert retinanet("report", model, **shapes.held_out, output=output, batch=2).code == 0
    for path in (automatic, output):
        html = path.read_text(encoding="utf-8")
        assert "Report of model.pth" in html
        assert all(f"<figcaption>{chart}</figcaption>" in html for chart in ("Losses", "Validation", "Learning rate"))
    shutil.copy(model, tmp_path / "model.best.pth")
    assert retinanet("report", tmp_path / "model.best.pth", **shapes.held_out, output=output).code == 0
    assert "<figcaption>Losses</figcaption>" in output.read_text(encoding="utf-8")


def test_a_training_outlives_its_report(
    train: Command, shapes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.pth"
    (tmp_path / "model.report.html").mkdir()
    done = train(model, **shapes.validation, iters=2)
    assert (done.code, model.exists()) == (0, True)
    assert "model.report.html" in done.err.splitlines()[-1]
    assert "retinanet report" in done.err.splitlines()[-1]

    def fails(*_: Any) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(run, "write_report", fails)
    done = train(tmp_path / "other.pth", **shapes.validation, iters=2)
    assert done.code == 0
    assert "unforeseen" in done.err.splitlines()[-1]


def test_mistakes_are_one_sentence(retinanet: Command, case: Path, tmp_path: Path) -> None:
    right = {"images": case, "annotations": case / "annotations.json", "output": tmp_path / "report.html"}
    foreign = tmp_path / "foreign.json"
    foreign.write_text('[{"image_id": 9, "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.5}]')
    for source, options, code, names in (
        (case / "results.json", {"threshold": 0.3}, 2, "results.json"),
        (case / "results.json", {"output": tmp_path / "none" / "report.html"}, 2, "none"),
        (tmp_path / "missing.json", {}, 3, "missing.json"),
        (tmp_path / "missing.pth", {}, 4, "missing.pth"),
        (foreign, {}, 3, "image id 9"),
    ):
        done = retinanet("report", source, **{**right, **options})
        assert (done.code, len(done.err.strip().splitlines())) == (code, 1), done.err
        assert names in done.err
    assert not (tmp_path / "report.html").exists()


def test_images_that_are_missing_or_broken_are_left_out(retinanet: Command, case: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(case, tmp_path / "case")
    (folder / "100.png").unlink()
    (folder / "101.png").write_bytes(b"no image")
    output = tmp_path / "report.html"
    done = retinanet(
        "report", folder / "results.json", images=folder, annotations=folder / "annotations.json", output=output
    )
    assert done.code == 0
    assert "100.png" in done.err
    assert "39 images" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["annotations.json", "results.json"])
def test_what_is_read_is_not_overwritten(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "annotations.json", tmp_path / "results.json"):
        path.write_text("[]")
    options: dict[str, Path] = {
        "images": tmp_path,
        "annotations": tmp_path / "annotations.json",
        "output": tmp_path / name,
    }
    with pytest.raises(UsageError, match="would overwrite"):
        run.run_report(tmp_path / "results.json", **options, postprocess=PostprocessConfig(), predict=PredictConfig())
    assert (tmp_path / name).read_text() == "[]"
