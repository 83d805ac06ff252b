"""COCO metrics."""
