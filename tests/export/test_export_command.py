"""What goes wrong in an export is one sentence and an exit code, and leaves nothing half-written behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import Command, Shapes
from retinanet.export import onnx as onnx_export
from retinanet.model.checkpoint import load_checkpoint, save_checkpoint
from retinanet.model.network import RetinaNet
from retinanet.predict.detector import Detector
from retinanet.predict.runtimes.onnx import OnnxRuntime
from retinanet.types import Detections


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    ("name", "options", "code", "words"),
    [
        ("model.tflite", {}, 2, ".onnx"),
        ("model", {}, 2, ".onnx"),
        ("nowhere/model.onnx", {}, 2, "no folder"),
        ("model.onnx", {"batch": (4, 2, 8)}, 2, "MIN OPT MAX"),
        ("model.onnx", {"batch": (0, 1, 1)}, 2, "--batch"),
        ("model.onnx", {"size": (31, 64)}, 2, "--size"),
        ("model.onnx", {"size": (300_000, 300_000)}, 5, "lower --size or --batch"),
        ("model.onnx", {"precision": "int4"}, 2, "--precision"),
        ("model.onnx", {"device": "tpu"}, 2, "--device"),
        ("model.onnx", {"verify_images": "nowhere"}, 3, "nowhere"),
    ],
)
def test_options_that_cannot_work(
    retinanet: Command, trained: Path, tmp_path: Path, name: str, options: dict, code: int, words: str
) -> None:
    done = retinanet("export", trained, tmp_path / name, **{"device": "cpu", **options})
    assert done.code == code, done.err
    assert words in done.sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint", b"PK\x03\x04 but no archive"])
def test_a_model_that_is_no_checkpoint(retinanet: Command, tmp_path: Path, out: Path, content: bytes | None) -> None:
    model = tmp_path / "other.pth"
    if content is not None:
        model.write_bytes(content)
    done = retinanet("export", model, out)
    assert done.code == 4
    assert "other.pth" in done.sentence
    assert not out.exists()


def test_a_missing_package_names_its_extra(
    retinanet: Command, trained: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = retinanet("export", trained, out, device="cpu")
    assert done.code == 2
    assert "pip install 'retinanet[export]'" in done.sentence


def test_an_artifact_that_detects_otherwise_is_removed(
    retinanet: Command, trained: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes half a pixel off; an older file stays as it was."""
    out.write_text("older")
    honest = OnnxRuntime.__call__

    def shifted(*arguments: object) -> Detections:
        found: Detections = honest(*arguments)  # type: ignore[arg-type]
        return found._replace(boxes=found.boxes + 0.5)

    monkeypatch.setattr(OnnxRuntime, "__call__", shifted)
    done = retinanet("export", trained, out, device="cpu")
    assert done.code == 5
    assert "without a partner" in done.sentence
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]
    assert out.read_text() == "older"


@pytest.mark.parametrize(
    ("failure", "code", "words"), [(KeyboardInterrupt, 6, "was not written"), (MemoryError, 5, "memory")]
)
def test_an_export_that_is_ended_leaves_nothing(
    retinanet: Command,
    trained: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: type[BaseException],
    code: int,
    words: str,
) -> None:
    def half_written(detector: object, record: object, path: Path, device: object, ranges: object) -> None:
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(onnx_export, "build", half_written)
    done = retinanet("export", trained, out, device="cpu")
    assert done.code == code
    assert words in done.sentence
    assert list(out.parent.iterdir()) == []


def test_a_model_that_finds_nothing_is_said_to_be_compared_little(
    retinanet: Command, trained: Path, shapes: Shapes, out: Path
) -> None:
    done = retinanet("export", trained, out, device="cpu", threshold=0.99, verify_images=shapes.val_images)
    assert done.code == 0
    assert " 0 detections" in done.out
    assert "--verify-images" in done.out


def test_half_precision_bears_channels_that_died_in_pretraining(
    retinanet: Command, trained: Path, tmp_path: Path, out: Path
) -> None:
    """Their variance is 0 in half precision, and torchvision's published weights have no epsilon beside it."""
    checkpoint = load_checkpoint(trained)
    backbones = tuple(replace(backbone, norm="frozen", norm_eps=0.0) for backbone in checkpoint.record.backbones)
    network = RetinaNet(replace(checkpoint.record, backbones=backbones))
    network.load_state_dict(checkpoint.state_dict)
    body = network.members[0].body
    conv = next(part for part in body.modules() if isinstance(part, torch.nn.Conv2d))
    norm = next(part for part in body.modules() if isinstance(part, torch.nn.BatchNorm2d))
    with torch.no_grad():  # which in exact arithmetic changes nothing
        conv.weight[0] *= 1e-9
        norm.running_mean[0] *= 1e-9
        norm.running_var[0] *= 1e-18
    save_checkpoint(tmp_path / "model.pth", network=network, training_state=None)
    done = retinanet("export", tmp_path / "model.pth", out, precision="fp16", device="cpu")
    assert done.code == 0, done.err
    assert int(re.search(r"pictures: (\d+) detections", done.out)[1]) > 100  # type: ignore[index]


def test_the_comparison_is_with_fp32_and_not_with_tf32(
    retinanet: Command, trained: Path, shapes: Shapes, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which GPUs take for convolutions by default: a right file would be too far from it."""
    seen, candidates = [], Detector.candidates

    def look(*arguments: Any) -> Any:
        seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
        return candidates(*arguments)

    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    assert before[0]
    monkeypatch.setattr(Detector, "candidates", look)
    annotated = {"verify_images": shapes.val_images, "verify_annotations": shapes.val_annotations}
    assert retinanet("export", trained, out, device="cpu", **annotated).code == 0
    assert len(seen) > 7  # of which the images with annotations came in one batch
    assert set(seen) == {(False, "highest")}
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before


SIGNALLED = """
import os, signal, sys
from retinanet.cli import main
from retinanet.export import run
number, name = int(sys.argv.pop(1)), sys.argv.pop(1)
original = getattr(run, name)
def signalled(*arguments):
    os.kill(os.getpid(), number)
    return original(*arguments)
setattr(run, name, signalled)
main()
"""


def export_signalled(number: signal.Signals, during: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """An export in a process of its own that gets a signal when it calls a function of `export.run`."""
    line = [sys.executable, "-c", SIGNALLED, str(int(number)), during, "export", *map(str, words), "--device", "cpu"]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_comparison_leaves_nothing(trained: Path, out: Path, number: signal.Signals) -> None:
    done = export_signalled(number, "verify", trained, out)
    assert done.returncode == 6, done.stderr
    assert done.stderr.splitlines()[-1] == f"retinanet: Interrupted; {out} was not written."
    assert list(out.parent.iterdir()) == []


def test_a_signal_when_the_export_has_its_name_finds_it_finished(trained: Path, out: Path) -> None:
    done = export_signalled(signal.SIGTERM, "write_sidecar", trained, out)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.onnx", "model.onnx.json"]
    assert "Verified" in done.stdout


def test_a_signal_before_the_build_is_one_sentence(trained: Path, out: Path) -> None:
    done = export_signalled(signal.SIGTERM, "verification_pictures", trained, out)
    assert done.returncode == 6
    assert done.stderr.splitlines()[-1] == "retinanet: Interrupted; nothing was written."
    assert list(out.parent.iterdir()) == []
