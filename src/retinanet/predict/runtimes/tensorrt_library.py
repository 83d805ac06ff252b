"""TensorRT in its two kinds: which of them is here, and what it says when something fails.

TensorRT builds for the GPU that it builds on. TensorRT-RTX builds for all RTX GPUs at once, without needing one. Their
programming interfaces differ in details alone, so whoever is handed a `Library` need not ask which it is.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import torch

from retinanet.errors import ModelError, UsageError

_KINDS = {"tensorrt": ("TensorRT", "tensorrt"), "tensorrt_rtx": ("TensorRT-RTX", "tensorrt-rtx")}
"""Module → its name, and the extra of ours that brings it. In the order of preference."""


class Library(NamedTuple):
    """One kind, ready to be used."""

    key: str
    """Name of its module, and of its version in an `ArtifactRecord`."""
    module: Any
    logger: Any
    """Its `errors`, a list of sentences, grows with what goes wrong; clear it before a step that may fail."""

    @property
    def portable(self) -> bool:
        """Whether its plans are for more GPUs than the one that they were built on."""
        return self.key == "tensorrt_rtx"

    @property
    def name(self) -> str:
        """As its makers call it."""
        return _KINDS[self.key][0]

    @property
    def version(self) -> str:
        """As the record of a plan has it."""
        return str(self.module.__version__)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def start(self, kind: str) -> Any:
        """An object of its class `kind`, on the current device. Raises `ModelError` where the library cannot start."""
        self.logger.errors.clear()
        try:
            return getattr(self.module, kind)(self.logger)
        except (TypeError, RuntimeError) as error:  # its way to say that there is none
            raise ModelError(
                f"{self} cannot start here ({self.reason()}); is the GPU's driver recent enough?"
            ) from error

    def reason(self) -> str:
        """The first thing that went wrong since `errors` was cleared."""
        return self.logger.errors[0] if self.logger.errors else "it does not say why"


def libraries_for(device: torch.device) -> list[Library]:
    """What works here, in the order of preference: TensorRT, which needs a GPU, then TensorRT-RTX.

    Raises:
        UsageError: there is none.
    """
    keys = list(_KINDS) if device.type == "cuda" else ["tensorrt_rtx"]
    found = [_probe(key) for key in keys]
    usable = [library for library in found if isinstance(library, Library)]
    if not usable:
        raise UsageError(
            f"A plan needs {' or '.join(_KINDS[key][0] for key in keys)} ({'; '.join(map(str, found))}): "
            + " or ".join(f"pip install 'retinanet[{_KINDS[key][1]}]'" for key in keys)
            + "."
        )
    return usable


def library_of(versions: dict[str, str]) -> Library | None:
    """The kind that built a plan, by the versions in its record; None where the record names none.

    Raises:
        UsageError: it is not installed, or does not work.
    """
    key = next((key for key in _KINDS if key in versions), None)
    if key is None:
        return None
    found = _probe(key)
    if isinstance(found, Library):
        return found
    name, extra = _KINDS[key]
    raise UsageError(
        f"The plan was built by {name} {versions[key]}, which running it needs too ({found}): "
        f"pip install 'retinanet[{extra}]'."
    )


def _probe(key: str) -> Library | str:
    """The library, or why it cannot be used: there are wheels that import, but hold nothing."""
    try:
        module = importlib.import_module(key)
        module.Logger(module.Logger.ERROR)
    except Exception as error:  # a stub fails in its own ways
        reason = str(error).strip().partition("\n")[0]
        return f"{key}: {reason or type(error).__name__}"
    return Library(key, module, _logger(module))


@functools.cache  # TensorRT keeps the first logger that it is given for as long as the process lives
def _logger(module: Any) -> Any:
    severities = (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in severities:
                self.errors.append(message.strip())

    return Logger()
