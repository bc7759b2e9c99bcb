"""One process of a state directory counts limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyhole.errors import Code, GatewayError
from keyhole.io.clock import SystemClock
from keyhole.io.sole import TRY_EVERY_S, SoleCounter


class Clock(SystemClock):
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_the_second_refuses_until_the_first_is_gone(tmp_path: Path) -> None:
    said: list[str] = []
    clock = Clock()
    first = SoleCounter(tmp_path, clock, say=said.append)
    second = SoleCounter(tmp_path, clock, say=said.append)
    assert first.take()
    first.check()
    assert not second.take()
    for _ in range(2):
        with pytest.raises(GatewayError) as refused:
            second.check()
        assert refused.value.code is Code.LIMITS_ELSEWHERE
    assert len(said) == 1
    first.close()
    with pytest.raises(GatewayError):
        second.check()
    clock.now_s += TRY_EVERY_S
    second.check()
    assert second.is_held
    second.close()
