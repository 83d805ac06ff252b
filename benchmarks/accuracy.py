"""What each part of a recipe gains: trains every row of a table with several seeds, one run a device, and scores them.

    python benchmarks/accuracy.py DATA --weights lite0.pth --out accuracy/ [--devices 0 1 2 3] [--seeds 0 1 2] \
      [--rows base modern ...] [-- --resize 512 --workers 14 ...]

DATA holds images/, train.json and val.json. What follows `--` goes to every training. The last weights are scored, not
the best validated ones, so that nothing is chosen on val.json. Times are those of whole commands, their start included.
A run whose folder holds result.json is not repeated: give the same command again after an interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RULES = {"optimizer": "adamw", "schedule": "cosine", "matching": "iou", "box-loss": "smooth_l1", "class-loss": "focal"}
ALL = {"matching": "atss", "box-loss": "giou", "class-loss": "quality"}
ROWS: dict[str, dict[str, str]] = {
    "classic": {"recipe": "classic"},
    "base": RULES,
    "base, GIoU": {**RULES, "box-loss": "giou"},
    "base, ATSS": {**RULES, "matching": "atss"},
    "base, ATSS, GIoU": {**RULES, "matching": "atss", "box-loss": "giou"},
    "base, GIoU, quality": {**RULES, "box-loss": "giou", "class-loss": "quality"},
    "base, ATSS, GIoU, quality": {**RULES, **ALL},
    "base, EMA": {**RULES, "ema": "0.9998"},
    "base, jitter": {**RULES, "jitter": "0.8 1.25"},
    "base, colour jitter": {**RULES, "colour-jitter": "0.4"},
    "base, mosaic": {**RULES, "mosaic": "0.5"},
    "base, mosaic in every fifth batch": {**RULES, "mosaic": "0.2"},
    "base, all of the backbone learns": {**RULES, "freeze": "0"},
    "base, live batch norm": {**RULES, "norm": "live"},
    "base, everything": {**RULES, **ALL, "ema": "0.9998", "jitter": "0.8 1.25"},
    "modern": {"recipe": "modern"},
    "modern, 36 epochs": {"recipe": "modern", "epochs": "36"},
}
"""Options of `retinanet train`; --jitter here in parts of --resize."""
SCORES = ("AP", "AP50", "AP75", "small", "medium", "large")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True, help="of the backbone, or 'pretrained'")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--devices", nargs="+", default=["0"], help="numbers of GPUs, or cpu; one run on each")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--resize", type=int, default=512)
    arguments, more = parser.parse_known_args()
    more = [word for word in more if word != "--"]
    for name in ("images", "train.json", "val.json"):
        if not (arguments.data / name).exists():
            sys.exit(f"There is no {arguments.data / name}.")

    free: queue.Queue[str] = queue.Queue()
    for device in arguments.devices:
        free.put(device)

    def run(job: tuple[str, int]) -> tuple[str, dict[str, float]]:
        device = free.get()
        try:
            return job[0], measure(*job, device, arguments, more)
        finally:
            free.put(device)

    jobs = [(row, seed) for seed in arguments.seeds for row in arguments.rows]
    results: dict[str, list[dict[str, float]]] = {row: [] for row in arguments.rows}
    with ThreadPoolExecutor(len(arguments.devices)) as pool:
        for row, result in pool.map(run, jobs):
            results[row].append(result)
    print(f"\n{time.strftime('%Y-%m-%d')}, {len(arguments.devices)} runs at once, seeds {arguments.seeds}, {more}\n")
    print(table(results))


def measure(row: str, seed: int, device: str, arguments: argparse.Namespace, more: list[str]) -> dict[str, float]:
    """Train and score one run, or read what it gave before."""
    folder = arguments.out / f"{re.sub(r'[^a-z0-9]+', '-', row.lower())}-{seed}"
    found = folder / "result.json"
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        data, images = arguments.data, ["--images", str(arguments.data / "images")]
        options = [*images, "--annotations", str(data / "train.json"), "--seed", str(seed), "--backbone"]
        options += [arguments.backbone, "--weights", arguments.weights, "--resize", str(arguments.resize), *more]
        for name, value in ROWS[row].items():
            words = value.split()
            if name == "jitter":
                words = [str(round(float(part) * arguments.resize)) for part in words]
            options += [f"--{name}", *words]
        trained, _ = command(["train", str(folder / "model.pth"), *options], device, folder / "train.log")
        options = [*images, "--annotations", str(data / "val.json"), "--output", str(folder / "detections.json")]
        inferred, printed = command(["infer", str(folder / "model.pth"), *options], device, folder / "infer.log")
        scores = [float(line.split()[-1]) for line in printed.splitlines() if "(AP)" in line]
        result = dict(zip(SCORES, scores, strict=True)) | {"training": trained, "inference": inferred}
        found.write_text(json.dumps(result))
    result = json.loads(found.read_text())
    print(f"{row}, seed {seed}: AP {100 * result['AP']:.1f}, trained in {result['training']:.0f} s", flush=True)
    return result


def command(words: list[str], device: str, log: Path) -> tuple[float, str]:
    """Seconds of a whole command, and its stdout; both of its streams are kept in `log`."""
    environment, began = dict(os.environ), time.perf_counter()
    if device == "cpu":
        words = [*words, "--device", "cpu"]
    else:
        environment["CUDA_VISIBLE_DEVICES"] = device
    run = [sys.executable, "-m", "retinanet.cli", *words]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    log.write_text(" ".join(words) + "\n" + done.stderr + done.stdout)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed, see {log}: {done.stderr.strip().splitlines()[-1:]}")
    return time.perf_counter() - began, done.stdout


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Means over the seeds; of AP its least and greatest too."""
    lines = [
        f"| | {' | '.join(SCORES)} | AP, least–greatest | training | inference |",
        f"|{'---|' * (len(SCORES) + 4)}",
    ]
    for row, runs in results.items():
        means = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
        # COCO says -1 where there is no such object.
        scores = " | ".join(f"{100 * means[name]:.1f}" if means[name] >= 0 else "–" for name in SCORES)
        spread = f"{100 * min(run['AP'] for run in runs):.1f}–{100 * max(run['AP'] for run in runs):.1f}"
        lines.append(f"| {row} | {scores} | {spread} | {means['training']:.0f} s | {means['inference']:.0f} s |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
