"""The virtual keys and their groups in the ledger: made, listed, revoked, rotated.

It does not decide what a key may do (`policy`), and it keeps no secret: what is handed out once
is stored as its SHA-256. No key is ever removed, so that the books always find its name.

A name belongs to one live key at a time: it is free again when its key is revoked or has
expired, and it passes to the successor of a key that is rotated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Row, Select, select, update
from sqlalchemy.dialects import postgresql, sqlite

from keyhole.errors import ClientError, Code
from keyhole.ledger.database import Database
from keyhole.ledger.schema import CHANGES, GROUPS, KEYS, SPENT
from keyhole.secret import Secret
from keyhole.wire.keys import NO_LIMITS, Group, Key, Limits, digest_of, secret_from

MAX_NAME_CHARS = 100
MAX_MODELS = 200
MAX_MODEL_CHARS = 200
MAX_LABELS = 50
MAX_LABEL_CHARS = 200
MAX_KEYS_AT_ONCE = 10_000
MAX_NUMBER = 2**63 - 1

SECRET_BYTES = 32
ID_BYTES = 8
_ID = re.compile(r"key_[0-9a-f]{16}")

_FETCHED_AT_ONCE = 2000
_NAMES_AT_ONCE = 500

RandomBytes = Callable[[int], bytes]
"""Gives that many bytes that nobody can guess, as os.urandom does."""


class NewKey(Struct, frozen=True, kw_only=True):
    """What a key is to be like."""

    name: str
    group: str | None = None
    """Made when its first key is, without limits."""
    models: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    labels: Mapping[str, str] = {}
    expires_at_ms: int | None = None


class IssuedKey(Struct, frozen=True):
    """A key that has just been made, with the only copy of its secret."""

    key: Key
    secret: Secret


class Changes(Struct, frozen=True):
    """What has been written of keys and groups since some version."""

    version: int
    """To ask from the next time."""
    groups: tuple[Group, ...]
    keys: tuple[Key, ...]
    """A key stands here when it was written itself, not when only its group was."""


class Everything(Struct, frozen=True):
    """All keys and groups at one moment."""

    version: int
    groups: tuple[Group, ...]
    keys: Iterator[Key]
    """As they come from the database, while the transaction is open."""


_VERSION = select(CHANGES.c.version).where(CHANGES.c.name == "keys")


class KeyStore:
    """The keys of one ledger. Every method raises LedgerUnavailable where it is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewKey, *, now_ms: int, random_bytes: RandomBytes) -> IssuedKey:
        """Make one key; ClientError (invalid_parameter, name_taken) where it cannot be."""
        return self.create_many([new], now_ms=now_ms, random_bytes=random_bytes)[0]

    def create_many(
        self, wanted: Sequence[NewKey], *, now_ms: int, random_bytes: RandomBytes
    ) -> list[IssuedKey]:
        """Make all of them, or none; ClientError as for one."""
        if len(wanted) > MAX_KEYS_AT_ONCE:
            raise _invalid("count", f"{len(wanted)} keys at once; at most {MAX_KEYS_AT_ONCE}.")
        for new in wanted:
            check_new_key(new, now_ms=now_ms)
        names = [new.name for new in wanted]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _taken(twice)
        with self._database.writing() as connection:
            version = _raise_version(connection)
            _free_names_of_expired(connection, names, now_ms, version)
            if taken := _held_names(connection, names):
                raise _taken(min(taken))
            groups = _ensure_groups(connection, {n.group for n in wanted if n.group}, version)
            issued = [_issue(new, groups, now_ms, random_bytes) for new in wanted]
            if issued:
                connection.execute(KEYS.insert(), [_row_of(it.key, version) for it in issued])
        return issued

    def get(self, id_or_name: str) -> Key:
        """The key with this id; or the live one with this name, else the last that had it.

        ClientError (key_not_found) where there is none.
        """
        with self._database.reading() as connection:
            return _find(connection, id_or_name)

    def list_keys(
        self, *, group: str | None = None, after: str | None = None, limit: int = 1000
    ) -> list[Key]:
        """The keys in the order of their ids, at most `limit` of those that come behind `after`."""
        if not f"{group}{after}".isprintable():
            return []  # a text with a NUL, say, which PostgreSQL does not take
        query = _all_keys().order_by(KEYS.c.id).limit(limit)
        if group is not None:
            query = query.where(KEYS.c.group_name == group)
        if after is not None:
            query = query.where(KEYS.c.id > after)
        with self._database.reading() as connection:
            return [_key_of(row) for row in connection.execute(query)]

    def revoke(self, id_or_name: str, *, now_ms: int) -> Key:
        """End a key now, for good; one that is revoked stays as it is."""
        with self._database.writing() as connection:
            version = _raise_version(connection)
            key = _find(connection, id_or_name)
            if key.revoked_at_ms is None:
                values = {"revoked_at_ms": now_ms, "held_name": None, "version": version}
                connection.execute(update(KEYS).where(KEYS.c.id == key.id).values(values))
            return _find(connection, key.id)

    def rotate(
        self, id_or_name: str, *, grace_s: float, now_ms: int, random_bytes: RandomBytes
    ) -> IssuedKey:
        """Make a successor with the same name and settings; the old key lives on for the grace.

        What the old one has spent counts for the successor too. ClientError (invalid_parameter)
        for a key that is not alive or has a successor.
        """
        with self._database.writing() as connection:
            version = _raise_version(connection)
            old = _find(connection, id_or_name)
            _check_rotatable(old, now_ms)
            new = NewKey(
                name=old.name,
                group=old.group.name if old.group else None,
                models=old.models,
                limits=old.limits,
                labels=old.labels,
                expires_at_ms=old.expires_at_ms,
            )
            groups = {old.group.name: old.group} if old.group else {}
            issued = _issue(new, groups, now_ms, random_bytes)
            ends = now_ms + round(max(grace_s, 0) * 1000)
            values = {
                "held_name": None,
                "rotated_to": issued.key.id,
                "expires_at_ms": min(ends, old.expires_at_ms or ends),
                "version": version,
            }
            connection.execute(update(KEYS).where(KEYS.c.id == old.id).values(values))
            connection.execute(KEYS.insert(), _row_of(issued.key, version))
            _hand_on_spent(connection, old.id, issued.key.id)
        return issued

    def set_group(self, name: str, limits: Limits) -> Group:
        """Give a group these limits, and make it if there is none; ClientError for a bad name."""
        check_name(name, "group")
        check_limits(limits)
        with self._database.writing() as connection:
            version = _raise_version(connection)
            _ensure_groups(connection, {name}, version)
            values = {"limits": msgspec.json.encode(limits).decode(), "version": version}
            connection.execute(update(GROUPS).where(GROUPS.c.name == name).values(values))
        return Group(name=name, limits=limits)

    def groups(self) -> tuple[Group, ...]:
        """All groups, by name."""
        with self._database.reading() as connection:
            return _groups(connection, since=-1)

    def have_existed(self) -> bool:
        """Whether there ever was a key."""
        with self._database.reading() as connection:
            return connection.execute(select(KEYS.c.id).limit(1)).first() is not None

    def version(self) -> int:
        """A number that every write to keys or groups raises."""
        with self._database.reading() as connection:
            return _version(connection)

    def changes_since(self, version: int) -> Changes:
        """Every key and group that was written after that version, as they are now."""
        query = _all_keys().where(KEYS.c.version > version)
        with self._database.reading() as connection:
            return Changes(
                version=_version(connection),
                groups=_groups(connection, since=version),
                keys=tuple(_key_of(row) for row in connection.execute(query)),
            )

    @contextmanager
    def everything(self) -> Iterator[Everything]:
        """All keys and groups, in little memory however many they are."""
        with self._database.reading() as connection:
            version, groups = _version(connection), _groups(connection, since=-1)
            streamed = connection.execution_options(yield_per=_FETCHED_AT_ONCE)
            with streamed.execute(_all_keys()) as rows:
                yield Everything(version, groups, (_key_of(row) for row in rows))


