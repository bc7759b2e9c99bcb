"""The admin interface, `/admin/v1/...`: the ledger as an ASGI application in the clerk's process.

It authenticates nobody: its Unix socket is its owner's alone, and `forwarding` lets through who
has shown the admin key. It tells no digest, and a secret only in the reply that makes it. No
operation starts a process, reads a file or takes an address.

Every operation is a row of OPERATIONS: from it come the routing, the reading of bodies and queries
and the description in OpenAPI, so that none can be served that is not described. (Twelve exact
templates need no framework.)
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Struct

from keyhole import __version__
from keyhole.errors import ClientError, Code, GatewayError, KeyholeError
from keyhole.io.refusals import find_refusal
from keyhole.ledger.books import Books
from keyhole.ledger.database import Database
from keyhole.ledger.keys import IssuedKey, KeyStore
from keyhole.ledger.usage import Attempt, By, Place, Sum, UsageReader, in_words
from keyhole.ledger.words import (
    GroupTold,
    KeyIssued,
    KeyOrder,
    KeyTold,
    LimitWords,
    keys_of,
    limits_of,
    read_since,
    told_group,
    told_issued,
    told_key,
)
from keyhole.server.app import Message, Receive, Send
from keyhole.server.forwarding import MAX_BODY_BYTES, refuse
from keyhole.wire.amounts import NotAnAmountError, parse_duration_ms
from keyhole.wire.http import JSON, Reply

MAX_PAGE = 1000


class Page(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which page of a list."""

    after: str | None = None
    """`next` of the page before."""
    limit: int = 100
    """1 to 1000."""


