"""Without a GPU, Triton's interpreter runs the kernels. This has to be said before anything imports Triton."""

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
