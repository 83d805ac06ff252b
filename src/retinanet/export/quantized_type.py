"""The 8-bit types that convolutions can be quantised to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retinanet import extras


class QuantizedType(NamedTuple):
    """Values are multiples of a scale, zero among them, alike on both sides of it."""

    dtype: np.dtype
    largest: float
    """Its largest value."""

    def round(self, values: np.ndarray) -> np.ndarray:
        """The nearest values of the type, ties to even, those beyond the largest cut off."""
        clipped = values.clip(-self.largest, self.largest)
        return (np.rint(clipped) if self.dtype == np.int8 else clipped).astype(self.dtype)

    def scale(self, largest: np.ndarray | float, dtype: np.dtype) -> np.ndarray:
        """What tells magnitudes up to `largest` apart, in `dtype` and no less than its least normal number."""
        return np.maximum(np.asarray(largest) / self.largest, np.finfo(dtype).tiny).astype(dtype)


def quantized_type(precision: str) -> QuantizedType:
    """That of `int8`, or of `fp8`: E4M3 (Micikevicius et al. 2022, "FP8 Formats for Deep Learning").

    INT8 leaves -128 out, as TensorRT does. Raises `UsageError` where the package that knows FP8 is missing.
    """
    if precision == "int8":
        return QuantizedType(np.dtype(np.int8), 127.0)
    ml_dtypes = extras.require("ml_dtypes", "export", "FP8")
    return QuantizedType(np.dtype(ml_dtypes.float8_e4m3fn), 448.0)
