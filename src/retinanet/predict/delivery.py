"""Where finished images go, whichever process or earlier run finished them: each exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rich.progress import Progress

from retinanet.data.annotations import CocoData
from retinanet.predict.journal import Finished


class Delivery:
    """Hands finished images of `data` on to `receivers`, tells the `progress`, and knows which are done."""

    def __init__(self, data: CocoData, receivers: Sequence[Callable[[Finished], object]], progress: Progress) -> None:
        self._data = data
        self._receivers = receivers
        self._progress = progress
        self._task = progress.add_task("Detecting", total=len(data))
        self.done = np.zeros(len(data), bool)
        """`[I]`, by position in the data."""
        self.detections = 0

    def __call__(self, finished: Finished) -> None:
        """Hand on those that are not done yet: a process that outlived its run may have done some again."""
        indices = self._data.indices_of(finished.image_ids)
        new = ~self.done[indices]
        if not new.all():
            ids = finished.image_ids[new]
            finished = Finished(ids, finished.results[np.isin(finished.results.image_ids, ids)])
        for receive in self._receivers:
            receive(finished)
        self.done[indices] = True
        self.detections += len(finished.results)
        self._progress.update(self._task, advance=len(finished.image_ids))

    def missing(self) -> np.ndarray:
        """Positions in the data of the images that are not done, int64 `[J]`."""
        return np.flatnonzero(~self.done)
