"""Plans are really built, by TensorRT-RTX, which needs no GPU; the checkpoint is compared with the graph inside."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import SMALL, Command, Done
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.predict.runtimes.plan_name import plan_name
from retinanet.predict.runtimes.tensorrt import TensorRTRuntime

pytest.importorskip("tensorrt_rtx")


def require_plan(done: Done, out: Path, precision: str) -> ArtifactRecord:
    """The command has built and verified `out`, whose record tells all; returns it."""
    assert done.code == 0, done.err
    assert sorted(path.name for path in out.parent.iterdir() if out.name in path.name) == [out.name, f"{out.name}.json"]
    assert re.search(rf"\d+ convolutions in {precision}, as the network says", done.out)
    assert "plans run on GPUs, and this is a CPU" in done.out
    lost = "0" if precision == "fp32" else r"\d+"  # in half precision some may change places; the command has a bound
    assert re.search(rf"8 pictures: [1-9]\d* detections, {lost} without a partner", done.out)
    record = TensorRTRuntime.read_record(out)
    assert record.precision == precision
    assert (record.device, record.compute_capabilities) == ("cuda", ("8.0", "8.6", "8.9", "12.0"))
    assert record.versions.keys() == {"retinanet", "torch", "tensorrt_rtx"}
    assert record.file_bytes == out.stat().st_size
    # Where its record is not beside it, it is found inside.
    assert plan_name(record).partition('"file_bytes"')[0].encode() in out.read_bytes()
    return record


def test_the_command_builds_and_verifies_a_plan(retinanet: Command, trained: Path, tmp_path: Path) -> None:
    """In fp16, unless it is told otherwise; nothing of this machine is in it."""
    out = tmp_path / "model.plan"
    done = retinanet("export", trained, out, batch=(1, 2, 4), device="cpu")
    record = require_plan(done, out, "fp16")
    assert (record.batch, record.canvas, record.classes.ids) == ((1, 2, 4), (64, 96), (3, 17, 44))
    assert "73 convolutions in fp16" in done.out
    assert "[1…4, 3, 64, 96]" in done.out
    content = out.read_bytes()
    assert not re.search(rb"(/home/|/root/|site-packages|retinanet/|\.pth\.)", content)
    assert str(tmp_path).encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("backbone", ["ResNet18FPN", "tf_efficientnet_lite0"])
def test_real_backbones(train: Command, retinanet: Command, tmp_path: Path, backbone: str, precision: str) -> None:
    """For a free batch and for a constant one."""
    model = tmp_path / "model.pth"
    assert train(model, **{**SMALL, "backbone": backbone, "width": 32}, iters=30, lr=0.003).code == 0
    for batch in ((1, 2, 4), (2, 2, 2)):
        out = tmp_path / f"batch{batch[0]}.engine"
        options: dict[str, Any] = {"precision": precision, "batch": batch, "device": "cpu"}
        assert require_plan(retinanet("export", model, out, **options), out, precision).batch == batch


@pytest.mark.slow
def test_an_ensemble_with_postprocessing_as_asked(train: Command, retinanet: Command, tmp_path: Path) -> None:
    """Two backbones, a narrow network, ids with gaps; the most that TensorRT sorts."""
    model, out = tmp_path / "pair.pth", tmp_path / "pair.plan"
    recipe = {**SMALL, "backbone": ("test_resnet", "test_efficientnet"), "width": 24, "iters": 60, "lr": 0.003}
    assert train(model, **recipe).code == 0
    done = retinanet("export", model, out, precision="fp32", device="cpu", nms=0.4, top_n=3840, detections=300)
    record = require_plan(done, out, "fp32")
    assert (record.postprocess.top_n, record.postprocess.detections, record.postprocess.nms) == (3840, 300, 0.4)
    assert record.classes.ids == (3, 17, 44)


INTERRUPTED = """
import os, signal, sys
from retinanet.export.plan_progress import BuildProgress

honest = BuildProgress.step
def step(progress, phase, number):
    if not progress._cancelled.is_set():
        os.kill(os.getpid(), signal.SIGINT)
        progress._cancelled.wait(60)  # the main thread is told by the operating system
    return honest(progress, phase, number)
BuildProgress.step = step

from retinanet.cli import main
main()
"""


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_build(trained: Path, tmp_path: Path) -> None:
    """TensorRT ends its build, the process ends with one sentence, and an older file stays as it was."""
    out = tmp_path / "model.plan"
    out.write_text("older")
    words = [sys.executable, "-c", INTERRUPTED, "export", trained, out, "--device", "cpu"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 6, done.stderr
    assert done.stderr.strip().splitlines()[-1] == f"retinanet: Interrupted; {out} was not written."
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model.plan"]
    assert out.read_text() == "older"


def test_a_build_that_fails_leaves_nothing(
    retinanet: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's own reason is given: here, that a free batch has no profile."""
    monkeypatch.setattr("retinanet.export.plan._config", lambda builder, *_: builder.create_builder_config())
    done = retinanet("export", trained, tmp_path / "model.plan", device="cpu")
    assert done.code == 5
    assert re.search(r"TensorRT-RTX [\d.]+ cannot build model\.pth \(.*profile", done.sentence)
    assert list(tmp_path.iterdir()) == []
