"""The whole of `retinanet export`: build, verify, and only then give the artifact its name."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from retinanet import __version__
from retinanet.config import ExportConfig, ExportPrecision, PostprocessConfig
from retinanet.device import choose_device
from retinanet.errors import ExportError, Interrupted, UsageError
from retinanet.export.verify import verification_pictures, verify
from retinanet.files import atomic_write, require_writable
from retinanet.model.checkpoint import build_network, load_checkpoint
from retinanet.model.record import ModelRecord
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import ArtifactRecord, write_sidecar
from retinanet.predict.runtimes.kinds import artifact_runtime
from retinanet.preprocess import CANVAS_MULTIPLE

Builder = Callable[[Detector, ArtifactRecord, Path, torch.device], ArtifactRecord]
"""`build(detector, record, out, device)` writes the artifact `out` and returns its record, completed.

The detector is in fp32, on the CPU, in evaluation mode, and may be changed. Builders raise `ExportError` and, where a
package is missing, `UsageError`.
"""

_FORMATS = {".onnx": "onnx", ".pt2": "aoti", ".plan": "tensorrt", ".engine": "tensorrt"}
"""Ending → the file beside this one that builds it."""


_NO_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc")


def run_export(model: Path, out: Path, config: ExportConfig, postprocess: PostprocessConfig) -> None:
    """Export the checkpoint `model` to `out`, whose ending says the format; prints what was made.

    Raises:
        UsageError: an option, the ending or the place of `out`, or a missing package.
        ModelError: the checkpoint cannot be used.
        DataError: the images for verification cannot be used.
        ExportError: the build failed, or the artifact differs from the checkpoint by more than its tolerance.
    """
    build = _builder(out)
    require_writable(out)
    device = choose_device(config.device)
    checkpoint = load_checkpoint(model)
    record = _describe(checkpoint.record, model, out, config, postprocess, device)
    _require_memory(record, len(checkpoint.record.cell_anchors[0]))
    pictures = verification_pictures(config.verify_images, record.canvas)
    started = time.monotonic()
    try:
        with atomic_write(out) as temporary:
            # The builder may change its detector, so the one to compare with is another.
            record = build(Detector(build_network(checkpoint), postprocess).eval(), record, temporary, device)
            seconds = time.monotonic() - started
            reference = Detector(build_network(checkpoint), postprocess).to(device).eval()
            runtime = artifact_runtime(out)
            assert runtime is not None
            lines = verify(runtime(temporary, record, config.device), reference, record, pictures)
        write_sidecar(out, record)
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted; {out} was not written.") from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise _too_large(record) from error
    print(_summary(out, record, seconds), *lines, sep="\n")


def _builder(out: Path) -> Builder:
    """The function that builds the format of the ending, its package imported."""
    if out.suffix.lower() not in _FORMATS:
        endings = ", ".join(_FORMATS)
        raise UsageError(f"The output's ending names its format, one of {endings}, but it is {out.name!r}; rename it.")
    module = importlib.import_module(f"retinanet.export.{_FORMATS[out.suffix.lower()]}")
    build: Builder = module.build
    return build


def _describe(
    model: ModelRecord,
    source: Path,
    out: Path,
    config: ExportConfig,
    postprocess: PostprocessConfig,
    device: torch.device,
) -> ArtifactRecord:
    """The artifact's record, as far as it is known before the build."""
    format = _FORMATS[out.suffix.lower()]
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
        print(
            f"--size {size[0]} {size[1]} is rounded up to {height} {width}, multiples of {CANVAS_MULTIPLE}.",
            file=sys.stderr,
        )
    return height, width


def _require_memory(record: ArtifactRecord, anchors: int) -> None:
    """Refuse what cannot be verified here, before the system ends this process without a word.

    Counted is the least that has to be in memory at once: input, first feature map and finest class logits.
    """
    height, width = record.canvas
    values = 3 + 64 / 4 + anchors * len(record.classes) / 64
    if 4 * values * height * width * record.batch[2] > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise _too_large(record)


def _too_large(record: ArtifactRecord) -> ExportError:
    height, width = record.canvas
    return ExportError(
        f"The memory of this machine is too small for {record.batch[2]} images of {height} × {width} pixels; "
        "lower --size or --batch."
    )


def _default_precision(format: str, device: torch.device) -> ExportPrecision:
    return "fp16" if format == "tensorrt" or (format == "aoti" and device.type == "cuda") else "fp32"


def _summary(out: Path, record: ArtifactRecord, seconds: float) -> str:
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
