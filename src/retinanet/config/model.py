"""The network: what a new one is made of, and what a foreign checkpoint leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retinanet.config.checks import require

NormMode = Literal["frozen", "live"]


@dataclass(frozen=True)
class ModelConfig:
    """The network of a new model."""

    backbone: tuple[str, ...] = ("ResNet50FPN",)
    """Backbone, by timm's name or an alias such as ResNet50FPN; several make an ensemble."""
    width: int = 256
    """Channels of the pyramid and the heads; smaller is faster."""
    weights: str = "pretrained"
    """Backbone weights: timm's 'pretrained' ones, a FILE, or 'none' (random)."""
    fine_tune: Path | None = None
    """Start from this model's weights; the classes may differ."""
    norm: NormMode | None = None
    """Batch norm: frozen as pretrained, or live (default: frozen, but live with --weights none)."""
    freeze: int | None = None
    """Keep the backbone as it is up to C1, C2 … C5; 0: all of it learns (default: 2, but 0 with --weights none)."""
    anchor_scale: float = 4.0
    """Side of a level's smallest anchor, in strides of that level."""

    def __post_init__(self) -> None:
        require(len(self.backbone) > 0, "--backbone needs at least one name, for example ResNet50FPN.")
        require(
            self.width >= 8 and self.width % 8 == 0,
            f"--width must be a multiple of 8, at least 8, but is {self.width}; the default is 256.",
        )
        require(self.freeze is None or 0 <= self.freeze <= 5, f"--freeze takes 0 to 5, but is {self.freeze}.")
        require(
            self.learned or not self.freeze,
            "--freeze keeps what a backbone has learned, but with --weights none it has learned nothing; "
            "leave out one of the two.",
        )
        require(
            self.learned or self.norm != "frozen",
            "--norm frozen keeps what a backbone has learned, but with --weights none it has learned nothing; "
            "leave out one of the two.",
        )
        require(
            self.anchor_scale > 0, f"--anchor-scale must be positive, but is {self.anchor_scale}; the default is 4."
        )

    @property
    def learned(self) -> bool:
        """Whether the backbone begins with weights that have learned something."""
        return self.weights != "none" or self.fine_tune is not None


@dataclass(frozen=True)
class ImportConfig:
    """What a foreign checkpoint does not say about itself."""

    annotations: Path | None = None
    """COCO JSON file whose categories name the classes (default: COCO's names where their number fits)."""
    norm_eps: float | None = None
    """Epsilon of torchvision's batch norm (default: 0 for its published COCO_V1 file of the first model, else 1e-5)."""
    odtk_anchors: Literal["exact", "rounded"] = "exact"
    """How ODTK made its anchors: exact since its version 0.2.1 of March 2020, rounded before."""

    def __post_init__(self) -> None:
        require(
            self.norm_eps is None or 0 <= self.norm_eps < 1,
            f"--norm-eps must be at least 0 and below 1, but is {self.norm_eps}; torchvision's are 0 and 0.00001.",
        )
