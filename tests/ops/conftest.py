import os

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    # Kernels are not traced here, and older PyTorch refuses to wrap an interpreted one.
    torch.library.wrap_triton = lambda kernel: kernel

    def fma(self, x, y, z):
        """Rounded once, as GPUs do it; Triton's own rounds the product as well."""
        exact = x.data.astype(np.float64) * y.data + z.data
        return interpreter.TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    interpreter.InterpreterBuilder.create_fma = fma


@pytest.fixture
def device():
    """Where kernels run: the GPU, or the CPU under Triton's interpreter."""
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture
def poisoned(monkeypatch):
    """New memory is full of NaN and huge integers, so that what a kernel doesn't write shows."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
