"""Calibration: from real pictures to what quantisation has to know, kept in a file to be used again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from retinanet.config import ExportConfig
from retinanet.data.images import read_image
from retinanet.errors import DataError, UsageError
from retinanet.export.describe import tell
from retinanet.export.observe import observe
from retinanet.export.pictures import batch_of, choose
from retinanet.files import atomic_write
from retinanet.model.checkpoint import Checkpoint, build_network
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.types import Batch

VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """The ranges of a network's convolutions, and what they were found from."""

    model: str
    """SHA-256 of its record and its weights."""
    canvas: tuple[int, int]
    images: str
    """SHA-256 of the pictures' names and contents."""
    count: int
    """How many pictures."""
    ranges: dict[str, list[float]]
    """Convolution → where the magnitudes of its input are cut off, call by call."""


def cache_of(out: Path) -> Path:
    """Where the calibration of an artifact lies: beside it, shared by all formats and precisions of its name."""
    return out.with_suffix(".calibration.json")


def calibrate(
    checkpoint: Checkpoint, record: ArtifactRecord, config: ExportConfig, out: Path, device: torch.device
) -> Calibration:
    """The calibration beside `out` if it fits, or a new one.

    It fits when it was made with these weights on this canvas, from these pictures if `config` names any.

    Raises:
        UsageError: there are no pictures, and no calibration that fits.
        DataError: none of the pictures can be used.
        ExportError: the network computes numbers that are not finite.
    """
    known, model = _read(cache_of(out)), _fingerprint_of_model(checkpoint)
    fits = known is not None and (known.model, known.canvas) == (model, record.canvas)
    if config.calibration_images is None:
        if known is None or not fits:
            why = "it is for other weights or another canvas" if known else "there is none"
            raise UsageError(
                f"--precision {record.precision} needs pictures like those to come: --calibration-images DIR, or a "
                f"calibration that fits in {cache_of(out)}, but {why}."
            )
        tell(f"Using the calibration in {cache_of(out)}.")
        return known
    paths = choose(config.calibration_images, config.calibration_count)
    images = _fingerprint_of_images(paths)
    if known is not None and fits and known.images == images:
        tell(f"Using the calibration in {cache_of(out)}.")
        return known
    tell(f"Calibrating on {len(paths)} pictures of {config.calibration_images}.")
    batches = _Batches(paths, record, device)
    network = build_network(checkpoint).to(device).eval()
    seen = observe(network, batches)
    if not batches.used:
        raise DataError(f"None of the {len(paths)} calibration images can be read; the first: {batches.broken[0]}")
    ranges = {name: [magnitudes.range for magnitudes in calls] for name, calls in seen.items()}
    return Calibration(model, record.canvas, images, batches.used, ranges)


def write_calibration(calibration: Calibration, out: Path) -> None:
    """Keep it beside the artifact `out`. Raises as `atomic_write` does."""
    with atomic_write(cache_of(out)) as temporary:
        temporary.write_text(json.dumps({"version": VERSION, **asdict(calibration)}, indent=1) + "\n", encoding="ascii")


class _Batches:
    """The pictures one by one on the canvas, on the device; those that cannot be read are left out and named."""

    def __init__(self, paths: list[Path], record: ArtifactRecord, device: torch.device) -> None:
        self._paths, self._record, self._device = paths, record, device
        self.used = 0
        self.broken: list[str] = []

    def __iter__(self) -> Iterator[Batch]:
        for path in self._paths:
            try:
                picture = read_image(path)
            except DataError as error:
                self.broken.append(str(error))
                tell(f"Left out: {error}")
                continue
            self.used += 1
            yield batch_of([picture], 1, self._record).to(self._device)


def _fingerprint_of_model(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256(json.dumps(checkpoint.record.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(checkpoint.state_dict.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _fingerprint_of_images(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> Calibration | None:
    """The calibration at `path`; None where there is none, or it cannot be read."""
    try:
        values = json.loads(path.read_bytes())
        if values.pop("version") != VERSION:
            raise ValueError("of another version")
        ranges = {name: [float(value) for value in calls] for name, calls in values["ranges"].items()}
        return Calibration(**{**values, "canvas": tuple(values["canvas"]), "ranges": ranges})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        tell(f"The calibration in {path} cannot be used ({type(error).__name__}: {error}).")
        return None
