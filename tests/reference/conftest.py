"""Lets the reference tests use the same random models as the engine's own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))
