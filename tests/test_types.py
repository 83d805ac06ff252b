"""Detections handed to other libraries."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from retinanet.errors import UsageError
from retinanet.types import ClassMap, Detections

CLASSES = ClassMap((3, 17), ("cat", "鳥"))
FOUND = Detections(
    scores=torch.tensor([[0.9, 0.5, 0.0], [0.0, 0.0, 0.0]]),
    boxes=torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0]], [[0.0] * 4] * 3]),
    labels=torch.tensor([[1, 0, -1], [-1, -1, -1]]),
    count=torch.tensor([2, 0]),
)


def test_one_images_detections_for_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    found = FOUND.to_supervision(CLASSES)
    assert isinstance(found, supervision.Detections)
    np.testing.assert_array_equal(found.xyxy, [[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_allclose(found.confidence, [0.9, 0.5])
    assert found.class_id.tolist() == [1, 0]
    assert list(found["class_name"]) == ["鳥", "cat"]
    assert list(found["category_id"]) == [17, 3]
    assert list(found[found.confidence > 0.7]["class_name"]) == ["鳥"]  # it filters names along
    drawn = supervision.LabelAnnotator().annotate(np.zeros((20, 20, 3), np.uint8), found)
    assert drawn.any()


def test_an_image_without_detections_for_supervision() -> None:
    pytest.importorskip("supervision")
    found = FOUND.to_supervision(CLASSES, image=1)
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)


def test_supervision_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match=r"pip install 'retinanet\[supervision\]'"):
        FOUND.to_supervision(CLASSES)


def test_the_types_see_no_packages_at_import() -> None:
    script = "import sys, retinanet.types; sys.exit(bool({'torch', 'numpy', 'supervision'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
