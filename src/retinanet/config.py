"""What a run is asked to do: frozen, validated dataclasses, from which the command line is made.

The sentence under each field is its help text. `None` means "decided from the rest", as the sentence says.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from retinanet.errors import UsageError

Precision = Literal["bf16", "fp16", "fp32"]
LoaderKind = Literal["auto", "dali", "torch"]
ExportPrecision = Literal["fp16", "fp32", "int8", "fp8"]
QUANTISED: tuple[ExportPrecision, ...] = ("int8", "fp8")
NormMode = Literal["frozen", "live"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["step", "cosine"]
Matching = Literal["iou", "atss"]
BoxLoss = Literal["smooth_l1", "giou"]
ClassLoss = Literal["focal", "quality"]
RecipeName = Literal["classic", "modern"]

DEFAULT_RESIZE = 800
LONG_SIDE_RATIO = 1333 / 800


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UsageError(sentence)


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
        _require(len(self.backbone) > 0, "--backbone needs at least one name, for example ResNet50FPN.")
        _require(
            self.width >= 8 and self.width % 8 == 0,
            f"--width must be a multiple of 8, at least 8, but is {self.width}; the default is 256.",
        )
        _require(self.freeze is None or 0 <= self.freeze <= 5, f"--freeze takes 0 to 5, but is {self.freeze}.")
        _require(
            self.learned or not self.freeze,
            "--freeze keeps what a backbone has learned, but with --weights none it has learned nothing; "
            "leave out one of the two.",
        )
        _require(
            self.learned or self.norm != "frozen",
            "--norm frozen keeps what a backbone has learned, but with --weights none it has learned nothing; "
            "leave out one of the two.",
        )
        _require(
            self.anchor_scale > 0, f"--anchor-scale must be positive, but is {self.anchor_scale}; the default is 4."
        )

    @property
    def learned(self) -> bool:
        """Whether the backbone begins with weights that have learned something."""
        return self.weights != "none" or self.fine_tune is not None


@dataclass(frozen=True)
class DataConfig:
    """How training images are sized and batched."""

    resize: int = DEFAULT_RESIZE
    """Shorter side of a resized image, in pixels."""
    max_size: int | None = None
    """Upper bound of the longer side (default: 5/3 of --resize)."""
    jitter: tuple[int, int] | None = None
    """Draw each training image's shorter side from MIN MAX, then crop or pad."""
    flip: float = 0.5
    """Probability that a training image is mirrored; 0 for text, signs and the like."""
    batch: int = 16
    """Images a step, over all devices."""
    workers: int | None = None
    """Processes that read images, for each device (default: the cores shared among them, at most 16)."""

    def __post_init__(self) -> None:
        _require(self.resize >= 32, f"--resize must be at least 32 pixels, but is {self.resize}.")
        _require(
            self.max_size is None or self.max_size >= self.resize,
            f"--max-size must be at least --resize ({self.resize}), but is {self.max_size}.",
        )
        _require(
            self.jitter is None or 32 <= self.jitter[0] <= self.jitter[1],
            f"--jitter takes MIN MAX in pixels with 32 <= MIN <= MAX, but is {self.jitter}.",
        )
        _require(0 <= self.flip <= 1, f"--flip is a probability from 0 to 1, but is {self.flip}.")
        _require(self.batch >= 1, f"--batch must be at least 1, but is {self.batch}.")
        _require(self.workers is None or self.workers >= 0, f"--workers must be at least 0, but is {self.workers}.")

    @property
    def longest(self) -> int:
        """Upper bound of the longer side in pixels."""
        return self.max_size or round(self.resize * LONG_SIDE_RATIO)


@dataclass(frozen=True)
class Recipe:
    """What belongs together in how a network learns; each value has its option."""

    optimizer: Optimizer
    schedule: Schedule
    matching: Matching
    box_loss: BoxLoss
    class_loss: ClassLoss


RECIPES: dict[RecipeName, Recipe] = {
    "classic": Recipe("sgd", "step", "iou", "smooth_l1", "focal"),
    "modern": Recipe("adamw", "cosine", "iou", "smooth_l1", "focal"),
}
DEFAULT_RECIPE: RecipeName = "modern"


