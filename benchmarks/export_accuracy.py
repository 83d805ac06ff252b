"""What an export costs in average precision: a checkpoint beside its artifacts, on the same annotated images.

    PYTHONPATH=src python benchmarks/export_accuracy.py MODEL --images DIR --annotations FILE \
        [--formats onnx onnx:int8 onnx:fp8 pt2] [--calibration-images DIR] [--size H W] [--device cpu] [--out FILE]

A format is an ending, with a precision behind a colon where it is not the default. The first row is the checkpoint as
`retinanet infer` runs it, on the canvases that the images need; the second has all images on the export's one canvas;
both are in fp32. Every artifact is made anew and compared with the second. Calibrate on images that are not scored.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import printout
import torch
from printout import say

from retinanet import __version__, load
from retinanet.config import ExportConfig, PostprocessConfig, PredictConfig
from retinanet.data.coco import read_annotations
from retinanet.device import choose_workers
from retinanet.evaluate.coco import Metrics, evaluate
from retinanet.export.run import run_export
from retinanet.predict.dataset import collect_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--formats", nargs="+", default=["onnx", "onnx:int8", "onnx:fp8"])
    parser.add_argument("--calibration-images", type=Path, help="for int8 and fp8")
    parser.add_argument("--calibration-count", type=int, default=128)
    parser.add_argument("--size", type=int, nargs=2, help="canvas, H W (default: the export's)")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="also write what is printed to this file, as it comes")
    arguments = parser.parse_args()
    printout.keep(arguments.out)
    kinds = [tuple(name.partition(":")[::2]) for name in arguments.formats]
    if any(precision in ("int8", "fp8") for _, precision in kinds) and not arguments.calibration_images:
        parser.error("int8 and fp8 need --calibration-images")

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    say(f"{gpu}, {platform.machine()}, {time.strftime('%Y-%m-%d')}")
    say(f"retinanet {__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}")
    canvas = measure(arguments, kinds)
    say(f"Canvas of the exports: {canvas[0]} × {canvas[1]}")


def measure(arguments: argparse.Namespace, kinds: list[tuple[str, str]]) -> tuple[int, int]:
    """Print the table, a row at a time; returns the canvas."""
    rows = [("model", "AP", "AP50", "difference of AP"), ("---",) * 4]
    with tempfile.TemporaryDirectory() as folder:
        artifacts = [export(arguments, ending, precision, Path(folder)) for ending, precision in kinds]
        canvas = load(artifacts[0], config=PredictConfig(device=arguments.device)).canvas
        assert canvas
        exact = PredictConfig(precision="fp32", device=arguments.device)
        free = score(arguments, arguments.model, exact)
        base = score(
            arguments, arguments.model, PredictConfig(precision="fp32", device=arguments.device, canvas=canvas)
        )
        rows.append(("checkpoint, canvases as the images need", *show(free, None)))
        rows.append(("checkpoint, canvas of the exports", *show(base, None)))
        for path, name in zip(artifacts, arguments.formats, strict=True):
            found = score(arguments, path, PredictConfig(device=arguments.device))
            rows.append((name, *show(found, base)))
    for row in rows:
        say("| " + " | ".join(row) + " |")
    say()
    say(f"The one canvas costs {100 * (free.AP - base.AP):.2f} points of AP.")
    return canvas


def export(arguments: argparse.Namespace, ending: str, precision: str, folder: Path) -> Path:
    out = folder / f"model-{precision or 'default'}.{ending}"
    config = ExportConfig(
        size=tuple(arguments.size) if arguments.size else None,
        precision=precision or None,  # type: ignore[arg-type]
        device=arguments.device,
        verify_images=arguments.images,
        calibration_images=arguments.calibration_images if precision in ("int8", "fp8") else None,
        calibration_count=arguments.calibration_count,
    )
    run_export(arguments.model, out, config, PostprocessConfig())
    return out


def score(arguments: argparse.Namespace, model: Path, config: PredictConfig) -> Metrics:
    predictor = load(model, config=config)
    data = read_annotations(arguments.annotations, arguments.images)
    results, _ = collect_results(predictor, data, workers=choose_workers(None), title=model.name)
    return evaluate(data, results)


def show(metrics: Metrics, base: Metrics | None) -> tuple[str, str, str]:
    difference = f"{100 * (metrics.AP - base.AP):+.2f}" if base else ""
    return f"{100 * metrics.AP:.2f}", f"{100 * metrics.AP50:.2f}", difference


if __name__ == "__main__":
    main()
