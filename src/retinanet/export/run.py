"""The whole of `retinanet export`: build, verify, and only then give the artifact its name."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from retinanet.config import ExportConfig, PostprocessConfig
from retinanet.device import choose_device, exact_fp32
from retinanet.errors import Interrupted, UsageError
from retinanet.export.accuracy import annotated_images, require_accuracy
from retinanet.export.calibration import Calibration, calibrate, write_calibration
from retinanet.export.describe import Built, describe, require_memory, summary, tell, too_large
from retinanet.export.pictures import verification_pictures
from retinanet.export.quantize import Ranges, require_quantisable
from retinanet.export.triton_repository import require_repository, write_repository
from retinanet.export.verify import verify
from retinanet.files import atomic_write, require_writable
from retinanet.model.checkpoint import build_network, load_checkpoint
from retinanet.model.fusion import fold_batch_norms
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.artifact import ArtifactRecord, write_sidecar
from retinanet.predict.runtimes.kinds import artifact_runtime
from retinanet.stop import StopRequest

Builder = Callable[[Detector, ArtifactRecord, Path, torch.device, Ranges | None], Built]
"""`build(detector, record, out, device, ranges)` writes the artifact `out`, which its record describes as far as known.

The detector is in fp32, on the CPU, in evaluation mode, its batch norms folded, and may be changed. `ranges` are there
if the precision is a quantised one. Builders raise `ExportError` and, where a package is missing, `UsageError`.
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
    record = describe(checkpoint.record, model, _FORMATS[out.suffix.lower()], config, postprocess, device)
    require_memory(record, len(checkpoint.record.cell_anchors[0]))
    require_quantisable(record, device)
    if config.triton:
        require_repository(config.triton, out, record, device)
    pictures = verification_pictures(config.pictures, record.canvas)
    annotated = (
        annotated_images(config.verify_annotations, config.pictures, record.classes)
        if config.verify_annotations and config.pictures
        else None
    )
    try:
        calibration = calibrate(checkpoint, record, config, out, device) if record.quantised else None
        tell(f"Building {out}: {record.precision}, images of {record.canvas[0]} × {record.canvas[1]} pixels.")
        started = time.monotonic()
        with ExitStack() as naming:
            with atomic_write(out) as temporary:
                # The builder may change its detector, so the one to compare with is another.
                detector = Detector(fold_batch_norms(build_network(checkpoint)), postprocess).eval()
                built = build(detector, record, temporary, device, calibration.ranges if calibration else None)
                record, seconds = built.record, time.monotonic() - started
                reference = Detector(build_network(checkpoint), postprocess).to(device).eval()
                kind = artifact_runtime(out)
                assert kind is not None
                runtime = built.stand_in or kind(temporary, record, config.device)
                tell(f"Comparing it with {model} on {len(pictures)} pictures.")
                with exact_fp32():
                    lines = verify(runtime, reference, record, pictures)
                    if annotated:
                        lines.append(require_accuracy(runtime, reference, record, annotated))
                naming.enter_context(StopRequest())  # once OUT has its name, what belongs to it is written too
            lines += _write_companions(out, record, calibration, config.triton)
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted; {out} was not written.") from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise too_large(record) from error
    print(summary(out, record, seconds), *built.lines, *lines, sep="\n")


def _write_companions(
    out: Path, record: ArtifactRecord, calibration: Calibration | None, triton: Path | None
) -> list[str]:
    """Write what belongs to the artifact `out`; returns lines to print."""
    write_sidecar(out, record)
    if calibration:
        write_calibration(calibration, out)
    return [f"Triton's model: {write_repository(triton, out, record)}"] if triton else []


def _builder(out: Path) -> Builder:
    """The function that builds the format of the ending, its package imported."""
    if out.suffix.lower() not in _FORMATS:
        endings = ", ".join(_FORMATS)
        raise UsageError(f"The output's ending names its format, one of {endings}, but it is {out.name!r}; rename it.")
    module = importlib.import_module(f"retinanet.export.{_FORMATS[out.suffix.lower()]}")
    build: Builder = module.build
    return build