def check_name(name: str, param: str) -> None:
    """Raise ClientError (invalid_parameter) for a text that cannot be a key's or group's name."""
    if not name.strip() or name != name.strip() or not name.isprintable():
        raise _invalid(param, "It must be a name on one line, without spaces around it.")
    if len(name) > MAX_NAME_CHARS:
        raise _invalid(param, f"It has {len(name)} characters; at most {MAX_NAME_CHARS}.")
    if _ID.fullmatch(name):
        raise _invalid(param, "A name must not look like the id of a key.")


def check_limits(limits: Limits) -> None:
    """Raise ClientError (invalid_parameter) for a limit that is negative or beyond counting."""
    amounts = {"rpm": limits.rpm, "tpm": limits.tpm, "concurrency": limits.concurrency}
    if limits.budget is not None:
        amounts["budget"] = limits.budget.amount
    for param, amount in amounts.items():
        if amount is not None and not 0 <= amount <= MAX_NUMBER:
            raise _invalid(param, f"{amount} is not from 0 to {MAX_NUMBER}.")


def check_new_key(new: NewKey, *, now_ms: int) -> None:
    """Raise ClientError (invalid_parameter) for what no key can be made of."""
    check_name(new.name, "name")
    if new.group is not None:
        check_name(new.group, "group")
    if len(new.models) > MAX_MODELS:
        raise _invalid("models", f"There are {len(new.models)}; at most {MAX_MODELS}.")
    for model in new.models:
        _check_text(model, "models", MAX_MODEL_CHARS)
    if len(new.labels) > MAX_LABELS:
        raise _invalid("labels", f"There are {len(new.labels)}; at most {MAX_LABELS}.")
    for label, value in new.labels.items():
        _check_text(label, "labels", MAX_LABEL_CHARS)
        _check_text(value or " ", "labels", MAX_LABEL_CHARS)
    check_limits(new.limits)
    expires = new.expires_at_ms
    if expires is not None and not now_ms < expires <= MAX_NUMBER:
        raise _invalid("expires", "The key would have expired before it was made.")


