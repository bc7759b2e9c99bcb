"""`python -m keyhole.cli`: the command line where the `keyhole` script is not on the path."""

from __future__ import annotations

from keyhole.cli import entry

if __name__ == "__main__":
    entry()
