"""An exponential moving average of the weights: it detects better than the last step's weights do."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from retinanet.model.network import RetinaNet


class WeightAverage:
    """A second network whose weights follow the first's: w' = d w' + (1 - d) w after each step.

    Live batch norm's running statistics are averaged as the weights are; what never changes is left alone. The device
    is never waited for.
    """

    def __init__(self, network: RetinaNet, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.updates = 0
        changing = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        changing |= {name for name, _ in network.named_buffers()}
        pairs = [(v, network.state_dict()[k]) for k, v in self.network.state_dict().items() if k in changing]
        self._averages, self._values = zip(*[pair for pair in pairs if pair[0].is_floating_point()], strict=True)
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    def update(self, moved: Tensor) -> None:
        """Take in the network's weights; `moved`, a bool scalar on its device, is false where they stayed the same."""
        decay = self._decay()
        self.updates += 1
        difference = torch._foreach_sub(self._values, self._averages)
        torch._foreach_mul_(difference, (1 - decay) * moved.float())
        torch._foreach_add_(self._averages, difference)
        for average, value in self._counters:
            average.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs besides the averaged network itself."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.updates = state["updates"]

    def _decay(self) -> float:
        """The decay of this update: small at first, so that the random weights of the beginning are soon forgotten.

        Its span, 1 / (1 - d), is at most a tenth of the updates so far (as TensorFlow's ExponentialMovingAverage has
        it), so a short run needs no other decay than a long one.
        """
        return min(self.decay, (1 + self.updates) / (10 + self.updates))
