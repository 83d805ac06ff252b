"""COCO-style data: reading, checking, augmenting, batching."""
