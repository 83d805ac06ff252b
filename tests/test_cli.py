"""The command line: its options are pinned, its mistakes end in one sentence, and help does not wait for PyTorch."""

import os
import re
import signal
import subprocess
import sys

import pytest

from retinanet import cli

TRAIN_OPTIONS = {
    *("images", "annotations", "val-images", "val-annotations", "config"),
    *("backbone", "width", "weights", "fine-tune", "norm", "freeze", "anchor-scale"),
    *("resize", "max-size", "jitter", "flip", "colour-jitter", "batch", "workers"),
    *("recipe", "matching", "box-loss", "class-loss"),
    *("epochs", "iters", "optimizer", "lr", "schedule", "warmup", "milestones", "gamma", "weight-decay", "clip-norm"),
    *("accumulate", "ema", "mosaic", "compile", "no-compile", "precision", "val-every", "patience", "logdir", "seed"),
    *("device", "devices", "loader", "max-restarts", "save-every", "override"),
}
INFER_OPTIONS = {
    *("images", "annotations", "output", "draw", "devices", "resume"),
    *("threshold", "nms", "top-n", "detections"),
    *("resize", "max-size", "canvas", "batch", "workers", "precision", "device", "loader"),
}
EXPORT_OPTIONS = {
    *("size", "batch", "precision", "device", "verify-images", "verify-annotations"),
    *("calibration-images", "calibration-count", "triton"),
    *("threshold", "nms", "top-n", "detections"),
}
IMPORT_OPTIONS = {"annotations", "norm-eps", "odtk-anchors"}
REPORT_OPTIONS = INFER_OPTIONS - {"draw", "devices", "resume"}
DOCTOR_OPTIONS = {
    *("images", "annotations", "val-images", "val-annotations"),
    *("resize", "max-size", "jitter", "flip", "colour-jitter", "batch", "workers"),
    *("anchor-scale", "overfit", "seed", "output", "json"),
}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train", TRAIN_OPTIONS),
        ("infer", INFER_OPTIONS),
        ("export", EXPORT_OPTIONS),
        ("import", IMPORT_OPTIONS),
        ("report", REPORT_OPTIONS),
        ("doctor", DOCTOR_OPTIONS),
    ],
)
def test_the_set_of_options_is_pinned(command: str, expected: set[str]) -> None:
    """An option is a promise: add it here on purpose, with its documentation."""
    arguments = cli.app[command].assemble_argument_collection(default_parameter=cli.app.default_parameter)
    options = {name.removeprefix("--") for argument in arguments for name in argument.names if name.startswith("--")}
    assert options == expected


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "retinanet.cli", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["train", "model.pth"], "--images"),
        (["train", "model.pth", "--images", "a", "--annotations", "b", "--epochs", "many"], "--epochs"),
        (["train", "model.pth", "--imgs", "a"], "--imgs"),
        (["trian"], "trian"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--width", "3"], "--width"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--jitter", "64", "32"], "--jitter"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--colour-jitter", "1.1"], "--colour-jitter"),
        (["doctor", "--images", "a", "--annotations", "b", "--colour-jitter", "nan"], "--colour-jitter"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--milestones", "0.9", "0.5"], "--milestones"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--devices", "0"], "--devices"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--max-restarts", "-1"], "--max-restarts"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--save-every", "-1"], "--save-every"),
        (["infer", "m.pth", "--images", "a", "--threshold", "0"], "--threshold"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--mosaic", "1.5"], "--mosaic"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--optimizer", "adam"], "--optimizer"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--recipe", "antique"], "--recipe"),
        (["train", "m.pth", "--images", "a", "--annotations", "b", "--matching", "best"], "--matching"),
        (["infer", "m.pth", "--images", "a", "--canvas", "64", "100"], "--canvas"),
        (["export", "m.pth", "m.onnx", "--batch", "4", "1", "8"], "--batch"),
        (["export", "m.pth", "m.onnx", "--size", "16", "64"], "--size"),
        (["export", "m.pth"], "OUT"),
        (["import", "theirs.pth"], "MODEL"),
        (["import", "theirs.pth", "m.pth", "--norm-eps", "-1"], "--norm-eps"),
        (["import", "theirs.pth", "m.pth", "--odtk-anchors", "old"], "--odtk-anchors"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_exit_code_2(words: list[str], names: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert names in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--jitter", "80"], "--jitter takes 2 values, but got only 80."),
        (["--jitter=80"], "--jitter takes 2 values, but got only 80."),
        (["--jitter"], "--jitter takes 2 values, but got none."),
        (["--jitter", "64", "80", "96", "a b"], "No option takes 96 'a b' as well; leave it out"),
        (["--workers"], "--workers requires an argument."),
    ],
)
def test_too_few_and_too_many_values_are_told_in_our_words(words: list[str], sentence: str) -> None:
    done = run("train", "m.pth", "--images", "a", "--annotations", "b", *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.endswith("See `retinanet train --help`.\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("output", ["'a line'", "'many lines\\n' * 100_000"])
def test_a_reader_that_leaves_early_is_no_error(output: str) -> None:
    """As `retinanet … | head` does."""
    reader, writer = os.pipe()
    os.close(reader)
    script = f"from retinanet import cli\ncli.app = lambda **_: print({output})\ncli.main()"
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_help_imports_no_heavy_package() -> None:
    script = (
        "import sys\n"
        "from retinanet.cli import app\n"
        "app(['train', '--help'], result_action='return_value')\n"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'PIL', 'hotcoco', 'triton'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--annotations" in done.stdout


def test_every_option_says_what_it_does() -> None:
    for command in ("train", "infer", "export", "import", "report", "doctor"):
        text = run(command, "--help").stdout
        for option in re.findall(r"^│[ *]*--([a-z-]+) [A-Z. ]*(.*)│$", text, flags=re.MULTILINE):
            assert option[1].strip(), f"--{option[0]} has no help"
