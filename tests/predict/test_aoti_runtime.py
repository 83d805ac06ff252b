"""A .pt2 package runs as its checkpoint does, and says in one sentence why it cannot run here."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from command_line import Command, Shapes
from retinanet import load
from retinanet.config import PostprocessConfig, PredictConfig
from retinanet.errors import ModelError, UsageError
from retinanet.predict.runtimes import aoti
from retinanet.predict.runtimes.artifact import ArtifactRecord
from retinanet.types import ClassMap

RECORD = ArtifactRecord(
    format="aoti",
    classes=ClassMap((3, 17), ("disc", "rectangle")),
    canvas=(64, 96),
    batch=(1, 1, 1),
    resize=64,
    max_size=96,
    postprocess=PostprocessConfig(),
    precision="fp32",
    source="model.pth",
    device="cpu",
    versions={"torch": torch.__version__},
)
METADATA = {"AOTI_MACHINE": platform.machine(), "AOTI_CPU_ISA": "INVALID"}


def package_of(folder: Path, record: ArtifactRecord = RECORD, **metadata: str) -> Path:
    """A package with all that is said about it, but no code that runs."""
    path = folder / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        text = json.dumps({**METADATA, "retinanet": record.to_json(), **metadata})
        archive.writestr("model/data/aotinductor/model/x.wrapper_metadata.json", text)
        archive.writestr("model/data/aotinductor/model/x.wrapper.so", b"no code")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_load_detects_what_the_checkpoint_detects(
    aoti_package: Path, trained: Path, shapes: Shapes, count: int
) -> None:
    pictures = sorted(shapes.val_images.iterdir())[:count]
    found = load(aoti_package)(pictures)
    expected = load(trained, config=PredictConfig(device="cpu", canvas=(64, 96)))(pictures)
    assert int(found.count.sum()) > 0
    assert torch.equal(found.count, expected.count)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-2)


@pytest.mark.slow
def test_loading_it_leaves_the_compiler_alone(aoti_package: Path) -> None:
    """PyTorch's own loader imports it, and starts the host's C++ compiler: that takes longer than all else."""
    script = "import sys, retinanet; retinanet.load(sys.argv[1]); assert 'torch._inductor.codecache' not in sys.modules"
    subprocess.run([sys.executable, "-c", script, aoti_package], check=True)


@pytest.mark.slow
def test_infer_runs_it_and_the_record_inside_is_enough(
    retinanet: Command, aoti_package: Path, shapes: Shapes, tmp_path: Path
) -> None:
    alone = shutil.copy(aoti_package, tmp_path / "alone.pt2")
    done = retinanet("infer", alone, **shapes.held_out, output=tmp_path / "detections.json")
    assert done.code == 0, done.err
    assert {entry["category_id"] for entry in json.loads((tmp_path / "detections.json").read_text())} <= {3, 17, 44}


@pytest.mark.parametrize(
    ("record", "metadata", "words"),
    [
        ({"versions": {"torch": "1.13.1"}}, {}, r"compiled for PyTorch 1\.13, but here is PyTorch \d"),
        ({}, {"AOTI_MACHINE": "sparc"}, r"compiled for sparc, but here is"),
        ({}, {"AOTI_CPU_ISA": "AVX512 AVX512_VNNI"}, r"compiled for AVX512, but here is AVX2"),
        ({"device": "cuda", "compute_capabilities": ("9.0",)}, {}, r"compiled for cuda, but this machine has none"),
    ],
)
def test_what_was_compiled_for_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict, metadata: dict[str, str], words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(ModelError, match=words):
        load(package_of(tmp_path, replace(RECORD, **record), **metadata))


@pytest.mark.parametrize(
    ("made_for", "here", "fits"),
    [
        (("9.0",), (9, 0), True),
        (("8.0",), (8, 6), True),
        (("8.6",), (8, 0), False),
        (("8.0",), (9, 0), False),
        (("8.0", "9.0"), (9, 0), True),
    ],
)
def test_compute_capabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_for: tuple[str, ...], here: tuple[int, int], fits: bool
) -> None:
    monkeypatch.setattr(aoti, "choose_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: here)
    path = package_of(tmp_path, replace(RECORD, device="cuda", compute_capabilities=made_for))
    # One that fits is loaded, and found to be without code.
    sentence = "cannot load" if fits else rf"compiled for compute capability .*, but here is .* {here[0]}\.{here[1]}"
    with pytest.raises(ModelError, match=sentence):
        load(path)


def test_another_device_than_it_was_compiled_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = package_of(tmp_path, replace(RECORD, device="cuda", compute_capabilities=("9.0",)))
    with pytest.raises(UsageError, match="compiled for cuda, not for --device cpu"):
        load(path, config=PredictConfig(device="cpu"))
    # One for the processor runs there without being told, though there is a GPU.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ModelError, match="cannot load"):
        load(package_of(tmp_path))


def test_a_package_without_its_code_gets_a_sentence(tmp_path: Path) -> None:
    """PyTorch 2.11 would crash on it."""
    path = package_of(tmp_path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "part.pt2", "w") as part:
        for name in whole.namelist():
            if not name.endswith(".so"):
                part.writestr(name, whole.read(name))
    with pytest.raises(ModelError, match="its compiled code is missing"):
        load(tmp_path / "part.pt2")


def test_someone_elses_package_gets_a_sentence(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "theirs.pt2")
    with pytest.raises(ModelError, match=r"theirs\.pt2 .*not made here"):
        load(tmp_path / "theirs.pt2")


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_truncated_file_gets_a_sentence(tmp_path: Path, part: float) -> None:
    content = package_of(tmp_path).read_bytes()
    (tmp_path / "cut.pt2").write_bytes(content[: int(part * len(content))])
    with pytest.raises(ModelError, match=r"cut\.pt2"):
        load(tmp_path / "cut.pt2")


def test_a_package_that_lacks_its_code_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load .*model\.pt2"):
        load(package_of(tmp_path))
