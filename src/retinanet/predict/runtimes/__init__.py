"""One small class per kind of artifact, all with one call: images and their sizes in, detections on the canvas out."""
