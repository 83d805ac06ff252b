"""The front door from Python: whatever form a picture has, the same detections, in its own pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import retinanet
from command_line import Command, Shapes
from retinanet.config import PostprocessConfig, PredictConfig
from retinanet.data.batching import assemble
from retinanet.data.images import read_image
from retinanet.errors import DataError, ModelError, UsageError
from retinanet.model.checkpoint import build_network, load_checkpoint
from retinanet.predict.detector import Detector
from retinanet.predict.predictor import Predictor, load
from retinanet.preprocess import fit_to_canvas
from retinanet.types import Detections

CPU = PredictConfig(device="cpu", batch=2)


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return load(trained, config=CPU)


@pytest.fixture(scope="module")
def paths(shapes: Shapes) -> list[Path]:
    """Two pictures of 64×64 and two of 64×96 in turn, so the order in which they run is not that of the list."""
    return sorted(shapes.val_images.iterdir())[:4]


def assert_close(found: Detections, expected: Detections) -> None:
    torch.testing.assert_close(found.count, expected.count)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-2)
    assert torch.equal(found.labels, expected.labels)


def row(detections: Detections, index: int) -> Detections:
    return Detections(*(column[index : index + 1] for column in detections))


def test_the_packages_front_door_is_load() -> None:
    assert retinanet.load is load


def test_all_forms_of_a_picture_give_the_same(predictor: Predictor, paths: list[Path]) -> None:
    array = np.asarray(Image.open(paths[0]))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = predictor(str(paths[0]))
    assert expected.count.item() > 0
    for picture in (paths[0], array, tensor, tensor.float() / 255, tensor.double() / 255, [tensor.contiguous()]):
        for found, column in zip(predictor(picture), expected, strict=True):
            assert torch.equal(found, column)


def test_shapes_types_and_order_of_what_comes_back(predictor: Predictor, paths: list[Path]) -> None:
    found = predictor(paths)
    assert found.scores.shape == (4, 100)
    assert found.boxes.shape == (4, 100, 4)
    assert (found.scores.dtype, found.boxes.dtype, found.labels.dtype) == (torch.float32, torch.float32, torch.int64)
    assert (found.scores.diff(dim=1) <= 0).all()
    used = torch.arange(100) < found.count[:, None]
    assert torch.equal(used, found.scores > 0)
    assert torch.equal(used, found.labels >= 0)
    assert not found.boxes[~used].any()
    sizes = torch.tensor([Image.open(path).size for path in paths])[:, None, :].repeat(1, 1, 2)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= sizes + 1e-3).all()


def test_a_mixed_list_keeps_its_order_over_canvases_and_batches(predictor: Predictor, paths: list[Path]) -> None:
    array = np.asarray(Image.open(paths[2]))
    mixed = [paths[3], paths[0], array, str(paths[1]), read_image(paths[0]), paths[2]]
    found = predictor(mixed)
    # Alone, a picture gets a canvas of its own size; in this list it is the same.
    for index, picture in enumerate((3, 0, 2, 1, 0, 2)):
        assert_close(row(found, index), predictor(paths[picture]))


def test_blank_slots_at_the_end_are_not_computed_on_a_cpu(predictor: Predictor, paths: list[Path]) -> None:
    placed = fit_to_canvas(read_image(paths[0]), 64, 96, (64, 96))
    batch = assemble((64, 96), [None, placed, None, placed, None, None])
    trimmed = predictor.trim(batch)
    assert trimmed.image_ids.tolist() == [-1, 0, -1, 0]
    whole, found = predictor.run(batch), predictor.run(trimmed)
    for index in (1, 3):
        assert_close(row(found, index), row(whole, index))
    assert len(predictor.trim(assemble((64, 96), [None] * 3)).images) == 1


def test_boxes_are_those_of_the_network_in_original_pixels(trained: Path) -> None:
    """Against the network run by hand on a picture that was enlarged and placed by hand."""
    network = build_network(load_checkpoint(trained)).eval()
    predictor = load(trained, config=CPU, postprocess=PostprocessConfig(threshold=0.01, nms=1.0, detections=1000))
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    canvas = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)  # 40×50 with its shorter side at 64 is 64×80
    picture = torch.from_numpy(array).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(picture, size=(64, 80), mode="bilinear", antialias=True)
    canvas[..., :80] = resized
    with torch.inference_mode():
        outputs = network(canvas, torch.tensor([[64, 80]]))
        anchors = network.anchors(outputs)
    classes = len(network.record.classes)
    scores = torch.cat([v.permute(0, 2, 3, 1).reshape(-1, classes) for v in outputs.logits]).sigmoid()
    deltas = torch.cat([v.permute(0, 2, 3, 1).reshape(-1, 4) for v in outputs.deltas])

    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    centre, size = centre + deltas[:, :2] * size, size * deltas[:, 2:].exp()
    corners = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    limit = torch.tensor([80.0, 64, 80, 64])
    corners = corners.clamp(min=torch.zeros(4), max=limit) / torch.tensor([80 / 50, 64 / 40] * 2)

    found = predictor(array)
    count = found.count.item()
    assert count > 50
    for score, box, label in zip(found.scores[0, :count], found.boxes[0, :count], found.labels[0, :count], strict=True):
        near = ((corners - box).abs().amax(dim=1) < 0.01) & ((scores[:, label] - score).abs() < 1e-5)
        assert near.any()
    best = scores.flatten().topk(20).values
    torch.testing.assert_close(found.scores[0, :20], best, rtol=0, atol=1e-5)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_file_is_seen_as_viewers_show_it(
    predictor: Predictor, paths: list[Path], tmp_path: Path, orientation: int
) -> None:
    upright = Image.open(paths[1])  # 64×96
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(turn).save(tmp_path / "turned.png", exif=exif)
    found, expected = predictor(tmp_path / "turned.png"), predictor(np.asarray(upright))
    assert expected.count.item() > 0
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_it_finds_what_retinanet_infer_finds(
    retinanet: Command, trained: Path, predictor: Predictor, paths: list[Path], tmp_path: Path
) -> None:
    for path in paths:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    output = tmp_path / "detections.json"
    assert retinanet("infer", trained, images=tmp_path, output=output, workers=0, device="cpu", batch=2).code == 0
    entries = json.loads(output.read_text())
    found = predictor(paths)
    assert len(entries) == found.count.sum()
    for index in range(4):
        of_image = [entry for entry in entries if entry["image_id"] == index + 1]
        count = int(found.count[index])
        boxes = found.boxes[index, :count]
        xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
        torch.testing.assert_close(torch.tensor([entry["bbox"] for entry in of_image]), xywh, rtol=0, atol=2e-3)
        ids = [predictor.classes.ids[label] for label in found.labels[index, :count].tolist()]
        assert [entry["category_id"] for entry in of_image] == ids


def test_the_bound_of_the_longer_side_follows_the_shorter_one(trained: Path) -> None:
    """The model was trained at 64, at most 96."""
    sizes = [
        (PredictConfig(device="cpu"), (64, 96)),
        (PredictConfig(device="cpu", resize=128), (128, 192)),
        (PredictConfig(device="cpu", max_size=80), (64, 80)),
        (PredictConfig(device="cpu", resize=32, max_size=100), (32, 100)),
    ]
    for config, expected in sizes:
        predictor = load(trained, config=config)
        assert (predictor.resize, predictor.max_size) == expected


def test_postprocessing_is_as_asked(trained: Path, paths: list[Path]) -> None:
    few = load(trained, config=CPU, postprocess=PostprocessConfig(threshold=0.08, nms=0.3, detections=3))(paths)
    assert few.scores.shape == (4, 3)
    assert (few.scores[few.scores > 0] >= 0.08).all()
    all_ = load(trained, config=CPU, postprocess=PostprocessConfig(threshold=0.08, nms=0.3))(paths)
    torch.testing.assert_close(all_.scores[:, :3], few.scores)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        ([], "empty"),
        ("nowhere.jpg", "nowhere.jpg"),
        (np.zeros((8, 8, 3), np.float32), "uint8"),
        (np.zeros((8, 8), np.uint8), r"\[H, W, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"\[H, W, 3\]"),
        (torch.zeros(8, 8, 3), r"\[3, H, W\]"),
        (torch.zeros(3, 8, 0, dtype=torch.uint8), "empty"),
        (torch.full((3, 8, 8), 255.0), "0…1"),
        (torch.full((3, 8, 8), float("nan")), "0…1"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "uint8"),
        ([7], "int"),
        (7, "int"),
    ],
)
def test_wrong_pictures_get_a_sentence(predictor: Predictor, picture: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        predictor(picture)  # type: ignore[arg-type]


def test_a_batch_of_tensors_is_a_list_of_pictures(predictor: Predictor, paths: list[Path]) -> None:
    batch = torch.stack([read_image(paths[0]), read_image(paths[2])])
    assert_close(predictor(batch), predictor([paths[0], paths[2]]))


def test_one_pixel_and_a_ribbon(predictor: Predictor) -> None:
    pictures: list[Tensor] = [
        torch.zeros(3, 1, 1, dtype=torch.uint8),
        torch.full((3, 2, 3000), 9, dtype=torch.uint8),
    ]
    found = predictor(pictures)
    assert torch.isfinite(found.boxes).all()
    assert (found.boxes[0] <= 1).all()
    assert (found.boxes[1] <= torch.tensor([3000.0, 2, 3000, 2]) + 1e-2).all()


def test_models_and_devices_that_are_not_there(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.pth"):
        load(tmp_path / "none.pth")
    with pytest.raises(UsageError, match="cuda:7"):
        load(trained, config=PredictConfig(device="cuda:7"))


def test_one_canvas_can_be_forced(trained: Path, paths: list[Path]) -> None:
    """Against the detector run by hand on a picture placed by hand, and one that has to shrink to fit."""
    predictor = load(trained, config=PredictConfig(device="cpu", canvas=(96, 64)))
    detector = Detector(build_network(load_checkpoint(trained)), PostprocessConfig()).eval()
    canvas = torch.zeros(2, 3, 96, 64, dtype=torch.uint8)
    square, wide = read_image(paths[0]), read_image(paths[1])  # 64×64 and 64×96
    canvas[0, :, :64] = square
    shrunk = torch.nn.functional.interpolate(wide[None], size=(43, 64), mode="bilinear", antialias=True)
    canvas[1, :, :43] = shrunk
    with torch.inference_mode():
        expected = detector(canvas, torch.tensor([[64, 64], [43, 64]]))
    scale = torch.tensor([[[1.0, 1, 1, 1]], [[96 / 64, 64 / 43, 96 / 64, 64 / 43]]])
    assert_close(predictor([paths[0], paths[1]]), expected._replace(boxes=expected.boxes * scale))
