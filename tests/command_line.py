"""What tests of whole commands share: the made-up data, options that take milliseconds a step, and comparisons."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

SMALL = {
    **{"backbone": "test_resnet", "width": 16, "weights": "none", "resize": 64, "max_size": 96},
    **{"batch": 4, "workers": 0, "device": "cpu", "box_loss": "smooth_l1", "class_loss": "focal", "jitter": (64, 64)},
}
"""Options of `retinanet train`. timm has this network of a few layers for tests; by these losses, and with pictures of
one size, it finds objects sooner than by the default recipe's."""


def words_of(options: dict[str, Any]) -> list[str]:
    """Options as the command line takes them; those that are None are left out, True is a flag."""
    words: list[str] = []
    for name, value in options.items():
        if value is not None:
            values = () if value is True else value if isinstance(value, tuple) else (value,)
            words += ["--" + name.replace("_", "-"), *map(str, values)]
    return words


@dataclass(frozen=True)
class Shapes:
    """A made-up data set: ids 3, 17 and 44, pictures of 64×64 and 64×96 pixels, some without objects."""

    images: Path
    annotations: Path
    val_images: Path
    val_annotations: Path

    @classmethod
    def at(cls, root: Path) -> Shapes:
        return cls(root / "train", root / "train.json", root / "val", root / "val.json")

    @property
    def training(self) -> dict[str, Any]:
        return {"images": self.images, "annotations": self.annotations}

    @property
    def validation(self) -> dict[str, Any]:
        return {"val_images": self.val_images, "val_annotations": self.val_annotations}

    @property
    def held_out(self) -> dict[str, Any]:
        """Options of `retinanet infer`."""
        return {"images": self.val_images, "annotations": self.val_annotations, "workers": 0, "device": "cpu"}


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What the user reads last."""
        assert "Traceback" not in self.err
        last = self.err.strip().splitlines()[-1]
        assert last.startswith("retinanet: ")
        return last


Command = Callable[..., Done]


def metric_rows(model: Path) -> list[dict[str, str]]:
    """The model's rows of metrics.csv, without the speed, which no two runs share."""
    with (model.parent / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == model.name]
    return [{key: value for key, value in row.items() if key not in ("model", "images_per_second")} for row in rows]


def checkpoint(path: Path) -> dict[str, Any]:
    """All that the file holds."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Both hold the same values, bit for bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype, where
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}/{index}")
    else:
        assert found == expected, where
