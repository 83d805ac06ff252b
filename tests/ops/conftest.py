import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if INTERPRETED:
    # Kernels are not traced here, and older PyTorch refuses to wrap an interpreted one.
    torch.library.wrap_triton = lambda kernel: kernel


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
