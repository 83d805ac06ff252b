"""The network and what trains it: backbones, pyramid, heads, anchors, matching, losses, checkpoints."""
