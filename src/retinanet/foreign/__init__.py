"""Models of other programs, made ours: `retinanet import`."""
