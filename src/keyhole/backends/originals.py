"""Which of a client's own fields an upstream can be asked for: the rest is refused by name."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from keyhole.catalog import Target
from keyhole.errors import ClientError, Code
from keyhole.wire.call import Call

_MAX_NAMES = 8


def refuse_beyond(call: Call, target: Target, *, carried: AbstractSet[str] = frozenset()) -> None:
    """Raise ClientError for what only the client's format can say, but for what is carried."""
    beyond = () if call.original is None else call.original.beyond
    if not beyond:
        return
    names = [name for name in beyond if name not in carried]
    if not names:
        return
    shown = ", ".join(f"'{_printable(name)}'" for name in names[:_MAX_NAMES])
    raise ClientError(
        Code.UNSUPPORTED_PARAMETER,
        f"{shown} cannot be asked of '{target}': its format has no such parameter.",
        hint="Leave it out, or name a model whose upstream speaks the format of the request.",
        param=names[0],
    )


def _printable(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name)[:40]
