"""RetinaNet, fast and accurate, end to end on the GPU: train, run and deploy a single-shot object detector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinanet.predict.predictor import load as load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `retinanet --help` and a plain import don't wait for PyTorch.
    if name == "load":
        from retinanet.predict.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
