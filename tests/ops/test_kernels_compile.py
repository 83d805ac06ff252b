import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kernels_compile_for_older_and_newer_gpus():
    """Down to machine code, by a process in which Triton doesn't interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, script, "75", "90"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = {"_scan", "_shorten", "_expand", "_emit", "_rank", "_suppress", "_collect", "_forward", "_backward"}
    kernels |= {"_normalise", "_recolour", "_add_bias", "_max_pool", "_upsample"}
    assert set(done.stdout.splitlines()) == {f"{kernel} {target}" for kernel in kernels for target in (75, 90)}
