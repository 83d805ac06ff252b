"""One small class per kind of artifact, all with the same call: images and image sizes in, detections on the canvas out."""
