"""What an exported artifact says about itself: all that is needed to run it, as plain values.

The record lies beside the artifact as `<artifact>.json` and, where the format has a place for text, inside it too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retinanet.config import QUANTISED, ExportPrecision, PostprocessConfig
from retinanet.errors import ModelError, UsageError
from retinanet.files import atomic_write
from retinanet.types import ClassMap

RECORD_VERSION = 1
RECORD_KEY = "retinanet"
"""Name of the record inside an artifact, where names are needed."""


@dataclass(frozen=True)
class ArtifactRecord:
    """One detector in one file: its classes, its shapes, and what was fixed when it was exported."""

    format: str
    """What reads it: onnx, aoti, tensorrt …"""
    classes: ClassMap
    canvas: tuple[int, int]
    """(height, width) of every image that it takes."""
    batch: tuple[int, int, int]
    """Fewest, usual and most images of one run."""
    resize: int
    """Shorter side of a picture on the canvas, in pixels, unless it has to shrink to fit."""
    max_size: int
    """Bound of the longer side, in pixels."""
    postprocess: PostprocessConfig
    precision: ExportPrecision
    source: str
    """Name of the checkpoint, without its folder."""
    device: str | None = None
    """`cpu` or `cuda`, for a file that is compiled for one of them."""
    compute_capabilities: tuple[str, ...] = ()
    """GPUs that it is compiled for, such as 9.0; empty where it is bound to none."""
    file_bytes: int | None = None
    """Size of the file, where nothing inside would show that a part of it is missing."""
    versions: dict[str, str] = field(default_factory=dict)
    """Program → its version, of those that made the file."""

    @property
    def quantised(self) -> bool:
        """Whether convolutions compute in 8 bits."""
        return self.precision in QUANTISED

    @property
    def half(self) -> bool:
        """Whether the network computes in half precision where it is not quantised: TensorRT does so fastest."""
        return self.precision == "fp16" or (self.quantised and self.format == "tensorrt")

    def to_json(self) -> str:
        """On one line; the inverse of `from_json`."""
        return json.dumps({"version": RECORD_VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, where: object) -> ArtifactRecord:
        """Read a record; `where` it stood is named in the `ModelError` that damaged or foreign text raises."""
        try:
            values = json.loads(text)
            version = values.pop("version")
            if version > RECORD_VERSION:
                raise ModelError(
                    f"The record of {where} has version {version}, but this program reads up to {RECORD_VERSION}; "
                    "upgrade retinanet."
                )
            return cls(**_restore(values))
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError, UsageError) as error:
            raise ModelError(
                f"The record of {where} is damaged ({type(error).__name__}: {error}); export the model again."
            ) from error


def _restore(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record from JSON, which knows neither tuples nor our classes."""
    classes = values.pop("classes")
    return {
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()},
        "classes": ClassMap(ids=tuple(classes["ids"]), names=tuple(classes["names"])),
        "postprocess": PostprocessConfig(**values["postprocess"]),
    }


def sidecar(artifact: Path) -> Path:
    """Where the record of `artifact` lies: beside it, with .json after its whole name."""
    return artifact.with_name(f"{artifact.name}.json")


def write_sidecar(artifact: Path, record: ArtifactRecord) -> None:
    """Write the record beside the artifact. Raises as `atomic_write` does."""
    with atomic_write(sidecar(artifact)) as temporary:
        temporary.write_text(json.dumps(json.loads(record.to_json()), indent=1) + "\n", encoding="ascii")


def read_sidecar(artifact: Path) -> ArtifactRecord:
    """The record beside the artifact. Raises `ModelError` when it is missing or damaged."""
    path = sidecar(artifact)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{artifact} needs its record {path.name} beside it ({error.strerror}); "
            "copy both, or make them with `retinanet export`."
        ) from error
    return ArtifactRecord.from_json(text, path)
