"""How large the inputs of a network's convolutions get: what calibration looks at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retinanet.errors import ExportError
from retinanet.model.network import RetinaNet
from retinanet.types import Batch

BINS = 4096
TOLD_APART = 0.99999
"""This part of all values is told apart, and larger ones are cut off.

Objects are rare, and so are the activations that tell of them: 0.999 triples the error of their scores, 0.9999 adds a
twelfth. All, outliers included, is as good on the network that was measured (benchmarks/results/quantisation.md),
but ruins others (Wu et al. 2020, "Integer Quantization for Deep Learning Inference").
"""


class Magnitudes:
    """A histogram of the magnitudes in tensors that come one after the other."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS)
        self.width = 0.0
        """Of a bin; 0 until something else than 0 has come."""
        self.largest = 0.0

    def add(self, values: Tensor) -> None:
        """Count the values of a tensor of any shape. Raises `ExportError` where one is not finite."""
        values = values.detach().abs().flatten().float()
        largest = float(values.max())
        if not np.isfinite(largest):
            raise ExportError("The network computes numbers that are not finite, so it cannot be calibrated; train it.")
        self.largest = max(self.largest, largest)
        if not largest:
            return  # zeros are told apart by any scale
        self.width = self.width or largest / (BINS // 2)
        while self.width * BINS < largest:  # twice as wide: pairs become one
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)])
            self.width *= 2
        self.counts += torch.histc(values, BINS, 0, self.width * BINS).cpu().numpy()

    @property
    def range(self) -> float:
        """The magnitude that all but a part of 1 - `TOLD_APART` stay below; 0 where there are only zeros."""
        if not self.width:
            return 0.0
        shares = self.counts.cumsum() / self.counts.sum()
        return min(float((np.searchsorted(shares, TOLD_APART) + 1) * self.width), self.largest)


@torch.inference_mode()
def observe(network: RetinaNet, batches: Iterable[Batch]) -> dict[str, list[Magnitudes]]:
    """Magnitudes of the inputs of each convolution by its name in the network, and by its call: heads have one a level.

    The heads' last convolutions are left out. Raises `ExportError` as `Magnitudes.add`.
    """
    seen: dict[str, list[Magnitudes]] = defaultdict(list)
    calls: Counter[str] = Counter()

    def watch(name: str, module: nn.Module) -> Any:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if calls[name] == len(seen[name]):
                seen[name].append(Magnitudes())
            seen[name][calls[name]].add(inputs[0])
            calls[name] += 1

        return module.register_forward_pre_hook(note)

    last = (network.class_head.predict, network.box_head.predict)
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d) and module not in last:
                stack.callback(watch(name, module).remove)
        for batch in batches:
            calls.clear()
            network(batch.images, batch.image_sizes)
    return dict(seen)
