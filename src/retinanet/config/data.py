"""Images: how large, how many at once, read by whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retinanet.config.checks import require
from retinanet.config.recipe import Recipe

LoaderKind = Literal["auto", "dali", "torch"]

DEFAULT_RESIZE = 800
LONG_SIDE_RATIO = 1333 / 800


@dataclass(frozen=True)
class DataConfig:
    """How training images are sized and batched."""

    resize: int = DEFAULT_RESIZE
    """Shorter side of a resized image, in pixels."""
    max_size: int | None = None
    """Upper bound of the longer side (default: 5/3 of --resize)."""
    jitter: tuple[int, int] | None = None
    """Draw each training image's shorter side from MIN MAX, then crop or pad (default: the recipe's)."""
    flip: float = 0.5
    """Probability that a training image is mirrored; 0 for text, signs and the like."""
    colour_jitter: float = 0.0
    """Vary brightness, contrast, saturation and hue of training images, from 0 (not at all) to 1; 0.4 is usual."""
    batch: int = 16
    """Images a step, over all devices."""
    workers: int | None = None
    """Processes that read images, for each device (default: the cores shared among them, at most 16)."""

    def __post_init__(self) -> None:
        require(self.resize >= 32, f"--resize must be at least 32 pixels, but is {self.resize}.")
        require(
            self.max_size is None or self.max_size >= self.resize,
            f"--max-size must be at least --resize ({self.resize}), but is {self.max_size}.",
        )
        require(
            self.jitter is None or 32 <= self.jitter[0] <= self.jitter[1],
            f"--jitter takes MIN MAX in pixels with 32 <= MIN <= MAX, but is {self.jitter}.",
        )
        require(0 <= self.flip <= 1, f"--flip is a probability from 0 to 1, but is {self.flip}.")
        require(
            0 <= self.colour_jitter <= 1,
            f"--colour-jitter is a strength from 0 to 1, but is {self.colour_jitter}; 0.4 is usual.",
        )
        require(self.batch >= 1, f"--batch must be at least 1, but is {self.batch}.")
        require(self.workers is None or self.workers >= 0, f"--workers must be at least 0, but is {self.workers}.")

    @property
    def longest(self) -> int:
        """Upper bound of the longer side in pixels."""
        return self.max_size or round(self.resize * LONG_SIDE_RATIO)

    def shorter_sides(self, recipe: Recipe) -> tuple[int, int]:
        """Least and most of training images, in pixels: `jitter`, or what the recipe makes of `resize`."""
        least, most = (round(part * self.resize) for part in recipe.sizes)
        return self.jitter or (least, most)
