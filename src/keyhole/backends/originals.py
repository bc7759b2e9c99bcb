"""Which of a client's own fields an upstream can be asked for: the rest is refused by name.

What goes on as it came is not judged here: an upstream of the client's own format does that.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from keyhole.catalog import Target
from keyhole.dialects import tgi
from keyhole.errors import ClientError, Code
from keyhole.wire.call import Call

_MAX_NAMES = 8
_QUESTIONS = {
    tgi.TOKENS: "tells no tokens of a text",
    tgi.INFO: "tells nothing of its model",
}
"""What is said of an upstream that cannot be asked for anything but a text, by format."""


def refuse_beyond(call: Call, target: Target, *, carried: AbstractSet[str] = frozenset()) -> None:
    """Raise ClientError for what only the client's format can say, but for what is carried.

    So it does for what could not be read: whoever translates a call has to ask this first.
    """
    if call.original is None:
        return
    if call.original.unreadable:
        first = call.original.unreadable[0]
        raise ClientError(first.code, first.message, hint=first.hint, param=first.name)
    beyond = call.original.beyond
    if not beyond:
        return
    names = [name for name in beyond if name not in carried]
    if not names:
        return
    if call.original.format in _QUESTIONS:
        raise ClientError(
            Code.UNSUPPORTED_BY_UPSTREAM,
            f"'{target}' {_QUESTIONS[call.original.format]}: its kind of server has no such path.",
            status=404,
            hint="Name a model whose upstream is a TGI server or Keyhole's engine.",
        )
    shown = ", ".join(f"'{_printable(name)}'" for name in names[:_MAX_NAMES])
    raise ClientError(
        Code.UNSUPPORTED_PARAMETER,
        f"{shown} cannot be asked of '{target}': its format has no such parameter.",
        hint="Leave it out, or name a model whose upstream speaks the format of the request.",
        param=names[0],
    )


def names_no_maximum(call: Call) -> bool:
    """Whether the client left it open how much is generated; not if it only said it oddly."""
    is_odd = call.original is not None and call.original.has_unreadable("max_new_tokens")
    return call.parameters.max_new_tokens is None and not is_odd


def _printable(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name)[:40]
