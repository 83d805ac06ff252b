"""A plan is really built by TensorRT-RTX, which needs no GPU; the checkpoint is compared with the graph inside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from command_line import Command
from retinanet.predict.runtimes.plan_name import plan_name
from retinanet.predict.runtimes.tensorrt import TensorRTRuntime

pytest.importorskip("tensorrt_rtx")


@pytest.mark.parametrize("batch", [(1, 2, 4), (2, 2, 2)])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_command_builds_and_verifies_a_plan(
    retinanet: Command, trained: Path, tmp_path: Path, precision: str, batch: tuple[int, int, int]
) -> None:
    out = tmp_path / "model.plan"
    done = retinanet("export", trained, out, precision=precision, batch=batch, device="cpu")
    assert done.code == 0, done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.plan", "model.plan.json"]
    assert f"73 convolutions in {precision}, as the network says" in done.out
    assert "plans run on GPUs, and this is a CPU" in done.out
    assert re.search(r"8 pictures: [1-9]\d* detections, 0 without a partner", done.out)

    record = TensorRTRuntime.read_record(out)
    assert (record.precision, record.batch, record.canvas) == (precision, batch, (64, 96))
    assert (record.device, record.compute_capabilities) == ("cuda", ("8.0", "8.6", "8.9", "12.0"))
    assert record.versions.keys() == {"retinanet", "torch", "tensorrt_rtx"}
    assert record.file_bytes == out.stat().st_size
    # What is found where its record is not beside it.
    assert plan_name(record).partition('"file_bytes"')[0].encode() in out.read_bytes()
