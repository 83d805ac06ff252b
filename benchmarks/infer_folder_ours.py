"""Our way through a folder: `retinanet infer`, called in this process."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from retinanet.config import InferConfig
from retinanet.predict.infer import run_inference
from retinanet.predict.predictor import Predictor


def listed(paths: Sequence[str], folder: Path) -> Path:
    """A list of pictures, as `retinanet infer` takes it; their ids are 1, 2, …"""
    path = folder / "images.txt"
    path.write_text("\n".join(paths))
    return path


def infer(model: Path, predictor: Predictor | None, config: InferConfig, output: Path, paths: Sequence[str]) -> None:
    """`retinanet infer`, with the checkpoint loaded already where there is a `predictor`."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # what it says would lie between our rows
        if predictor is not None:
            stack.enter_context(patch("retinanet.predict.work.load", lambda *_, **__: predictor))
        images = listed(paths, output.parent)
        run_inference(model, images=images, annotations=None, output=output, draw=None, config=config)


def infer_by_command(model: Path, config: InferConfig, output: Path, paths: Sequence[str]) -> None:
    """`retinanet infer` as users start it: a process that imports and loads everything first."""
    words = ["infer", model, "--images", listed(paths, output.parent), "--output", output]
    words += ["--batch", str(config.batch), "--device", config.device or "cuda"]
    subprocess.run([sys.executable, "-m", "retinanet.cli", *words], check=True, stderr=subprocess.DEVNULL)


def check_complete(output: Path, count: int) -> tuple[str, set[int]]:
    """Each picture must have its line in the results of JSON lines, whether anything was detected in it or not.

    Returns a sentence, and the ids of those that cannot be read.
    """
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(line["image_id"] for line in lines) == list(range(1, count + 1)), "ours: pictures have no results"
    found = [len(line["detections"]) for line in lines if "detections" in line]
    unreadable = {line["image_id"] for line in lines if "error" in line}
    assert len(found) + len(unreadable) == count, "ours: a line has neither detections nor an error"
    sentence = (
        f"Ours: each of the {count:,} pictures has its line of results; {len(unreadable):,} cannot be read, "
        f"{sum(map(bool, found)):,} have a detection, {sum(found):,} detections in all."
    )
    return sentence, unreadable
