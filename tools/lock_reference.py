"""Splits the reference environment's lock, so that a CPU build of torch can be taken where one is.

    python tools/lock_reference.py RESOLVED.txt

torch from PyPI needs CUDA's libraries on Linux even where there is no GPU (4 GB); a CPU build
of the same release needs none. requirements/reference.txt holds what both need, and then either
reference-torch-cpu.txt or reference-torch.txt is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
TORCH = ("torch==", "cuda-", "nvidia-", "triton")
TORCH_CPU = """torch==2.13.0+cpu \\
    --hash=sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
"""


def main() -> None:
    blocks = re.split(r"\n(?=[a-z])", Path(sys.argv[1]).read_text().strip())
    torch = [block for block in blocks if block.startswith(TORCH)]
    both = [block for block in blocks if not block.startswith(TORCH)]
    (REQUIREMENTS / "reference.txt").write_text("\n".join(both) + "\n")
    (REQUIREMENTS / "reference-torch.txt").write_text("\n".join(torch) + "\n")
    (REQUIREMENTS / "reference-torch-cpu.txt").write_text(TORCH_CPU)


if __name__ == "__main__":
    main()