@dataclass(frozen=True)
class TrainConfig:
    """How the network learns."""

    recipe: RecipeName | None = None
    """What matching, losses, optimizer and schedule are by default: the paper's, or modern (default: modern)."""
    matching: Matching | None = None
    """Which anchors learn a box: by fixed thresholds of IoU, or by each box's own, ATSS (default: the recipe's)."""
    box_loss: BoxLoss | None = None
    """Loss of the boxes (default: the recipe's)."""
    class_loss: ClassLoss | None = None
    """Loss of the classes: focal, or quality, whose scores learn how well a box fits (default: the recipe's)."""
    epochs: int | None = None
    """Passes over the training images (default: 12; of few images as many as make 1,000 steps, 300 to fine-tune)."""
    iters: int | None = None
    """Steps, in place of --epochs."""
    optimizer: Optimizer | None = None
    """AdamW, or SGD with momentum 0.9 (default: the recipe's)."""
    lr: float | None = None
    """Peak learning rate (default: linear in --batch, from 0.0002 at 16 for adamw, 0.01 for sgd)."""
    schedule: Schedule | None = None
    """The rate falls along a half cosine to zero, or by --gamma at --milestones (default: the recipe's)."""
    warmup: int | None = None
    """Steps of linear warm-up (default: 500, at most a tenth of the run; for sgd 1000, at most a third)."""
    milestones: tuple[float, ...] = (0.667, 0.917)
    """Fractions of the run at which the step schedule lowers the rate."""
    gamma: float = 0.1
    """Factor of the step schedule."""
    weight_decay: float | None = None
    """Weight decay, on weights of convolutions alone (default: 0.05 for adamw, 0.0001 for sgd)."""
    clip_norm: float = 10.0
    """Largest norm of the gradient: far above a healthy step's, it tames the rare explosion."""
    accumulate: int = 1
    """Parts that a batch is split into, learned one after the other: less memory, the same result."""
    ema: float | None = None
    """Average the weights with this decay, for example 0.9998; the averages are validated and kept."""
    precision: Precision | None = None
    """Arithmetic of the network (default: bf16 on GPUs, fp32 on CPUs)."""
    compile: Annotated[bool | None, Parameter(negative="--no-compile")] = None
    """Compile the network's blocks: faster steps after a slower first one (default: on GPUs)."""
    val_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    patience: int | None = None
    """End early after this many validations without a better AP."""
    logdir: Path | None = None
    """Folder of TensorBoard's files: losses, rates, metrics, and pictures of each validation."""
    seed: int = 0
    """Seed of initial weights, order of images and augmentation."""
    device: str | None = None
    """cuda, cuda:1, cpu … (default: GPUs where there are any)."""
    loader: LoaderKind = "auto"
    """What reads images: DALI or PyTorch (auto: DALI on a GPU where it is installed)."""
    devices: int | None = None
    """GPUs, or processes on a CPU, that train together (default: every GPU; one process on a CPU)."""
    max_restarts: int = 2
    """How often a run on several devices begins again from its last checkpoint when one of its processes dies."""
    save_every: float = 10.0
    """Minutes between checkpoints; each validation, the end and an interruption write one too."""
    override: bool = False
    """Start anew where MODEL exists, in place of resuming it."""

    def __post_init__(self) -> None:
        _require(self.epochs is None or self.epochs >= 1, f"--epochs must be at least 1, but is {self.epochs}.")
        _require(self.iters is None or self.iters >= 1, f"--iters must be at least 1, but is {self.iters}.")
        _require(self.lr is None or self.lr > 0, f"--lr must be positive, but is {self.lr}.")
        _require(self.warmup is None or self.warmup >= 0, f"--warmup must be at least 0, but is {self.warmup}.")
        _require(
            all(0 < m < 1 for m in self.milestones) and list(self.milestones) == sorted(self.milestones),
            f"--milestones are ascending fractions of the run between 0 and 1, but are {self.milestones}; "
            "the default is 0.667 0.917.",
        )
        _require(self.seed >= 0, f"--seed must be at least 0, but is {self.seed}.")
        _require(0 < self.gamma <= 1, f"--gamma must be above 0 and at most 1, but is {self.gamma}.")
        _require(self.clip_norm > 0, f"--clip-norm must be positive, but is {self.clip_norm}; the default is 10.")
        _require(self.accumulate >= 1, f"--accumulate must be at least 1, but is {self.accumulate}.")
        _require(
            self.ema is None or 0 < self.ema < 1, f"--ema is a decay between 0 and 1, but is {self.ema}; take 0.9998."
        )
        _require(self.devices is None or self.devices >= 1, f"--devices must be at least 1, but is {self.devices}.")
        _require(self.max_restarts >= 0, f"--max-restarts must be at least 0, but is {self.max_restarts}.")
        _require(self.save_every >= 0, f"--save-every takes minutes, 0 or more, but is {self.save_every}.")
        _require(self.patience is None or self.patience >= 1, f"--patience must be at least 1, but is {self.patience}.")
        _require(self.val_every >= 1, f"--val-every must be at least 1, but is {self.val_every}.")
        _require(
            self.weight_decay is None or self.weight_decay >= 0,
            f"--weight-decay must be at least 0, but is {self.weight_decay}.",
        )

    @property
    def chosen(self) -> Recipe:
        """The recipe, with what the options say otherwise."""
        recipe = RECIPES[self.recipe or DEFAULT_RECIPE]
        own = {field.name: getattr(self, field.name) for field in fields(recipe)}
        return replace(recipe, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class PostprocessConfig:
    """How the heads' outputs become detections."""

    threshold: float = 0.05
    """Lowest score of a detection."""
    nms: float = 0.5
    """A box is dropped when its IoU with a better one of its class is above this."""
    top_n: int = 1000
    """Candidates kept at each pyramid level before suppression."""
    detections: int = 100
    """Detections kept in an image."""

    def __post_init__(self) -> None:
        _require(0 < self.threshold < 1, f"--threshold must be between 0 and 1, but is {self.threshold}.")
        _require(0 < self.nms <= 1, f"--nms must be above 0 and at most 1, but is {self.nms}.")
        _require(self.top_n >= 1, f"--top-n must be at least 1, but is {self.top_n}.")
        _require(self.detections >= 1, f"--detections must be at least 1, but is {self.detections}.")


@dataclass(frozen=True)
class PredictConfig:
    """How images are read and run through a model."""

    resize: int | None = None
    """Shorter side of a resized image (default: as the model was trained)."""
    max_size: int | None = None
    """Upper bound of the longer side (default: as the model was trained)."""
    canvas: tuple[int, int] | None = None
    """Place every image on one canvas of H W pixels (default: as they need; an exported model has its own)."""
    batch: int = 8
    """Images in one run of the network; an exported model may take fewer, or need more."""
    workers: int | None = None
    """Processes that read images, for each device (default: the cores shared among them, at most 16)."""
    precision: Precision | None = None
    """Arithmetic of the network (default: fp16 on GPUs, fp32 on CPUs)."""
    device: str | None = None
    """cuda, cuda:1, cpu … (default: the first GPU where there is one)."""
    loader: LoaderKind = "auto"
    """What reads images: DALI or PyTorch (auto: DALI on a GPU where it is installed)."""

    def __post_init__(self) -> None:
        _require(
            self.resize is None or self.resize >= 32, f"--resize must be at least 32 pixels, but is {self.resize}."
        )
        _require(
            self.max_size is None or self.max_size >= (self.resize or 32),
            f"--max-size must be at least --resize ({self.resize or 32}), but is {self.max_size}.",
        )
        _require(
            self.canvas is None or all(side >= 32 and side % 32 == 0 for side in self.canvas),
            f"--canvas takes H W, multiples of 32 pixels, but is {self.canvas}.",
        )
        _require(self.batch >= 1, f"--batch must be at least 1, but is {self.batch}.")
        _require(self.workers is None or self.workers >= 0, f"--workers must be at least 0, but is {self.workers}.")


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
        _require(
            self.norm_eps is None or 0 <= self.norm_eps < 1,
            f"--norm-eps must be at least 0 and below 1, but is {self.norm_eps}; torchvision's are 0 and 0.00001.",
        )


@dataclass(frozen=True)
class InferConfig(PredictConfig):
    """How `retinanet infer` goes through many images."""

    devices: int | None = None
    """GPUs that share the images, or processes on a CPU (default: every GPU that is worth it; one process on a CPU)."""
    resume: bool = False
    """Go on with the images that an interrupted run has not finished."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.devices is None or self.devices >= 1, f"--devices must be at least 1, but is {self.devices}.")


@dataclass(frozen=True)
class ExportConfig:
    """What an exported detector is made for."""

    size: tuple[int, int] | None = None
    """Canvas of every image, H W in pixels, rounded up to multiples of 32 (default: as the model was trained)."""
    batch: tuple[int, int, int] = (1, 1, 8)
    """Fewest, usual and most images in one run."""
    precision: ExportPrecision | None = None
    """Arithmetic of the network (default: fp16 where the file is built for GPUs, fp32 elsewhere)."""
    device: str | None = None
    """Where it is built and verified: cuda, cuda:1, cpu … (default: the first GPU where there is one)."""
    verify_images: Path | None = None
    """Images, a folder or one, on which the artifact is compared with the checkpoint (default: made-up ones)."""
    verify_annotations: Path | None = None
    """COCO file: print the AP of checkpoint and artifact on its images (of --verify-images, or the calibration's)."""
    calibration_images: Path | None = None
    """Images like those to come, a folder or one: int8 and fp8 take the ranges of values from them."""
    calibration_count: int = 128
    """How many of them are used."""
    triton: Path | None = None
    """Model repository of Triton Inference Server, a folder to which the file is added as a model, configured."""

    def __post_init__(self) -> None:
        _require(
            self.size is None or min(self.size) >= 32,
            f"--size takes H W of at least 32 pixels, but is {self.size}.",
        )
        _require(
            1 <= self.batch[0] <= self.batch[1] <= self.batch[2],
            f"--batch takes MIN OPT MAX with 1 <= MIN <= OPT <= MAX, but is {' '.join(map(str, self.batch))}.",
        )
        _require(
            self.calibration_count >= 1, f"--calibration-count must be at least 1, but is {self.calibration_count}."
        )
        _require(
            self.calibration_images is None or self.precision in QUANTISED,
            "--calibration-images is for --precision int8 and fp8; add one of them, or leave it out.",
        )
        _require(
            self.verify_annotations is None or self.pictures is not None,
            "--verify-annotations needs the folder of its images: --verify-images DIR.",
        )

    @property
    def pictures(self) -> Path | None:
        """The images that the artifact is compared on, and that `verify_annotations` is about."""
        return self.verify_images or self.calibration_images
