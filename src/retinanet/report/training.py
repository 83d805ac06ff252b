"""The training curves of a model, from the metrics.csv beside it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 300


def read_curves(model: Path) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Column → (steps, values) of the rows of `model` in its folder's metrics.csv, thinned to at most `MOST_POINTS`
    means; nothing where there is no such table.

    `model.best.pth` was trained as `model.pth`.
    """
    names = {model.name, model.with_suffix("").stem + model.suffix if model.stem.endswith(".best") else model.name}
    try:
        with (model.parent / "metrics.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [row for row in csv.DictReader(file) if row.get("model") in names]
    except (OSError, csv.Error):
        return {}
    columns = [name for name in (rows[0] if rows else ()) if name not in (None, "model", "step", "epoch")]
    curves = {}
    for name in columns:
        points = np.array([(_number(row.get("step")), _number(row.get(name))) for row in rows])
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            steps, values = _thin(points[:, 0]), _thin(points[:, 1])
            curves[name] = steps, values
    return curves


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _thin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    chunks = np.array_split(values, min(len(values), MOST_POINTS))
    return np.array([chunk.mean() for chunk in chunks])
