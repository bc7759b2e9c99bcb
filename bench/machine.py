"""The machine that a benchmark ran on, in words that a page may hold: no names, no paths."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def processor() -> str:
    """The processor's model."""
    return model_name(Path("/proc/cpuinfo").read_text()) or platform.machine()


def model_name(cpuinfo: str) -> str | None:
    """The first model's name in /proc/cpuinfo; None where it tells none, as on ARM."""
    for line in cpuinfo.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return None


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def sentence() -> str:
    """Everything about the machine that bears on the figures."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (
        f"{processor()}, {cores()} cores, {pages / 2**30:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def slug() -> str:
    """The processor and the number of cores, as part of a file's name."""
    return as_slug(f"{processor()} {cores()} cores")


def as_slug(text: str) -> str:
    """The text in small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
