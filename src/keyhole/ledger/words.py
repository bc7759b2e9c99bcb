"""Keys and groups as operators write and read them: the same for commands and the admin interface.

It reads no database and keeps no secret; nothing that is told here holds a digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from keyhole.errors import ClientError, Code
from keyhole.ledger.keys import MAX_KEYS_AT_ONCE, IssuedKey, NewKey
from keyhole.ledger.usage import in_words
from keyhole.wire.amounts import (
    DURATION_HINT,
    NotAnAmountError,
    parse_budget,
    parse_duration_ms,
    show_budget,
)
from keyhole.wire.keys import Group, Key, Limits

State = Literal["live", "replaced", "expired", "revoked"]
"""`replaced`: it was rotated, and lives on until it expires."""


class LimitWords(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits as they are written; what is absent or null does not limit."""

    rpm: int | None = None
    """Requests a minute."""
    tpm: int | None = None
    """Tokens a minute, of prompts and answers."""
    concurrency: int | None = None
    """Requests at once."""
    budget: str | None = None
    """Such as "5/day", "20/month", "100", in dollars; "2Mtok/day" in tokens."""


class KeyOrder(LimitWords, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made, or several that differ in their names."""

    name: str | None = None
    """Of several, what their names begin with; absent: the group's."""
    group: str | None = None
    models: tuple[str, ...] = ()
    """Names and patterns of the models that it may use; empty for all."""
    expires: str | None = None
    """After how long, such as 30d; or when, such as 2027-01-31T18:00:00Z."""
    labels: dict[str, str] = {}
    count: int | None = None
    """How many; absent for one, whose name gets no number."""


class KeyTold(Struct, frozen=True, kw_only=True):
    """A key, as an operator reads it."""

    id: str
    name: str
    state: State
    group: str | None
    models: tuple[str, ...]
    limits: LimitWords
    group_limits: LimitWords | None
    """What it shares with its group; null without one."""
    labels: Mapping[str, str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    rotated_to: str | None
    """The id of its successor."""


class KeyIssued(Struct, frozen=True, kw_only=True):
    """A key that has just been made; nobody can tell its secret again."""

    secret: str
    id: str
    name: str
    key: KeyTold


class GroupTold(Struct, frozen=True, kw_only=True):
    """A group, as an operator reads it."""

    name: str
    limits: LimitWords


def keys_of(order: KeyOrder, *, now_ms: int) -> list[NewKey]:
    """What is to be made; raises ClientError (invalid_parameter)."""
    base = order.name if order.name is not None else order.group
    if base is None:
        raise _wrong("name", "is missing", "several keys get their group's without one")
    if order.name is None and order.count is None:
        raise _wrong("name", "is missing", "only several keys are named after their group")
    if order.count is not None and not 1 <= order.count <= MAX_KEYS_AT_ONCE:
        raise _wrong("count", f"is {order.count}, not from 1 to {MAX_KEYS_AT_ONCE}")
    limits = limits_of(order)
    expires_at_ms = None if order.expires is None else read_expiry(order.expires, now_ms=now_ms)
    return [
        NewKey(
            name=name,
            group=order.group,
            models=order.models,
            limits=limits,
            labels=order.labels,
            expires_at_ms=expires_at_ms,
        )
        for name in _names(base, order.count)
    ]


def limits_of(words: LimitWords) -> Limits:
    """The limits that are meant; raises ClientError (invalid_parameter)."""
    budget = None
    if words.budget is not None:
        try:
            budget = parse_budget(words.budget)
        except NotAnAmountError as error:
            raise _wrong("budget", error.message, error.hint) from None
    return Limits(rpm=words.rpm, tpm=words.tpm, concurrency=words.concurrency, budget=budget)


def limit_words(limits: Limits) -> LimitWords:
    """Limits as they would be written."""
    return LimitWords(
        rpm=limits.rpm,
        tpm=limits.tpm,
        concurrency=limits.concurrency,
        budget=None if limits.budget is None else show_budget(limits.budget),
    )


def shown_limits(words: LimitWords | None) -> str:
    """Limits in a few words for a table; empty for none."""
    if words is None:
        return ""
    amounts = [(words.rpm, "rpm"), (words.tpm, "tpm"), (words.concurrency, "at once")]
    parts = [f"{amount:,} {unit}" for amount, unit in amounts if amount is not None]
    if words.budget is not None:
        parts.append(words.budget if "tok" in words.budget else f"${words.budget}")
    return ", ".join(parts)


def read_expiry(text: str, *, now_ms: int) -> int:
    """When a key ends: after a duration, or at a time; raises ClientError (invalid_parameter)."""
    return _read_moment(text, "expires", now_ms=now_ms, sign=1)


def read_since(text: str, param: str, *, now_ms: int) -> int:
    """A duration ago, or a time; raises ClientError (invalid_parameter)."""
    return _read_moment(text, param, now_ms=now_ms, sign=-1)


def told_key(key: Key, *, now_ms: int) -> KeyTold:
    """A key as it is told to operators."""
    return KeyTold(
        id=key.id,
        name=key.name,
        state=state_of(key, now_ms=now_ms),
        group=None if key.group is None else key.group.name,
        models=key.models,
        limits=limit_words(key.limits),
        group_limits=None if key.group is None else limit_words(key.group.limits),
        labels=key.labels,
        created_at=_time(key.created_at_ms),
        expires_at=None if key.expires_at_ms is None else _time(key.expires_at_ms),
        revoked_at=None if key.revoked_at_ms is None else _time(key.revoked_at_ms),
        rotated_to=key.rotated_to,
    )


def told_issued(issued: IssuedKey, *, now_ms: int) -> KeyIssued:
    """A key that has just been made, with its secret: for the one reply that shows it."""
    key = told_key(issued.key, now_ms=now_ms)
    return KeyIssued(secret=issued.secret.reveal(), id=key.id, name=key.name, key=key)


def told_group(group: Group) -> GroupTold:
    """A group as it is told to operators."""
    return GroupTold(name=group.name, limits=limit_words(group.limits))


def state_of(key: Key, *, now_ms: int) -> State:
    """What a key is good for now."""
    if key.revoked_at_ms is not None:
        return "revoked"
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        return "expired"
    return "live" if key.rotated_to is None else "replaced"


def _time(unix_ms: int) -> str:
    try:
        return in_words(unix_ms)
    except OverflowError:
        return "beyond all calendars"


def _read_moment(text: str, param: str, *, now_ms: int, sign: int) -> int:
    try:
        return now_ms + sign * parse_duration_ms(text)
    except NotAnAmountError:
        pass
    try:
        when = datetime.fromisoformat(text)
        moment = when if when.tzinfo else when.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        hint = f"{DURATION_HINT}, or a time such as 2027-01-31T18:00:00Z"
        raise _wrong(param, "is neither a duration nor a time", hint) from None


def _names(base: str, count: int | None) -> list[str]:
    """NAME for one; NAME-01 to NAME-30 for thirty, so that they sort."""
    if count is None:
        return [base]
    width = max(2, len(str(count)))
    return [f"{base}-{number:0{width}d}" for number in range(1, count + 1)]


def _wrong(param: str, message: str, hint: str | None = None) -> ClientError:
    told = None if hint is None else f"{hint[:1].upper()}{hint[1:]}."
    return ClientError(Code.INVALID_PARAMETER, f"`{param}` {message}.", hint=told, param=param)
