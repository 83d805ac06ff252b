import importlib.util
import shutil

import pytest
import torch

from retinanet.ops import backend


@pytest.fixture(autouse=True)
def forget():
    """What is missing is looked up once a process; here each test asks anew."""
    backend._look_for_them.cache_clear()
    yield
    backend._look_for_them.cache_clear()


def test_kernels_run_if_triton_and_a_compiler_are_there(monkeypatch, recwarn):
    monkeypatch.setenv("CC", "gcc")
    assert backend.kernels_available()
    assert not recwarn


def test_without_triton_the_references_run_and_one_sentence_says_why(monkeypatch, recwarn):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not backend.kernels_available()
    assert not backend.kernels_available()
    assert ["pip install triton" in str(warning.message) for warning in recwarn] == [True]


def test_without_a_c_compiler_the_references_run_and_one_sentence_says_why(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="install gcc"):
        assert not backend.kernels_available()


def test_the_question_is_a_constant_of_what_is_compiled(monkeypatch):
    monkeypatch.setenv("CC", "gcc")

    def ask(x):
        return x + 1 if backend.kernels_available() else x

    assert torch.compile(ask, fullgraph=True, backend="eager")(torch.zeros(1)) == 1