def _check_text(value: str, param: str, max_chars: int) -> None:
    if not value or not value.isprintable():
        raise _invalid(param, "They must not be empty or hold control characters.")
    if len(value) > max_chars:
        raise _invalid(param, f"One has {len(value)} characters; at most {max_chars}.")


def _invalid(param: str, message: str) -> ClientError:
    return ClientError(Code.INVALID_PARAMETER, f"`{param}`: {message}", param=param)


def _taken(name: str) -> ClientError:
    return ClientError(
        Code.NAME_TAKEN,
        f"A live key has the name '{name}' already.",
        status=409,
        hint="Choose another, or revoke or rotate that key.",
        param="name",
    )


def _check_rotatable(old: Key, now_ms: int) -> None:
    why = None
    if old.revoked_at_ms is not None:
        why = "is revoked"
    elif old.rotated_to is not None:
        why = f"has a successor already, {old.rotated_to}"
    elif old.expires_at_ms is not None and old.expires_at_ms <= now_ms:
        why = "has expired"
    if why is not None:
        raise ClientError(
            Code.INVALID_PARAMETER,
            f"The key '{old.name}' ({old.id}) {why}.",
            hint="Make a new one.",
        )


def _issue(
    new: NewKey, groups: Mapping[str, Group], now_ms: int, random_bytes: RandomBytes
) -> IssuedKey:
    secret = secret_from(random_bytes(SECRET_BYTES))
    key = Key(
        id=f"key_{random_bytes(ID_BYTES).hex()}",
        name=new.name,
        digest=digest_of(secret.encode()),
        group=groups[new.group] if new.group else None,
        models=new.models,
        limits=new.limits,
        labels=new.labels,
        created_at_ms=now_ms,
        expires_at_ms=new.expires_at_ms,
    )
    return IssuedKey(key, Secret(secret))


def _raise_version(connection: Connection) -> int:
    """Raise the version of the keys; other writers wait from here on."""
    raised = update(CHANGES).where(CHANGES.c.name == "keys").values(version=CHANGES.c.version + 1)
    return int(connection.execute(raised.returning(CHANGES.c.version)).scalar_one())


def _version(connection: Connection) -> int:
    return int(connection.execute(_VERSION).scalar_one())


def _held_names(connection: Connection, names: Sequence[str]) -> set[str]:
    held: set[str] = set()
    for some in _slices(names):
        query = select(KEYS.c.held_name).where(KEYS.c.held_name.in_(some))
        held.update(connection.execute(query).scalars())
    return held


