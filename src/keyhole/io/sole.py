"""The right to count limits: one process of a state directory has it, by a lock on a file.

Limits are counted in the memory of the process that serves (`counters`). Two that count for
themselves would let each key have everything twice, so whoever comes second refuses what is
limited, until the first has ended. What has no limits it serves. The lock goes with the process,
however that ends.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Callable
from pathlib import Path

from keyhole.errors import Code, GatewayError, SetupError
from keyhole.ports import Clock

FILE_NAME = "serving.lock"
TRY_EVERY_S = 0.5
"""How often a refused process looks whether the other one is gone."""


class SoleCounter:
    """This process's claim to the right; for one thread."""

    def __init__(self, data: Path, clock: Clock, *, say: Callable[[str], None]) -> None:
        """Open the lock's file, without taking it; raises SetupError."""
        path = data / FILE_NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetupError(f"The lock {path} cannot be used: {error.strerror}.") from None
        self._path = path
        self._clock = clock
        self._say = say
        self._has_said = False
        self._try_at_s = -math.inf
        self.is_held = False

    def take(self) -> bool:
        """Take the lock if nobody has it; whether we have it."""
        if not self.is_held:
            self._try_at_s = self._clock.monotonic() + TRY_EVERY_S
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self.is_held = True
        return True

    def check(self) -> None:
        """Raise GatewayError while another process counts."""
        if self.is_held or (self._clock.monotonic() >= self._try_at_s and self.take()):
            return
        if not self._has_said:
            self._has_said = True
            self._say(
                f"Another process serves from {self._path.parent} and counts its limits: here,"
                " requests that are limited are refused. Start one process, with threads."
            )
        raise GatewayError(
            Code.LIMITS_ELSEWHERE,
            "The limits of this request are counted by another process of the same server.",
            status=503,
            hint="The operator has to serve limited keys by one process: gunicorn -w 1.",
        )

    def close(self) -> None:
        """Let another have it."""
        os.close(self._descriptor)
        self.is_held = False
        self._try_at_s = math.inf
