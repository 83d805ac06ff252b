"""The example of a backbone that is not timm's: each command knows it, through the file that registers it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from command_line import SMALL, Shapes, words_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_backbone.py"


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_registered_backbone_trains_infers_and_exports(shapes: Shapes, tmp_path: Path) -> None:
    model, onnx = tmp_path / "model.pth", tmp_path / "model.onnx"
    options = words_of({**SMALL, **shapes.training, "backbone": "plainnet", "iters": 2})
    held_out = words_of({**shapes.held_out, "output": tmp_path / "found.json"})
    for words in (["train", model, *options], ["infer", model, *held_out], ["export", model, onnx, "--device", "cpu"]):
        done = run(EXAMPLE, *words)
        assert done.returncode == 0, done.stderr
    assert onnxruntime.InferenceSession(onnx).get_inputs()[0].name == "images"
    without = run("-m", "retinanet.cli", "infer", model, *held_out)
    assert without.returncode == 4
    assert "plainnet" in without.stderr
    assert "register" in without.stderr