def _free_names_of_expired(
    connection: Connection, names: Sequence[str], now_ms: int, version: int
) -> None:
    for some in _slices(names):
        is_over = KEYS.c.held_name.in_(some) & (KEYS.c.expires_at_ms <= now_ms)
        connection.execute(update(KEYS).where(is_over).values(held_name=None, version=version))


def _slices(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _NAMES_AT_ONCE):
        yield names[start : start + _NAMES_AT_ONCE]


def _ensure_groups(connection: Connection, names: set[str], version: int) -> dict[str, Group]:
    if not names:
        return {}
    rows = [{"name": name, "limits": "{}", "version": version} for name in sorted(names)]
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    connection.execute(insert(GROUPS).on_conflict_do_nothing(), rows)
    query = select(GROUPS.c.name, GROUPS.c.limits).where(GROUPS.c.name.in_(names))
    return {row.name: _group_of(row.name, row.limits) for row in connection.execute(query)}


def _groups(connection: Connection, *, since: int) -> tuple[Group, ...]:
    query = select(GROUPS.c.name, GROUPS.c.limits).where(GROUPS.c.version > since)
    rows = connection.execute(query.order_by(GROUPS.c.name))
    return tuple(_group_of(row.name, row.limits) for row in rows)


def _find(connection: Connection, id_or_name: str) -> Key:
    if not id_or_name.isprintable() or len(id_or_name) > MAX_NAME_CHARS:
        raise _not_found("No key has that id or name.")
    if _ID.fullmatch(id_or_name):
        query = _all_keys().where(KEYS.c.id == id_or_name)
    else:
        is_live_first = KEYS.c.held_name.is_(None)
        last_first = (is_live_first, KEYS.c.created_at_ms.desc(), KEYS.c.id)
        query = _all_keys().where(KEYS.c.name == id_or_name).order_by(*last_first).limit(1)
    row = connection.execute(query).first()
    if row is None:
        raise _not_found(f"No key has the id or name '{id_or_name}'.")
    return _key_of(row)


def _not_found(message: str) -> ClientError:
    return ClientError(
        Code.KEY_NOT_FOUND, message, status=404, hint="keyhole key list shows those there are."
    )


def _hand_on_spent(connection: Connection, old_id: str, new_id: str) -> None:
    """Let a budget go on where it stands: a rotation must not fill it up."""
    query = select(SPENT).where((SPENT.c.kind == "key") & (SPENT.c.name == old_id))
    row = connection.execute(query).first()
    if row is None:
        return
    # Under a version of the books' own, or the mirror would never hear of it.
    raised = update(CHANGES).where(CHANGES.c.name == "books").values(version=CHANGES.c.version + 1)
    version = connection.execute(raised.returning(CHANGES.c.version)).scalar_one()
    handed_on = dict(row._mapping) | {"name": new_id, "version": version}  # noqa: SLF001
    connection.execute(SPENT.insert(), handed_on)


def _all_keys() -> Select[Any]:
    return select(KEYS, GROUPS.c.limits.label("group_limits")).join_from(
        KEYS, GROUPS, KEYS.c.group_name == GROUPS.c.name, isouter=True
    )


_read_limits = msgspec.json.Decoder(Limits).decode
_read_models = msgspec.json.Decoder(tuple[str, ...]).decode
_read_labels = msgspec.json.Decoder(dict[str, str]).decode


def _group_of(name: str, limits: str) -> Group:
    return Group(name=name, limits=_read_limits(limits))


def _key_of(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        digest=row.digest,
        group=None if row.group_name is None else _group_of(row.group_name, row.group_limits),
        models=_read_models(row.models),
        limits=_read_limits(row.limits),
        labels=_read_labels(row.labels),
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        revoked_at_ms=row.revoked_at_ms,
        rotated_to=row.rotated_to,
    )


def _row_of(key: Key, version: int) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "held_name": key.name,
        "digest": key.digest,
        "group_name": key.group.name if key.group else None,
        "models": msgspec.json.encode(key.models).decode(),
        "limits": msgspec.json.encode(key.limits).decode(),
        "labels": msgspec.json.encode(dict(key.labels)).decode(),
        "created_at_ms": key.created_at_ms,
        "expires_at_ms": key.expires_at_ms,
        "revoked_at_ms": None,
        "rotated_to": None,
        "version": version,
    }
