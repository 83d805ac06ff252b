"""COCO metrics."""

from retinanet.evaluate.coco import ClassMetric, Metrics, evaluate

__all__ = ["ClassMetric", "Metrics", "evaluate"]
