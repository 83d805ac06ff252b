"""Whether this machine can run the Triton kernels; where it cannot, GPUs run the references."""

import importlib.util
import os
import shutil
import warnings
from functools import cache

import torch


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def kernels_available() -> bool:
    """Whether Triton and the C compiler that it needs are here; what is missing is said once."""
    return _look_for_them()


@cache
def _look_for_them() -> bool:
    if importlib.util.find_spec("triton") is None:
        missing = "Triton is not installed (pip install triton)"
    elif not (os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang")))):
        missing = "Triton found no C compiler for its launcher (install gcc or set CC)"
    else:
        return True
    warnings.warn(f"{missing}: the slower reference operators run instead.", stacklevel=4)
    return False
