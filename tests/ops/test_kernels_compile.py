import os
import subprocess
import sys
from pathlib import Path

import pytest

WRITTEN = {
    "_scan": "found_groups group_list",
    "_shorten": "floors found source",
    "_expand": "entry_list found_entries",
    "_emit": "boxes labels scores",
    "_rank": "alive order ranked_boxes ranked_labels",
    # Of its workspaces, boxes and labels are only read. What a helper reads of them decides where others are written.
    "_suppress": "alive boxes labels members",
    "_collect": "count kept_boxes kept_labels kept_scores",
    "_forward": "sums",
    "_backward": "result",
    "_normalise": "result",
    "_recolour": "images",
    "_add_bias": "maps",
    "_max_pool": "result",
    "_upsample": "result",
}
"""What compilers must take each kernel to write into: an input among it would be copied, and refused as a leaf."""


@pytest.mark.slow
def test_kernels_compile_for_older_and_newer_gpus():
    """Down to machine code, by a process in which Triton doesn't interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, script, "75", "90"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = set(done.stdout.splitlines())
    assert said == {f"{kernel} {words}" for kernel, written in WRITTEN.items() for words in ("75", "90", written)}
