"""The parts of a training: when its steps are compiled."""

from __future__ import annotations

import pytest
import torch

from retinanet.model.compiling import COMPILING_PAYS_FROM
from retinanet.train import assembly
from retinanet.train.assembly import choose_compile

LONG, SHORT = COMPILING_PAYS_FROM, 0.99 * COMPILING_PAYS_FROM


@pytest.mark.parametrize(
    ("wanted", "device", "pixels", "triton", "compiled"),
    [
        (None, "cuda", LONG, True, True),
        (None, "cuda", SHORT, True, False),
        (None, "cuda", LONG, False, False),
        (None, "cpu", LONG, True, False),
        (True, "cuda", SHORT, True, True),
        (True, "cpu", SHORT, True, True),
        (False, "cuda", LONG, True, False),
    ],
)
def test_long_runs_on_gpus_are_compiled_and_others_when_asked(
    monkeypatch: pytest.MonkeyPatch, wanted: bool | None, device: str, pixels: float, triton: bool, compiled: bool
) -> None:
    monkeypatch.setattr(assembly, "kernels_available", lambda: triton)
    assert choose_compile(wanted, torch.device(device), pixels) == compiled
