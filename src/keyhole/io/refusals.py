"""The ring of refused requests: what a client was refused, for `keyhole explain` to tell later.

A refused request never reached an upstream, so it has no place in the books; anybody can make
them, so what is kept is bounded: two files of at most 1 MiB, the older of which is replaced. They
hold no prompt, no answer, no secret and no digest; a machine's death may lose the last ones, a
process's does not. It raises nothing: a refusal is answered whether it can be written down or not.

Several workers append to the same files: a line is one write with O_APPEND, which the kernel does
not tear apart (https://man7.org/linux/man-pages/man2/write.2.html, 2026-11).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from keyhole.wire.records import Refusal

FILE_BYTES = 1024 * 1024
LINE_BYTES = 8 * 1024
"""A refusal that takes more is written without its words."""
NEWER, OLDER = "refusals.jsonl", "refusals.1.jsonl"


class RefusalRing:
    """Appends refusals to the ring of a state directory."""

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES) -> None:
        self._newer, self._older = folder / NEWER, folder / OLDER
        self._file_bytes = file_bytes
        self._descriptor: int | None = None
        self._encode = msgspec.json.Encoder().encode

    def append(self, refusal: Refusal) -> None:
        """Write one down; leave it out where that cannot be."""
        line = self._encode(refusal) + b"\n"
        if len(line) > LINE_BYTES:
            short = msgspec.structs.replace(refusal, message="", hint=None, path="", model=None)
            line = self._encode(short) + b"\n"
        with contextlib.suppress(OSError):
            os.write(self._file_with_room(len(line)), line)

    def close(self) -> None:
        """Close the file; nothing is lost."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _file_with_room(self, needed: int) -> int:
        """The descriptor of a file that takes so many bytes more; raises OSError.

        Its size is asked for each time, because others append to it, and one that another worker
        has turned over meanwhile is written on until it is full.
        """
        if self._descriptor is None:
            self._descriptor = self._open()
        if os.fstat(self._descriptor).st_size + needed > self._file_bytes:
            self.close()
            self._descriptor = self._open()
            if os.fstat(self._descriptor).st_size + needed > self._file_bytes:
                self.close()
                self._newer.replace(self._older)
                self._descriptor = self._open()
        return self._descriptor

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._newer, flags, 0o600)


def read_refusals(folder: Path) -> Iterator[Refusal]:
    """What the ring holds, the newest first; lines that cannot be read are left out."""
    for name in (NEWER, OLDER):
        try:
            text = (folder / name).read_bytes()
        except OSError:
            continue
        for line in reversed(text.splitlines()):
            with contextlib.suppress(msgspec.DecodeError):
                yield msgspec.json.decode(line, type=Refusal)


def find_refusal(folder: Path, exchange_id: str) -> Refusal | None:
    """The refusal of a request, where the ring still holds it."""
    return next((told for told in read_refusals(folder) if told.exchange_id == exchange_id), None)
