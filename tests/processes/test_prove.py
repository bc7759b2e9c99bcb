"""`make prove`, short: nothing is lost or counted twice when Keyhole's processes are killed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from processes.driving import PYTHON, environment

PROVE = Path(__file__).parents[2] / "tools" / "prove"


def test_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    """Any seed must do; which one it was stands in the first line.

    How quick a start is depends on what else this machine does, so that is not judged here.
    """
    done = subprocess.run(
        [PYTHON, PROVE, "--kills", "8", "--seconds", "8", "--start-within", "20"],
        env=environment(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed -9 at 8 random moments" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
