"""What the structure promises: a batch crosses few files, imports are light, optional packages are optional."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest
import torch

import retinanet as package
from command_line import Shapes
from retinanet.config import DataConfig, PostprocessConfig, TrainConfig
from retinanet.data.annotations import CocoData
from retinanet.data.augment import Augment
from retinanet.data.coco import read_annotations
from retinanet.data.sampler import PredictPlan
from retinanet.data.torch_loader import TorchLoader
from retinanet.model.checkpoint import create_record
from retinanet.model.criterion import Criterion
from retinanet.model.network import RetinaNet
from retinanet.predict import dataset
from retinanet.predict.predictor import Predictor
from retinanet.predict.runtimes.torch import TorchRuntime
from retinanet.preprocess import group_by_canvas
from retinanet.train.assembly import training_plan
from retinanet.train.mosaic import with_mosaics
from retinanet.train.optim import build_optimizer
from retinanet.train.step import TrainStep

ROOT = Path(package.__file__).parent

TRAINING_FILES = 16
INFERENCE_FILES = 14
"""Whoever follows a batch from the loader, whose worker made it, to the weights or the detections opens these many."""


class Crossing:
    """The package's files whose functions run inside its context."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def __enter__(self) -> set[str]:
        sys.setprofile(self.note)
        return self.files

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            self.files.add(str(path.relative_to(ROOT)))


def small_network(data: CocoData) -> RetinaNet:
    assert data.classes is not None
    record = create_record(
        data.classes, ("test_resnet",), width=16, weights="none", anchor_scale=4, resize=64, max_size=96
    )
    return RetinaNet(record)


@pytest.mark.parametrize("colour_jitter", [0.0, 0.4])
def test_a_training_step_crosses_few_files(shapes: Shapes, colour_jitter: float) -> None:
    data = read_annotations(shapes.annotations, shapes.images)
    network = small_network(data).train()
    optimizer = build_optimizer(TrainConfig(), network, 1e-3)
    step = TrainStep(network, Criterion(network), optimizer, "fp32", clip_norm=10.0)
    plan = training_plan(data, DataConfig(resize=64, max_size=96, batch=4), seed=0)
    crossed = {}
    for mosaic in (0.0, 1.0):
        loader = TorchLoader(data, plan, 64, 96, Augment(colour_jitter=colour_jitter), workers=1, total_steps=3)
        asked = TrainConfig(mosaic=mosaic)
        batches = iter(with_mosaics(loader, asked, network.record, data, start_step=0, total_steps=9))
        step(next(batches), 1e-3)  # what happens once does not count
        with Crossing() as crossed[mosaic]:
            step(next(batches), 1e-3)
    assert {"data/loader.py", "model/matcher.py", "train/step.py"} <= crossed[0]
    assert len(crossed[0]) <= TRAINING_FILES, sorted(crossed[0])
    # Mosaics are two files more; what they ask of the data set is in files that the workers go through anyway.
    more = {"train/mosaic.py", "train/stitch.py", "data/annotations.py", "data/batching.py"}
    assert crossed[1] == crossed[0] | more


def test_a_batch_of_inference_crosses_few_files(shapes: Shapes) -> None:
    data = read_annotations(shapes.annotations, shapes.images)
    runtime = TorchRuntime(small_network(data), postprocess=PostprocessConfig(), device=torch.device("cpu"))
    predictor = Predictor(runtime)
    canvas_of_image, canvases = group_by_canvas(data.sizes, 64, 96)
    plan = PredictPlan(canvas_of_image, canvases, 4)
    batches = iter(TorchLoader(data, plan, 64, 96, workers=1))
    predictor.run(next(batches))
    with Crossing() as crossed:
        predictor.run(next(batches))
    assert {"data/loader.py", "ops/nms/__init__.py", "predict/predictor.py"} <= crossed
    assert len(crossed) <= INFERENCE_FILES, sorted(crossed)


def in_a_fresh_process(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_and_its_command_line_import_without_pytorch() -> None:
    in_a_fresh_process(
        "import sys, retinanet, retinanet.cli\n"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'PIL', 'hotcoco', 'triton'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )


def test_everything_imports_where_optional_packages_are_missing() -> None:
    modules = [
        ".".join(("retinanet", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "triton.py"
    ]
    assert dataset.__name__ in modules
    in_a_fresh_process(
        "import importlib, sys\n"
        "optional = ('triton', 'tensorboard', 'onnx', 'onnxruntime', 'onnxscript', 'nvidia.dali', 'tensorrt',\n"
        "            'tensorrt_rtx', 'modelopt', 'pycocotools', 'pyarrow', 'torchcodec', 'supervision')\n"
        "sys.modules.update(dict.fromkeys(optional))\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
    )
