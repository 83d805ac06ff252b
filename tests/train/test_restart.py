"""Which checkpoint is a run's own, once torchrun has started it again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCHER = """
import os, pathlib, subprocess, sys, time
path, rank, wrapped = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "wrapped"
if not path.exists():
    time.sleep(1.5)  # well after the launcher began
    path.touch()
told = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
words = [sys.executable, "-c", rank, str(path)]
if wrapped:
    time.sleep(1)  # the script is younger than the file
    words = ["bash", "-c", '"$@"; exit $?', "script", *words]
sys.exit(subprocess.run(words, env=told).returncode)
"""
RANK = """
import pathlib, sys
from retinanet.train.restart import saved_since_torchrun_began
print(saved_since_torchrun_began(pathlib.Path(sys.argv[1])))
"""


@pytest.mark.parametrize("how", ["alone", "wrapped"])
@pytest.mark.parametrize("older", [False, True])
def test_a_file_is_the_runs_own_if_it_is_younger_than_torchrun(tmp_path: Path, how: str, older: bool) -> None:
    """Torchrun is the one that was not told of the run itself, be it the parent or one further up."""
    path = tmp_path / "model.pth"
    if older:
        path.touch()
        os.utime(path, (time.time() - 60,) * 2)
    clean = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    words = [sys.executable, "-c", LAUNCHER, str(path), RANK, how]
    done = subprocess.run(words, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout == f"{not older}\n"
