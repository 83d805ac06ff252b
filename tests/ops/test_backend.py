import importlib.util
import shutil
from types import SimpleNamespace

import pytest
import torch

from retinanet.ops import backend


@pytest.fixture(autouse=True)
def forget():
    """What is missing is looked up once a process; here each test asks anew."""
    backend._missing.cache_clear()
    yield
    backend._missing.cache_clear()


ON_GPU = SimpleNamespace(is_cuda=True)


def test_the_cpu_runs_references_without_a_word(recwarn):
    assert not backend.runs_kernels(torch.zeros(1))
    assert not recwarn


def test_a_gpu_runs_kernels_if_triton_and_a_compiler_are_there(monkeypatch):
    monkeypatch.setenv("CC", "gcc")
    assert backend.runs_kernels(ON_GPU)


def test_without_triton_the_reference_runs_and_one_sentence_says_why(monkeypatch, recwarn):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not backend.runs_kernels(ON_GPU)
    assert not backend.runs_kernels(ON_GPU)
    assert ["pip install triton" in str(warning.message) for warning in recwarn] == [True]


def test_without_a_c_compiler_the_reference_runs_and_one_sentence_says_why(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="install gcc"):
        assert not backend.runs_kernels(ON_GPU)
