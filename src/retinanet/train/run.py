"""`retinanet train`: from options to a trained model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from retinanet.config import DataConfig, ModelConfig, PostprocessConfig, PredictConfig, TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment
from retinanet.data.classes import require_same_classes
from retinanet.data.coco import read_annotations
from retinanet.data.sampler import TrainPlan
from retinanet.data.torch_loader import TorchLoader
from retinanet.device import choose_device, choose_precision, choose_workers, tune
from retinanet.errors import UsageError
from retinanet.evaluate.coco import Metrics, evaluate
from retinanet.files import require_writable
from retinanet.model.criterion import Criterion
from retinanet.model.network import RetinaNet
from retinanet.predict.dataset import collect_results, tell_dropped_images
from retinanet.predict.predictor import Predictor
from retinanet.predict.results import Results
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.preprocess import group_by_canvas
from retinanet.report.run import report_training
from retinanet.train.average import WeightAverage
from retinanet.train.log import TrainLog
from retinanet.train.loop import Course, train_loop
from retinanet.train.metrics_file import MetricsFile
from retinanet.train.optim import build_optimizer, learning_rate, peak_rate
from retinanet.train.problems import ProblemReport
from retinanet.train.session import open_session
from retinanet.train.step import TrainStep


def run_training(
    path: Path,
    *,
    images: Path,
    annotations: Path,
    val_images: Path | None,
    val_annotations: Path | None,
    model_config: ModelConfig,
    data_config: DataConfig,
    train_config: TrainConfig,
) -> None:
    """Train `path` as `retinanet train` does; see its help.

    Raises:
        RetinaNetError: what the user can act on; before the first step wherever it can be known by then.
    """
    require_writable(path)
    if data_config.batch % train_config.accumulate:
        raise UsageError(
            f"--accumulate must divide --batch ({data_config.batch}) into equal parts, "
            f"but is {train_config.accumulate}."
        )
    device = choose_device(train_config.device)
    tune(device)
    data, held_out = _annotations(images, annotations, val_images, val_annotations)
    assert data.classes is not None

    session = open_session(path, data.classes, model_config, data_config, train_config)
    network = session.network.to(device).to(memory_format=torch.channels_last).train()
    plan = training_plan(data, data_config, train_config.seed)
    total_steps = train_config.iters or train_config.epochs * plan.steps_per_epoch
    if session.step >= total_steps:
        print(
            f"{path} has done {session.step} of {total_steps} steps; raise --epochs or --iters to go on.",
            file=sys.stderr,
        )
        return
    step = _training_step(network, data_config, train_config, device)
    session.restore(step)
    loader = TorchLoader(
        data,
        plan,
        data_config.resize,
        data_config.longest,
        Augment(data_config.flip, data_config.jitter),
        workers=choose_workers(data_config.workers),
        seed=train_config.seed,
        start_step=session.step,
        total_steps=total_steps,
    )
    peak = peak_rate(train_config, data_config.batch)
    judged = step.average.network if step.average else network
    validation = Validation(judged, held_out, data_config, train_config) if held_out else None
    course = Course(
        total_steps=total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        rate=partial(learning_rate, train_config, peak, total_steps=total_steps),
        validate=validation,
        validate_every=train_config.val_every,
    )
    metrics = MetricsFile(path, start_step=session.step)
    problems = ProblemReport(path, data)
    log = TrainLog(metrics, start_step=session.step, total_steps=total_steps, device=device)
    try:
        train_loop(session, step, loader, course, log)
    finally:
        problems.add_images(loader.broken)
    if validation and validation.results is not None:
        report_training(path, validation.data, validation.results)


def _training_step(network: RetinaNet, data: DataConfig, train: TrainConfig, device: torch.device) -> TrainStep:
    optimizer = build_optimizer(train, network, peak_rate(train, data.batch))
    precision = choose_precision(train.precision, device, on_gpu="bf16")
    return TrainStep(
        network,
        Criterion(network),
        optimizer,
        precision,
        train.clip_norm,
        parts=train.accumulate,
        average=WeightAverage(network, train.ema) if train.ema else None,
    )


def _annotations(
    images: Path, annotations: Path, val_images: Path | None, val_annotations: Path | None
) -> tuple[CocoData, CocoData | None]:
    """Training and validation data, checked against each other."""
    if (val_images is None) != (val_annotations is None):
        raise UsageError("--val-images and --val-annotations go together, but one is missing; give both or none.")
    data = read_annotations(annotations, images)
    data.check_trainable()
    if val_annotations is None:
        return data, None
    held_out = read_annotations(val_annotations, val_images)
    assert data.classes is not None
    require_same_classes(held_out, data.classes)
    tell_dropped_images(held_out)
    return data, held_out


def training_plan(data: CocoData, config: DataConfig, seed: int) -> TrainPlan:
    """Canvases chosen from the data's sizes, and who is in which batch."""
    canvas_of_image, canvases = group_by_canvas(data.sizes, config.resize, config.longest)
    return TrainPlan(canvas_of_image, canvases, config.batch, seed)


@dataclass
class Validation:
    """Called, it gives COCO's metrics of the network as it stands, which goes on in training mode."""

    network: RetinaNet
    data: CocoData
    data_config: DataConfig
    train_config: TrainConfig
    results: Results | None = None
    """Of the last call."""

    def __call__(self) -> Metrics:
        """Detect in all images, and compare."""
        device, precision = self.network.cell_anchors.device, self.train_config.precision
        runtime = TorchRuntime(self.network, postprocess=PostprocessConfig(), device=device, precision=precision)
        predictor = Predictor(runtime, PredictConfig(batch=self.data_config.batch))
        workers = choose_workers(self.data_config.workers)
        self.results = collect_results(predictor, self.data, workers=workers, title="Validating")
        self.network.train()
        return evaluate(self.data, self.results)
