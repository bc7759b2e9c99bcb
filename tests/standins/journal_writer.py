"""A process that journals until it is killed, and says on its output what it has written.

python -m standins.journal_writer DIRECTORY FSYNC: after each call it prints i or r, and a number.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from pathlib import Path
from typing import cast

from keyhole.io.clock import SystemClock
from keyhole.io.journal import FileJournal, Fsync, JournalSettings
from standins.attempts import intent, progress, receipt


def main(directory: str, fsync: str) -> None:
    settings = JournalSettings(fsync=cast(Fsync, fsync), segment_bytes=16 * 1024, interval_s=0.001)
    journal = FileJournal(
        Path(directory), settings, node="n", clock=SystemClock(), say=lambda text: None
    )
    under_way: deque[int] = deque()
    number = 0
    while True:
        number += 1
        journal.intend(intent(number))
        os.write(1, b"i%d\n" % number)
        under_way.append(number)
        journal.progress(progress(number, number))
        if number % 40 == 0:
            while len(under_way) > number % 7:
                done = under_way.popleft()
                journal.settle(receipt(done))
                os.write(1, b"r%d\n" % done)


if __name__ == "__main__":
    main(*sys.argv[1:])
