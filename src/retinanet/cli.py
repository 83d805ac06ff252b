"""The command line: one function per command. Heavy imports stay inside them, so that --help is immediate."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path
from typing import Annotated, TextIO

from cyclopts import App, CycloptsError, Group, Parameter

from retinanet import __version__
from retinanet.config import (
    DataConfig,
    ExportConfig,
    ImportConfig,
    InferConfig,
    ModelConfig,
    PostprocessConfig,
    PredictConfig,
    TrainConfig,
)
from retinanet.config_file import take_from_file
from retinanet.errors import DataError, explain
from retinanet.stop import terminable
from retinanet.usage import describe

_flat = Parameter(name="*")
_run, _model, _data, _recipe, _export, _output = (
    Group(name, sort_key=order) for order, name in enumerate(("Input", "Model", "Data", "Training", "Export", "Output"))
)

app = App(
    name="retinanet",
    version=__version__,
    help="RetinaNet object detection, fast and accurate: train, run and deploy a detector on COCO-style data.",
    help_format="plaintext",
    # One dash-separated name per option, no --no-…/--empty-… twins; `--backbone A B` takes all words that follow.
    default_parameter=Parameter(negative="", consume_multiple=True),
    suppress_keyboard_interrupt=False,  # `main` has a sentence for it
)


@app.command
def train(
    model: Path,
    /,
    *,
    images: Annotated[Path, Parameter(group=_run)],
    annotations: Annotated[Path, Parameter(group=_run)],
    val_images: Annotated[Path | None, Parameter(group=_run)] = None,
    val_annotations: Annotated[Path | None, Parameter(group=_run)] = None,
    config: Annotated[Path | None, Parameter(group=_run)] = None,
    network: Annotated[ModelConfig, _flat, Parameter(group=_model)] = ModelConfig(),
    data: Annotated[DataConfig, _flat, Parameter(group=_data)] = DataConfig(),
    recipe: Annotated[TrainConfig, _flat, Parameter(group=_recipe)] = TrainConfig(),
) -> None:
    """Train MODEL on images with COCO annotations; run again, it resumes.

    Writes MODEL (the last state, from which training resumes), MODEL with .best before its ending (the best validated
    weights), metrics.csv, all options (MODEL with .config.toml) and, after the last validation, a report (MODEL with
    .report.html) beside them.

    Parameters
    ----------
    model
        Checkpoint to write, for example model.pth.
    images
        Folder of the training images.
    annotations
        Their annotations, a COCO JSON file.
    val_images
        Folder of the validation images.
    val_annotations
        Their annotations; each validation prints COCO's metrics.
    config
        TOML file of options, such as MODEL with .config.toml; those of the command line win.
    """
    from retinanet.train.job import TrainingJob
    from retinanet.train.run import run_training

    run_training(TrainingJob(model, images, annotations, val_images, val_annotations, network, data, recipe))


app["train"].config = (take_from_file,)


@app.command
def infer(
    model: Path,
    /,
    *,
    images: Annotated[Path, Parameter(group=_run)],
    annotations: Annotated[Path | None, Parameter(group=_run)] = None,
    output: Annotated[Path, Parameter(group=_output)] = Path("detections.json"),
    draw: Annotated[Path | None, Parameter(group=_output)] = None,
    postprocess: Annotated[PostprocessConfig | None, _flat, Parameter(group=_model)] = None,
    predict: Annotated[InferConfig, _flat, Parameter(group=_data)] = InferConfig(),
) -> None:
    """Run MODEL on images and write its detections; with annotations, print COCO's metrics.

    Interrupted or killed, it keeps what is done: the same command with --resume does the rest.

    Parameters
    ----------
    model
        Checkpoint of `retinanet train`, or artifact of `retinanet export`.
    images
        Folder of images (searched in depth), image, video, .txt file of a path a line, or pattern in quotes ('*.jpg').
    annotations
        COCO JSON file: names the images and their ids, and scores the detections.
    output
        Results to write, by their ending: .json (COCO's), .jsonl, .csv or .parquet.
    draw
        Folder for pictures, or the video, with the detections drawn in.
    """
    from retinanet.evaluate.coco import evaluate
    from retinanet.predict.infer import run_inference

    scorable = run_inference(
        model,
        images=images,
        annotations=annotations,
        output=output,
        draw=draw,
        config=predict,
        postprocess=postprocess,
    )
    if scorable is not None:
        print(evaluate(*scorable).table())


@app.command
def export(
    model: Path,
    out: Path,
    /,
    *,
    options: Annotated[ExportConfig, _flat, Parameter(group=_export)] = ExportConfig(),
    postprocess: Annotated[PostprocessConfig, _flat, Parameter(group=_model)] = PostprocessConfig(),
) -> None:
    """Export MODEL to OUT: one file that is the whole detector, compared with MODEL before it gets its name.

    Parameters
    ----------
    model
        Checkpoint of `retinanet train`.
    out
        File to write; its ending is its format: .onnx (ONNX), .pt2 (AOTInductor), .plan or .engine (TensorRT).
    """
    from retinanet.export.run import run_export

    run_export(model, out, options, postprocess)


@app.command(name="import")
def import_(
    file: Path,
    model: Path,
    /,
    *,
    options: Annotated[ImportConfig, _flat, Parameter(group=_model)] = ImportConfig(),
) -> None:
    """Make FILE, a checkpoint of torchvision or of NVIDIA's ODTK, a checkpoint of this program that detects the same.

    Parameters
    ----------
    file
        State dict of torchvision's retinanet_resnet50_fpn or retinanet_resnet50_fpn_v2, or checkpoint of ODTK.
    model
        Checkpoint to write, for `retinanet infer`, `retinanet export` and `--fine-tune`.
    """
    from retinanet.foreign.run import run_import

    run_import(file, model, options)


@app.command
def report(
    source: Path,
    /,
    *,
    images: Annotated[Path, Parameter(group=_run)],
    annotations: Annotated[Path, Parameter(group=_run)],
    output: Annotated[Path, Parameter(group=_output)] = Path("report.html"),
    postprocess: Annotated[PostprocessConfig, _flat, Parameter(group=_model)] = PostprocessConfig(),
    predict: Annotated[PredictConfig, _flat, Parameter(group=_data)] = PredictConfig(),
) -> None:
    """Show what a model gets right and wrong, as one HTML page.

    Parameters
    ----------
    source
        Checkpoint of `retinanet train`, or results of `retinanet infer` (a .json file).
    images
        Folder of images.
    annotations
        Their annotations, a COCO JSON file.
    output
        Page to write; it needs no other file.
    """
    from retinanet.report.run import run_report

    run_report(source, images=images, annotations=annotations, output=output, postprocess=postprocess, predict=predict)


@app.command
def doctor(
    *,
    images: Annotated[Path, Parameter(group=_run)],
    annotations: Annotated[Path, Parameter(group=_run)],
    val_images: Annotated[Path | None, Parameter(group=_run)] = None,
    val_annotations: Annotated[Path | None, Parameter(group=_run)] = None,
    anchor_scale: Annotated[float, Parameter(group=_model)] = ModelConfig().anchor_scale,
    data: Annotated[DataConfig, _flat, Parameter(group=_data)] = DataConfig(),
    overfit: Annotated[bool, Parameter(group=_recipe)] = False,
    seed: Annotated[int, Parameter(group=_recipe)] = 0,
    output: Annotated[Path, Parameter(group=_output)] = Path("doctor.html"),
    json: Annotated[str | None, Parameter(group=_output, allow_leading_hyphen=True)] = None,
) -> None:
    """Look at the data before training: what they are, what is wrong with them, and what to set.

    Ends with exit code 3 where training would be pointless.

    Parameters
    ----------
    images
        Folder of the training images.
    annotations
        Their annotations, a COCO JSON file.
    val_images
        Folder of the validation images.
    val_annotations
        Their annotations.
    anchor_scale
        Side of a level's smallest anchor, in strides of that level.
    overfit
        Train a small network on two images for a moment, to prove that it can learn them.
    seed
        Seed of the training samples that are shown, and of --overfit.
    output
        Page to write, with pictures.
    json
        FILE to write everything to for programs; '-' prints it in place of the text.
    """
    from retinanet.doctor.run import run_doctor

    worthwhile = run_doctor(
        images=images,
        annotations=annotations,
        val_images=val_images,
        val_annotations=val_annotations,
        config=data,
        anchor_scale=ModelConfig(anchor_scale=anchor_scale).anchor_scale,
        with_overfit=overfit,
        seed=TrainConfig(seed=seed).seed,
        output=output,
        json=json,
    )
    if not worthwhile:
        _fail("Training would be pointless as the data are; correct what is listed as an error.", DataError.exit_code)


def main() -> None:
    """Entry point: runs a command; a user's mistake ends in one sentence on stderr and its exit code."""
    try:
        with terminable():
            app(exit_on_error=False, print_error=False)
            sys.stdout.flush()
    except CycloptsError as error:
        _fail(f"{describe(error)} See `retinanet {_command_given()}--help`.", 2)
    except KeyboardInterrupt:
        lost = "nothing was saved since the last checkpoint" if _command_given() == "train " else "nothing was written"
        _fail(f"Interrupted; {lost}.", 6)
    except BrokenPipeError:
        if not _reader_has_left(sys.stdout):
            raise
        # As `retinanet … | head` asks for. What is still to be written at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        _fail(str(known), known.exit_code)


def _reader_has_left(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _command_given() -> str:
    return f"{sys.argv[1]} " if len(sys.argv) > 1 and sys.argv[1] in app else ""


def _fail(sentence: str, exit_code: int) -> None:
    print(f"retinanet: {sentence}", file=sys.stderr)
    raise SystemExit(exit_code)


if __name__ == "__main__":
    main()