class KeyPage(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which keys."""

    group: str | None = None


class Span(Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows."""

    since: str | None = None
    """How long ago, such as 7d; or a time, such as 2027-01-31T18:00:00Z."""
    until: str | None = None


class UsageAsked(Span, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which sums."""

    by: By = "key"


class Rotation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a key is replaced."""

    grace: str = "1d"
    """How long the old one lives on; `0` for not at all."""


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No body and no query."""


class KeyList(Struct, frozen=True):
    """A page of keys, by their ids."""

    keys: list[KeyTold]
    next: str | None


class IssuedList(Struct, frozen=True):
    """Keys that have just been made."""

    keys: list[KeyIssued]


class GroupList(Struct, frozen=True):
    """All groups, by name."""

    groups: list[GroupTold]


class UsageTold(Struct, frozen=True):
    """What was used in a span, and by whom; `since` is what was summed from."""

    since: str
    until: str | None
    sums: tuple[Sum, ...]
    total: Sum
    next: str | None


class RowsTold(Struct, frozen=True):
    """A page of attempts, oldest first, each as `keyhole usage --rows --json` prints it."""

    rows: list[dict[str, Any]]
    next: str | None


class ExchangeTold(Struct, frozen=True):
    """What is known of one request."""

    exchange_id: str
    attempts: list[dict[str, Any]]
    under_way: int
    """Attempts whose end is not in the books yet."""
    refusal: dict[str, Any] | None


class Cleared(Struct, frozen=True):
    """Whether an upstream had been marked as out of credits."""

    upstream: str
    was_marked: bool


class Ledgers(Struct, frozen=True):
    """What operations work with."""

    database: Database
    data: Path
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    random_bytes: Callable[[int], bytes] = os.urandom


class Asked(Struct, frozen=True):
    """A request, read."""

    names: Mapping[str, str]
    """What stands in the path."""
    query: Any
    body: Any


class Operation(Struct, frozen=True, kw_only=True):
    """One method at one path."""

    method: str
    path: str
    does: Callable[[Ledgers, Asked], object]
    gives: Any
    body: Any = Nothing
    query: Any = Nothing
    status: int = 200


def list_keys(ledgers: Ledgers, asked: Asked) -> KeyList:
    """List the keys."""
    page: KeyPage = asked.query
    limit = _limit(page)
    found = KeyStore(ledgers.database).list_keys(group=page.group, after=page.after, limit=limit)
    now_ms = ledgers.now_ms()
    told = [told_key(key, now_ms=now_ms) for key in found]
    return KeyList(told, told[-1].id if len(told) == limit else None)


def create_keys(ledgers: Ledgers, asked: Asked) -> IssuedList:
    """Make a key, or `count` keys; their secrets are in this reply and nowhere else."""
    now_ms = ledgers.now_ms()
    new = keys_of(asked.body, now_ms=now_ms)
    store = KeyStore(ledgers.database)
    return _issued(store.create_many(new, now_ms=now_ms, random_bytes=ledgers.random_bytes), now_ms)


def show_key(ledgers: Ledgers, asked: Asked) -> KeyTold:
    """Show a key by its id or name."""
    return told_key(KeyStore(ledgers.database).get(asked.names["id"]), now_ms=ledgers.now_ms())


def revoke_key(ledgers: Ledgers, asked: Asked) -> KeyTold:
    """End a key now and for good."""
    now_ms = ledgers.now_ms()
    return told_key(
        KeyStore(ledgers.database).revoke(asked.names["id"], now_ms=now_ms), now_ms=now_ms
    )


def rotate_key(ledgers: Ledgers, asked: Asked) -> IssuedList:
    """Make a successor of a key; the old one lives on for the grace."""
    now_ms, rotation = ledgers.now_ms(), asked.body
    try:
        grace_ms = 0 if rotation.grace == "0" else parse_duration_ms(rotation.grace)
    except NotAnAmountError as error:
        raise _invalid("grace", error.message) from None
    issued = KeyStore(ledgers.database).rotate(
        asked.names["id"],
        grace_s=grace_ms / 1000,
        now_ms=now_ms,
        random_bytes=ledgers.random_bytes,
    )
    return _issued([issued], now_ms)


def list_groups(ledgers: Ledgers, _: Asked) -> GroupList:
    """List the groups."""
    return GroupList([told_group(group) for group in KeyStore(ledgers.database).groups()])


def set_group(ledgers: Ledgers, asked: Asked) -> GroupTold:
    """Give a group these limits and no others, and make it where there is none."""
    limits = limits_of(asked.body)
    return told_group(KeyStore(ledgers.database).set_group(asked.names["name"], limits))


def tell_usage(ledgers: Ledgers, asked: Asked) -> UsageTold:
    """Sum up what was used."""
    span: UsageAsked = asked.query
    limit, skip = _limit(span), _read_skip(span.after)
    since_ms, until_ms = _span(span, ledgers.now_ms())
    found = UsageReader(ledgers.database).usage(
        span.by,
        since_ms=since_ms,
        **({} if until_ms is None else {"until_ms": until_ms}),
        limit=limit,
        skip=skip,
    )
    more = str(skip + limit) if len(found.sums) == limit else None
    until = None if until_ms is None else in_words(found.until_ms)
    return UsageTold(in_words(found.since_ms), until, found.sums, found.total, more)


def tell_rows(ledgers: Ledgers, asked: Asked) -> RowsTold:
    """List the attempts."""
    span: Span = asked.query
    limit = _limit(span)
    since_ms, until_ms = _span(span, ledgers.now_ms())
    rows = UsageReader(ledgers.database).rows(
        since_ms=since_ms,
        **({} if until_ms is None else {"until_ms": until_ms}),
        after=_read_cursor(span.after),
        limit=limit,
    )
    more = _cursor(rows[-1]) if len(rows) == limit else None
    return RowsTold([row.promised() for row in rows], more)


def tell_exchange(ledgers: Ledgers, asked: Asked) -> ExchangeTold:
    """Tell what became of a request, by its x-request-id."""
    exchange_id = asked.names["id"]
    found = UsageReader(ledgers.database).exchange(exchange_id)
    refusal = find_refusal(ledgers.data, exchange_id)
    if not (found.attempts or found.open_intents or refusal):
        raise ClientError(
            Code.EXCHANGE_NOT_FOUND,
            "Nothing is known of a request with that id.",
            status=404,
            hint="It is in the header x-request-id of every reply. The books may be a second"
            " behind, and only the latest refusals are kept.",
        )
    return ExchangeTold(
        exchange_id,
        [attempt.promised() for attempt in found.attempts],
        len(found.open_intents),
        None if refusal is None else msgspec.to_builtins(refusal),
    )


def clear_upstream(ledgers: Ledgers, asked: Asked) -> Cleared:
    """Take back that an upstream is out of credits (402): it is asked again."""
    name = asked.names["name"]
    return Cleared(name, Books(ledgers.database).clear_mark(name, now_ms=ledgers.now_ms()))


def describe(_: Ledgers, __: Asked) -> dict[str, Any]:
    """Describe this interface (OpenAPI 3.1)."""
    return openapi()


OPERATIONS = (
    Operation(method="GET", path="/keys", does=list_keys, query=KeyPage, gives=KeyList),
    Operation(
        method="POST",
        path="/keys",
        does=create_keys,
        body=KeyOrder,
        gives=IssuedList,
        status=201,
    ),
    Operation(method="GET", path="/keys/{id}", does=show_key, gives=KeyTold),
    Operation(method="DELETE", path="/keys/{id}", does=revoke_key, gives=KeyTold),
    Operation(
        method="POST",
        path="/keys/{id}/rotate",
        does=rotate_key,
        body=Rotation,
        gives=IssuedList,
        status=201,
    ),
    Operation(method="GET", path="/groups", does=list_groups, gives=GroupList),
    Operation(
        method="PUT", path="/groups/{name}", does=set_group, body=LimitWords, gives=GroupTold
    ),
    Operation(method="GET", path="/usage", does=tell_usage, query=UsageAsked, gives=UsageTold),
    Operation(method="GET", path="/usage/rows", does=tell_rows, query=Span, gives=RowsTold),
    Operation(method="GET", path="/exchanges/{id}", does=tell_exchange, gives=ExchangeTold),
    Operation(method="POST", path="/upstreams/{name}/clear", does=clear_upstream, gives=Cleared),
    Operation(method="GET", path="/openapi.json", does=describe, gives=dict[str, Any]),
)
ROOT = "/admin/v1"
_NAME = re.compile(r"\{(\w+)\}")
_COMPILED = [
    (
        re.compile(
            _NAME.sub(r"(?P<\1>[^/]+)", re.escape(it.path).replace(r"\{", "{").replace(r"\}", "}"))
        ),
        it,
    )
    for it in OPERATIONS
]


class AdminApp:
    """The ASGI application."""

    def __init__(self, ledgers: Ledgers) -> None:
        self._ledgers = ledgers

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise ValueError(f"the admin interface does not speak {scope['type']}")
        reply = await self._reply(scope, receive)
        headers = [(name.encode(), value.encode()) for name, value in reply.headers]
        headers.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, scope: Message, receive: Receive) -> Reply:
        try:
            operation, names = _find(scope["method"], scope["raw_path"].decode("latin-1"))
            asked = Asked(
                names,
                _read_query(operation.query, scope["query_string"]),
                _read(operation.body, await _read_body(receive)),
            )
            told = await asyncio.to_thread(operation.does, self._ledgers, asked)
        except KeyholeError as error:
            return refuse(error)
        except Exception as error:  # noqa: BLE001  # the edge: the type is told, and no values
            fault = f"A fault in Keyhole: {type(error).__name__}."
            return refuse(GatewayError(Code.INTERNAL_ERROR, fault))
        body = msgspec.json.encode(told)
        return Reply(status=operation.status, headers=[("content-type", JSON)], body=body)


def openapi() -> dict[str, Any]:
    """The interface in OpenAPI 3.1."""
    types = {t for it in OPERATIONS for t in (it.body, it.query, it.gives) if t is not Nothing}
    described = [t for t in types if isinstance(t, type)]
    described.sort(key=lambda it: it.__name__)
    _, components = msgspec.json.schema_components(
        described, ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for it in OPERATIONS:
        paths.setdefault(ROOT + it.path, {})[it.method.lower()] = _described(it, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Keyhole's admin interface", "version": __version__},
        "security": [{"adminKey": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"adminKey": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(it: Operation, components: Mapping[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _NAME.findall(it.path)
    ]
    if it.query is not Nothing:
        fields = components[it.query.__name__]["properties"]
        parameters += [{"name": name, "in": "query", "schema": fields[name]} for name in fields]
    error = {"description": "An error: code, message and perhaps hint, under `error`."}
    told: dict[str, Any] = {
        "operationId": it.does.__name__,
        "summary": (it.does.__doc__ or "").strip(),
        "parameters": parameters,
        "responses": {
            str(it.status): {"description": "Done.", "content": _content(it.gives)},
            "default": error,
        },
    }
    if it.body is not Nothing:
        told["requestBody"] = {"content": _content(it.body)}
    return told


def _content(of: Any) -> dict[str, Any]:
    is_named = isinstance(of, type) and issubclass(of, Struct)
    schema = {"$ref": f"#/components/schemas/{of.__name__}"} if is_named else {"type": "object"}
    return {JSON: {"schema": schema}}


def _find(method: str, path: str) -> tuple[Operation, dict[str, str]]:
    path = path.partition("?")[0]
    below = path.removeprefix(ROOT) if path.startswith(ROOT) else ""
    allowed = []
    for pattern, operation in _COMPILED:
        found = pattern.fullmatch(below)
        if found is None:
            continue
        if operation.method == method:
            return operation, {name: unquote(text) for name, text in found.groupdict().items()}
        allowed.append(operation.method)
    if allowed:
        told = ", ".join(allowed)
        raise ClientError(
            Code.METHOD_NOT_ALLOWED,
            f"This path takes only {told}.",
            status=405,
            allow=tuple(allowed),
        )
    raise ClientError(
        Code.PATH_NOT_FOUND,
        "There is nothing at this path.",
        status=404,
        hint=f"{ROOT}/openapi.json describes what there is.",
    )


async def _read_body(receive: Receive) -> bytes:
    parts, size, has_more = [], 0, True
    while has_more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientError(Code.INVALID_JSON, "The body broke off.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise ClientError(Code.BODY_TOO_LARGE, "The body is too long.", status=413)
        has_more = message.get("more_body", False)
    return b"".join(parts)


def _read(what: Any, body: bytes) -> Any:
    try:
        return msgspec.json.decode(body or b"{}", type=what)
    except msgspec.ValidationError as error:
        raise ClientError(
            Code.INVALID_PARAMETER, f"The body is not as it should be: {error}."
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClientError(Code.INVALID_JSON, f"The body is not JSON: {error}.") from None


def _read_query(what: Any, query: bytes) -> Any:
    fields = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    try:
        return msgspec.convert(fields, type=what, strict=False)
    except msgspec.ValidationError as error:
        raise ClientError(
            Code.INVALID_PARAMETER, f"The query is not as it should be: {error}."
        ) from None


def _limit(page: Page) -> int:
    if not 1 <= page.limit <= MAX_PAGE:
        raise _invalid("limit", f"is {page.limit}, not from 1 to {MAX_PAGE}")
    return page.limit


def _span(span: Span, now_ms: int) -> tuple[int, int | None]:
    since_ms = 0 if span.since is None else read_since(span.since, "since", now_ms=now_ms)
    until_ms = None if span.until is None else read_since(span.until, "until", now_ms=now_ms)
    return since_ms, until_ms


def _cursor(row: Attempt) -> str:
    return urlsafe_b64encode(msgspec.json.encode(row.place)).decode().rstrip("=")


def _read_cursor(text: str | None) -> Place | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Place)
    except (msgspec.MsgspecError, ValueError):
        raise _invalid("after", "is not `next` of a page") from None


def _read_skip(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise _invalid("after", "is not `next` of a page")
    return int(text)


def _issued(issued: list[IssuedKey], now_ms: int) -> IssuedList:
    return IssuedList([told_issued(it, now_ms=now_ms) for it in issued])


def _invalid(param: str, message: str) -> ClientError:
    return ClientError(Code.INVALID_PARAMETER, f"`{param}` {message}.", param=param)
