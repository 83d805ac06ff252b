"""A run's validation: each rank detects in its share of the images, and all of them score all results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from retinanet.config import DataConfig, PostprocessConfig, PredictConfig, TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.device import choose_workers
from retinanet.errors import DataError
from retinanet.evaluate.coco import Metrics, evaluate
from retinanet.model.compiling import uncompiled
from retinanet.model.network import RetinaNet
from retinanet.predict.dataset import collect_results
from retinanet.predict.predictor import Predictor
from retinanet.predict.results import Results
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.train.distributed import Tally, gather_rows, rank, world_size
from retinanet.train.ranks import local_world_size


@dataclass
class Validation:
    """Called, it gives COCO's metrics of the network as it stands, which goes on in training mode."""

    network: RetinaNet
    data: CocoData
    data_config: DataConfig
    train_config: TrainConfig
    results: Results | None = None
    """Of the last call."""

    def __call__(self, stopped: Callable[[], bool]) -> Metrics | None:
        """Detect in all images, and compare; None if a rank was `stopped` meanwhile.

        Every rank gets the metrics of all, so that none has to be told what follows from them.
        """
        device, precision = self.network.cell_anchors.device, self.train_config.precision
        runtime = TorchRuntime(self.network, postprocess=PostprocessConfig(), device=device, precision=precision)
        batch = -(-self.data_config.batch // world_size())
        predictor = Predictor(runtime, PredictConfig(batch=batch, loader=self.train_config.loader))
        workers = choose_workers(self.data_config.workers, sharing=local_world_size())
        with uncompiled(self.network):
            results, images = collect_results(
                predictor,
                self.data,
                workers=workers,
                title="Validating",
                rank=rank(),
                world=world_size(),
                stopped=stopped,
            )
        self.network.train()
        images, stops = Tally("the end of a validation", images, int(stopped())).read()
        if stops:
            return None
        if not images:
            raise DataError(
                f"None of the {len(self.data)} validation images could be used; see what was left out above."
            )
        self.results = gather_results(results)
        return evaluate(self.data, self.results)


def gather_results(own: Results) -> Results:
    """The results of all ranks, by image id; those of an image keep their order."""
    if world_size() == 1:
        return own
    whole = gather_rows("the results of a validation", np.column_stack([own.image_ids, own.category_ids]))
    real = gather_rows("the results of a validation", np.column_stack([own.xywh, own.scores]))
    return Results(whole[:, 0], whole[:, 1], real[:, :4], real[:, 4])[np.argsort(whole[:, 0], kind="stable")]
