"""Which implementation an operator runs: its Triton kernels, or its reference."""

import importlib.util
import os
import shutil
import warnings
from functools import cache

from torch import Tensor


def runs_kernels(tensor: Tensor) -> bool:
    """Whether the operators' Triton kernels can run where `tensor` lives: on a GPU, with Triton and a C compiler."""
    return tensor.is_cuda and _missing() is None


@cache
def _missing() -> str | None:
    """What Triton lacks on this machine, said once; `None` if nothing."""
    if importlib.util.find_spec("triton") is None:
        missing = "Triton is not installed (pip install triton)"
    elif not (os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang")))):
        missing = "Triton found no C compiler for its launcher (install gcc or set CC)"
    else:
        return None
    warnings.warn(f"{missing}: the slower reference operators run instead.", stacklevel=3)
    return missing
