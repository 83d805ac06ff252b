"""What an export is going to be, and what it has become, in its record and in words."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from retinanet import __version__
from retinanet.config import ExportConfig, ExportPrecision, PostprocessConfig
from retinanet.errors import ExportError
from retinanet.model.record import ModelRecord
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.base import Runtime
from retinanet.preprocess import CANVAS_MULTIPLE


class Built(NamedTuple):
    """What a builder has made."""

    record: ArtifactRecord
    """Of the artifact, completed."""
    lines: tuple[str, ...] = ()
    """What its user should know of it besides."""
    stand_in: Runtime | None = None
    """What is compared with the checkpoint in the artifact's place, which cannot run on this machine."""


def describe(
    model: ModelRecord,
    source: Path,
    format: str,
    config: ExportConfig,
    postprocess: PostprocessConfig,
    device: torch.device,
) -> ArtifactRecord:
    """The artifact's record, as far as it is known before the build."""
    return ArtifactRecord(
        format=format,
        classes=model.classes,
        canvas=_canvas(config.size or (model.resize, model.max_size), said=config.size is not None),
        batch=config.batch,
        resize=model.resize,
        max_size=model.max_size,
        postprocess=postprocess,
        precision=config.precision or _default_precision(format, device),
        source=source.name,
        versions={"retinanet": __version__, "torch": torch.__version__},
    )


def _canvas(size: tuple[int, int], said: bool) -> tuple[int, int]:
    """`size` rounded up to what the network takes; where the user gave it, a line on stderr says so."""
    height, width = (-(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE for side in size)
    if said and (height, width) != size:
        tell(f"--size {size[0]} {size[1]} is rounded up to {height} {width}, multiples of {CANVAS_MULTIPLE}.")
    return height, width


def _default_precision(format: str, device: torch.device) -> ExportPrecision:
    return "fp16" if format == "tensorrt" or (format == "aoti" and device.type == "cuda") else "fp32"


def require_memory(record: ArtifactRecord, anchors: int) -> None:
    """Refuse what cannot be verified here, before the system ends this process without a word.

    Counted is the least that has to be in memory at once: input, first feature map and finest class logits.
    """
    height, width = record.canvas
    values = 3 + 64 / 4 + anchors * len(record.classes) / 64
    if 4 * values * height * width * record.batch[2] > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise too_large(record)


def too_large(record: ArtifactRecord) -> ExportError:
    """The sentence for an export that the memory has no room for."""
    height, width = record.canvas
    return ExportError(
        f"The memory of this machine is too small for {record.batch[2]} images of {height} × {width} pixels; "
        "lower --size or --batch."
    )


def summary(out: Path, record: ArtifactRecord, seconds: float) -> str:
    """Size, time, inputs and outputs of what has been made."""
    fewest, _, most = record.batch
    images = f"{fewest}" if fewest == most else f"{fewest}…{most}"
    height, width = record.canvas
    rows = record.postprocess.detections
    return (
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {record.precision}, built in {seconds:.0f} s\n"
        f"Inputs: images uint8 [{images}, 3, {height}, {width}], image_sizes int64 [{images}, 2] (height, width)\n"
        f"Outputs: scores float32 [{images}, {rows}], boxes float32 [{images}, {rows}, 4], "
        f"classes int64 [{images}, {rows}]"
    )


def tell(sentence: str) -> None:
    """Progress, on stderr."""
    print(sentence, file=sys.stderr)
