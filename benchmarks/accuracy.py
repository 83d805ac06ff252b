"""What each part of a recipe gains: trains every row of a table with several seeds, one run a device, and scores them.

    python benchmarks/accuracy.py DATA --weights lite0.pth --out accuracy/ [--devices 0 1 2 3] [--seeds 0 1 2] \
      [--rows base modern ...] [-- --resize 512 --workers 14 ...]
    python benchmarks/accuracy.py DATA --fine-tune voc.pth --out tuned/ --rows classic modern

DATA holds images/, train.json and val.json. What follows `--` goes to every training. The last weights are scored, not
the best validated ones, so that nothing is chosen on val.json. Times are those of whole commands, their start included,
and of the steps of a training alone.
After each run the table of all that are finished in --out is printed and kept there, as table.md: so deciding rows can
be given more seeds than others, by one command after the other.

After an interruption give the same command again: of each run, what is finished (trained.json, result.json in its
folder) is not repeated, and a training goes on from its last checkpoint. The time of such a training is not known.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from retinanet.config_file import config_path
from retinanet.errors import RetinaNetError
from retinanet.files import atomic_write

Result = dict[str, float | None]
"""AP and so on, 0…1, the seconds of both commands, and of the training's steps; None: not known."""

RULES = {
    **{"optimizer": "adamw", "schedule": "cosine", "matching": "iou", "box-loss": "smooth_l1", "class-loss": "focal"},
    "jitter": "1 1",
}
ALL = {"matching": "atss", "box-loss": "giou", "class-loss": "quality"}
ROWS: dict[str, dict[str, str]] = {
    "classic": {"recipe": "classic"},
    "classic, the paper's rate": {"recipe": "classic", "lr": "0.01", "warmup": "1000", "clip-norm": "10"},
    "classic, cosine": {"recipe": "classic", "schedule": "cosine"},
    "classic, AdamW": {"recipe": "classic", "optimizer": "adamw"},
    "base": RULES,
    "base, GIoU": {**RULES, "box-loss": "giou"},
    "base, ATSS": {**RULES, "matching": "atss"},
    "base, ATSS, GIoU": {**RULES, "matching": "atss", "box-loss": "giou"},
    "base, GIoU, quality": {**RULES, "box-loss": "giou", "class-loss": "quality"},
    "base, ATSS, GIoU, quality": {**RULES, **ALL},
    "base, EMA": {**RULES, "ema": "0.9998"},
    "base, jitter": {**RULES, "jitter": "0.8 1.25"},
    "base, large jitter": {**RULES, "jitter": "0.5 1.5"},
    "base, colour jitter": {**RULES, "colour-jitter": "0.4"},
    "base, mosaic": {**RULES, "mosaic": "0.5"},
    "base, mosaic in every fifth batch": {**RULES, "mosaic": "0.2"},
    "base, all of the backbone learns": {**RULES, "freeze": "0"},
    "base, live batch norm": {**RULES, "norm": "live"},
    "base, everything": {**RULES, **ALL, "ema": "0.9998", "jitter": "0.8 1.25"},
    "modern": {"recipe": "modern"},
    "modern, mosaic": {"recipe": "modern", "mosaic": "0.5"},
    "modern, colour jitter": {"recipe": "modern", "colour-jitter": "0.4"},
    "modern, 36 epochs": {"recipe": "modern", "epochs": "36"},
}
"""Options of `retinanet train`; --jitter here in parts of --resize."""
TIMES = ("training", "steps", "inference")
SCORES = ("AP", "AP50", "AP75", "small", "medium", "large")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--weights", help="of the backbone, or 'pretrained'")
    start.add_argument("--fine-tune", help="model to start from, backbone and all")
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

    def run(row: str, seed: int) -> None:
        device = free.get()
        try:
            measure(row, seed, device, arguments, more)
        finally:
            free.put(device)

    arguments.out.mkdir(parents=True, exist_ok=True)
    failures = 0
    with ThreadPoolExecutor(len(arguments.devices)) as pool:
        jobs = {pool.submit(run, row, seed): (row, seed) for seed in arguments.seeds for row in arguments.rows}
        try:
            for job in as_completed(jobs):
                row, seed = jobs[job]
                try:
                    job.result()
                except RetinaNetError as error:
                    failures += 1
                    print(f"\n{row}, seed {seed}: {error}", flush=True)
                    continue
                title = f"{time.strftime('%Y-%m-%d')}, {len(arguments.devices)} runs at once, {' '.join(more)}"
                text = f"{title}\n\n{table(arguments.out)}\n"
                keep(arguments.out / "table.md", text)
                print(f"\n{row}, seed {seed} is done.\n\n{text}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what waits never starts; Ctrl-C reaches what runs
            raise
    if failures:
        sys.exit(f"{failures} of {len(jobs)} runs failed; the same command tries them again.")


def measure(row: str, seed: int, device: str, arguments: argparse.Namespace, more: list[str]) -> None:
    """Train and score one run, but for what was done before."""
    folder = arguments.out / f"{name_of(row)}-{seed}"
    model, trained, scored = (folder / name for name in ("model.pth", "trained.json", "result.json"))
    folder.mkdir(exist_ok=True)
    images = ["--images", str(arguments.data / "images")]
    resumed = model.exists()
    if not scored.exists() and not (resumed and trained.exists()):
        options = [*images, "--annotations", str(arguments.data / "train.json"), "--seed", str(seed)]
        if arguments.fine_tune:
            options += ["--fine-tune", arguments.fine_tune]
        else:
            options += ["--backbone", arguments.backbone, "--weights", arguments.weights]
        options += ["--resize", str(arguments.resize), *more]
        for name, value in ROWS[row].items():
            words = value.split()
            if name == "jitter":
                words = [str(round(float(part) * arguments.resize)) for part in words]
            options += [f"--{name}", *words]
        seconds, _ = command(["train", str(model), *options], device, folder / "train.log")
        keep(trained, json.dumps({"training": None if resumed else seconds, "steps": step_seconds(model)}))
    if not scored.exists():
        options = [*images, "--annotations", str(arguments.data / "val.json")]
        options += ["--output", str(folder / "detections.json")]
        seconds, printed = command(["infer", str(model), *options], device, folder / "infer.log")
        scores = [float(line.split()[-1]) for line in printed.splitlines() if "(AP)" in line]
        times = json.loads(trained.read_text()) | {"inference": seconds}
        keep(scored, json.dumps(dict(zip(SCORES, scores, strict=True)) | times))


def step_seconds(model: Path) -> float:
    """Of the training's steps, by the rates that it noted; the first of them hold what compiles and records."""
    batch = tomllib.loads(config_path(model).read_text())["batch"]
    seconds, last = 0.0, 0
    with (model.parent / "metrics.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            if line["images_per_second"]:  # and no validation
                seconds += (int(line["step"]) - last) * batch / float(line["images_per_second"])
                last = int(line["step"])
    return seconds


def name_of(row: str) -> str:
    """What its runs' folders begin with."""
    return re.sub(r"[^a-z0-9]+", "-", row.lower())


def keep(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def command(words: list[str], device: str, log: Path) -> tuple[float, str]:
    """Seconds of a whole command, and its stdout; both of its streams are kept in `log`, stderr as it comes."""
    environment, began = dict(os.environ), time.perf_counter()
    if device == "cpu":
        words = [*words, "--device", "cpu"]
    else:
        environment["CUDA_VISIBLE_DEVICES"] = device
    run = [sys.executable, "-m", "retinanet.cli", *words]
    with log.open("a") as file:
        print(*words, file=file, flush=True)
        done = subprocess.run(run, env=environment, stdout=subprocess.PIPE, stderr=file, text=True, check=False)
        seconds = time.perf_counter() - began
    if done.returncode:
        raise RetinaNetError(f"{words[0]} failed, see {log}: {log.read_text().strip().splitlines()[-1]}")
    with log.open("a") as file:
        file.write(done.stdout)
    return seconds, done.stdout


def table(out: Path) -> str:
    """Means over the runs that are finished in `out`; of AP its least and greatest too."""
    lines = [
        f"| | runs | {' | '.join(SCORES)} | AP, least–greatest | training | its steps | inference |",
        f"|{'---|' * (len(SCORES) + 6)}",
    ]
    for row in ROWS:
        found = [path for path in out.glob("*/result.json") if re.fullmatch(rf"{name_of(row)}-\d+", path.parent.name)]
        runs: list[Result] = [json.loads(path.read_text()) for path in found]
        if not runs:
            continue
        known = {name: [run[name] for run in runs if run[name] is not None] for name in runs[0]}
        means = {name: statistics.mean(values) for name, values in known.items() if values}
        # COCO says -1 where there is no such object.
        scores = " | ".join(f"{100 * means[name]:.1f}" if means[name] >= 0 else "–" for name in SCORES)
        spread = f"{100 * min(known['AP']):.1f}–{100 * max(known['AP']):.1f}"
        times = " | ".join(f"{means[name]:.0f} s" if name in means else "–" for name in TIMES)
        lines.append(f"| {row} | {len(runs)} | {scores} | {spread} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
