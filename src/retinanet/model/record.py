"""What a checkpoint says about its network: all that is needed to rebuild it exactly, as plain values.

The record holds what differs between the RetinaNets of this world: a foreign checkpoint needs no code of its own.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from retinanet.config import BoxLoss, ClassLoss, Matching, NormMode
from retinanet.errors import ModelError
from retinanet.types import ClassMap

RECORD_VERSION = 1
StrideRule = Literal["nominal", "grid"]
P6Source = Literal["p5", "c5"]
HeadNorm = Literal["none", "group"]
HEAD_NORM_GROUPS = 32
LEVELS = 5


def _require(condition: bool, expected: str, found: object) -> None:
    if not condition:
        raise ModelError(
            f"The model's record should have {expected}, but it has {found!r}; use a checkpoint that is not damaged."
        )


@dataclass(frozen=True)
class BackboneRecord:
    """One feature extractor of timm and how its input is normalised."""

    name: str
    """timm's own name, with or without a pretraining tag."""
    mean: tuple[float, float, float]
    """RGB mean in units of 0…1."""
    std: tuple[float, float, float]
    """RGB standard deviation in units of 0…1."""
    norm: NormMode
    """Batch norm: `frozen` uses the pretrained statistics and trains nothing, `live` is ordinary batch norm."""
    norm_eps: float | None = None
    """Epsilon of every batch norm; None keeps the backbone's own."""

    def __post_init__(self) -> None:
        _require(bool(self.name), "the name of a backbone", self.name)
        _require(len(self.mean) == 3 and all(map(math.isfinite, self.mean)), "three finite means", self.mean)
        _require(len(self.std) == 3 and min(self.std) > 0, "three positive standard deviations", self.std)
        _require(self.norm in get_args(NormMode), f"a norm of {get_args(NormMode)}", self.norm)
        _require(self.norm_eps is None or self.norm_eps >= 0, "a norm epsilon of at least 0", self.norm_eps)


@dataclass(frozen=True)
class MatchingRecord:
    """Which anchors are positive, background or ignored."""

    kind: Matching = "iou"
    """`iou`: by the thresholds below (Lin et al. 2017, section 4); `atss`: by each box's own (Zhang et al. 2020)."""
    positive_iou: float = 0.5
    """An anchor of at least this IoU with a box is positive."""
    negative_iou: float = 0.4
    """An anchor below this IoU with every box is background; between the two it is ignored."""
    low_quality: bool = True
    """Each box's best anchors are positive too, however low their IoU, unless it is 0."""

    def __post_init__(self) -> None:
        _require(self.kind in get_args(Matching), f"a matching of {get_args(Matching)}", self.kind)
        thresholds = (self.negative_iou, self.positive_iou)
        _require(0 < thresholds[0] <= thresholds[1] <= 1, "0 < negative IoU <= positive IoU <= 1", thresholds)


@dataclass(frozen=True)
class ModelRecord:
    """A RetinaNet without its weights. Raises `ModelError` when its values make no network."""

    classes: ClassMap
    backbones: tuple[BackboneRecord, ...]
    """More than one makes an ensemble: shared heads, all levels decoded together."""
    cell_anchors: tuple[tuple[tuple[float, float, float, float], ...], ...]
    """Per level (finest first) A boxes x1, y1, x2, y2 around the origin, in pixels."""
    width: int = 256
    """Channels of pyramid and heads."""
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Nominal pixels between cells, per level."""
    centre_offset: float = 0.5
    """Where a cell's centre lies, in cells from its top left corner."""
    stride_rule: StrideRule = "nominal"
    """`grid`: the stride is canvas // cells instead, as torchvision has it."""
    p6_source: P6Source = "p5"
    """The map that P6 is made from."""
    head_norm: HeadNorm = "none"
    """`group`: GroupNorm of 32 groups after each hidden convolution of the heads."""
    matching: MatchingRecord = field(default_factory=MatchingRecord)
    box_loss: BoxLoss = "smooth_l1"
    class_loss: ClassLoss = "focal"
    resize: int = 800
    """Shorter side of a picture, in pixels."""
    max_size: int = 1333
    """Bound of the longer side, in pixels."""

    def __post_init__(self) -> None:
        ids, names = self.classes.ids, self.classes.names
        _require(all(isinstance(category_id, int) for category_id in ids), "integer category ids", ids)
        _require(all(isinstance(name, str) for name in names), "category names as text", names)
        _require(len(self.backbones) > 0, "at least one backbone", self.backbones)
        _require(self.width > 0, "a positive width", self.width)
        for name, choices in (
            ("stride_rule", StrideRule),
            ("p6_source", P6Source),
            ("head_norm", HeadNorm),
            ("box_loss", BoxLoss),
            ("class_loss", ClassLoss),
        ):
            _require(getattr(self, name) in get_args(choices), f"a {name} of {get_args(choices)}", getattr(self, name))
        grouped = self.head_norm == "none" or self.width % HEAD_NORM_GROUPS == 0
        _require(grouped, f"a width that {HEAD_NORM_GROUPS} divides for its group norm", self.width)
        _require(len(self.strides) == LEVELS and min(self.strides) > 0, f"{LEVELS} positive strides", self.strides)
        _require(math.isfinite(self.centre_offset), "a finite centre offset", self.centre_offset)
        counts = {len(level) for level in self.cell_anchors}
        same_count = len(self.cell_anchors) == LEVELS and len(counts) == 1 and 0 not in counts
        _require(same_count, f"{LEVELS} levels of equally many cell anchors", self.cell_anchors)
        for box in (box for level in self.cell_anchors for box in level):
            proper = len(box) == 4 and all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]
            _require(proper, "cell anchors x1 < x2, y1 < y2", box)
        _require(0 < self.resize <= self.max_size, "0 < resize <= max_size", (self.resize, self.max_size))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold, with the version of this layout."""
        return {"version": RECORD_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelRecord:
        """The inverse of `to_dict`, also after a trip through JSON. Raises `ModelError` for anything else."""
        if not isinstance(values, dict) or not isinstance(version := values.get("version"), int):
            raise ModelError("The model has no record of its network; use a checkpoint that `retinanet train` wrote.")
        if version > RECORD_VERSION:
            raise ModelError(
                f"The model's record has version {version}, but this program reads up to {RECORD_VERSION}; "
                "upgrade retinanet."
            )
        try:
            parts = {name: _tuples(value) for name, value in values.items() if name != "version"}
            parts["classes"] = ClassMap(**parts["classes"])
            parts["backbones"] = tuple(BackboneRecord(**backbone) for backbone in parts["backbones"])
            if "matching" in parts:
                parts["matching"] = MatchingRecord(**parts["matching"])
            return cls(**parts)
        except (TypeError, KeyError, ValueError, AssertionError) as error:
            raise ModelError(
                f"The model's record is damaged ({type(error).__name__}: {error}); use another copy of the checkpoint."
            ) from error


def _tuples(value: Any) -> Any:
    """`value` with every list made a tuple, as JSON knows no tuples."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value
