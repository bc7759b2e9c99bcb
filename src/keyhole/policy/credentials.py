"""What a request shows of a key, and what a key lets it do; from then on that keys exist.

It looks nothing up: `identify` is given what the worker holds and how to find the rest. While no
key has ever existed `access` decides alone, and no credential is looked at. A key lets in from
any address and under any `Host`: a web page that reached Keyhole by DNS rebinding, or a page of
another origin, has no key to show, and a browser asks before it sends one (CORS,
`access.cors_headers`, which answers for the configured origins only).

No error repeats any of a credential. The key itself is compared as the SHA-256 of all of it: what
a lookup's duration tells of a digest tells nothing of the secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from urllib.parse import unquote_to_bytes

from keyhole.catalog import DEFAULT_ROUTE, does_match
from keyhole.errors import ClientError, Code
from keyhole.wire.http import Head
from keyhole.wire.keys import KEY_CHARS, Key, LiveKey, is_well_typed

SEND_IT_SO = "Send your key as 'Authorization: Bearer kh_...' or 'x-api-key: kh_...'."
MAX_CREDENTIAL_BYTES = 4096
"""Longer than any token of anybody's; what is longer is not read."""

_KEY_LIKE = re.compile(r"(?:kh|ka|hf)_[0-9A-Za-z]{16,}", re.ASCII)
"""Ours, the admin key's and Hugging Face's; far longer than such a part of a model's name."""
_KEY_LIKE_BYTES = re.compile(_KEY_LIKE.pattern.encode())
_NAMED_KEY = re.compile(
    rb"(?:^|[&;])(?:x-)?(?:api[_-]?key|key|access[_-]?token|auth[_-]?token|token|authorization)="
    rb"[^&;]",
    re.IGNORECASE,
)
_MASK = "***"
_USUAL = b"Bearer kh_"
_USUAL_BYTES = 7 + KEY_CHARS


def shows_key(query: bytes) -> bool:
    """Whether a query string holds something like a key, by its look or by its name."""
    if b"%" in query:
        query = unquote_to_bytes(query)
    return _KEY_LIKE_BYTES.search(query) is not None or _NAMED_KEY.search(query) is not None


def mask_keys(path: str) -> str:
    """A path without what looks like a key, for the log."""
    if "_" not in path and "%" not in path:
        return path
    masked = _KEY_LIKE.sub(_MASK, path)
    return _MASK if _is_key_in(masked) else masked  # one that is written with escapes


def identify(
    head: Head,
    *,
    held: Mapping[bytes, LiveKey],
    find: Callable[[bytes], LiveKey | None],
    unix_ms: int,
) -> LiveKey:
    """The key that lets a request in.

    `held` is what the worker has in memory, by digest; `find` looks further, and is asked only
    for what can be a key. Raises ClientError (400, 401), and what `find` raises.
    """
    credential = read_credential(head)
    digest = sha256(credential).digest()
    live = held.get(digest)
    if live is None or unix_ms >= live.good_until_ms:
        check_form(credential)
        live = find(digest)
    key = None if live is None else live.key
    if live is None or key is None or not compare_digest(key.digest, digest):
        raise _refused(
            Code.KEY_UNKNOWN,
            "There is no such key.",
            hint="It is typed as keys are, but it is not of this Keyhole; ask who gave it to you.",
        )
    if unix_ms >= live.good_until_ms:
        check_life(key, unix_ms)
    return live


def read_credential(head: Head) -> bytes:
    """What a request shows, without the scheme; raises ClientError (400, 401).

    A request that shows two different ones is refused: nobody can tell which is meant.
    """
    if head.shows_key_in_query or "_" in head.path or "%" in head.path:
        _check_url(head)
    # A known key costs 0.75 us here and in `identify`, most of it this loop and the digest.
    bearer = other = None
    for name, value in head.headers:
        if name == b"authorization":
            if bearer is not None:
                raise _ambiguous("several Authorization headers")
            bearer = value
        elif name == b"x-api-key":
            if other is not None:
                raise _ambiguous("several x-api-key headers")
            other = value
    if bearer is not None and len(bearer) == _USUAL_BYTES and bearer[:10] == _USUAL:
        return bearer[7:] if other is None else _choose(bearer, other)
    return _choose(bearer, other)


def _choose(bearer: bytes | None, other: bytes | None) -> bytes:
    """The credential out of the two headers; raises ClientError (400, 401)."""
    if bearer is None:
        return _sane(b"" if other is None else other.strip())
    shown = _sane(_without_scheme(bearer))
    if other is not None and not compare_digest(other.strip(), shown):
        raise _ambiguous("one key in Authorization and another one in x-api-key")
    return shown


def check_form(credential: bytes) -> None:
    """Raise ClientError (401) for what cannot be a key, and say what it is instead."""
    if credential.startswith(b"hf_"):
        raise _refused(
            Code.HF_TOKEN_SENT,
            "Your client sent its own Hugging Face token; Keyhole wants a key of its own.",
            hint="Pass token='kh_...' (api_key='kh_...'), or set HF_TOKEN=kh_... for this client."
            " The token was not kept and went nowhere.",
        )
    if credential.startswith(b"ka_"):
        raise _refused(
            Code.NOT_A_KEY,
            "That looks like the admin key, which lets in only at /admin/v1/ and /metrics.",
            hint="Make a key for calls with keyhole key create.",
        )
    if not credential.startswith(b"kh_"):
        raise _refused(
            Code.NOT_A_KEY,
            "The credential is not a key of Keyhole's: those begin with kh_.",
            hint=SEND_IT_SO,
        )
    if not credential.isascii() or not is_well_typed(credential.decode("ascii")):
        raise _refused(
            Code.KEY_MISTYPED,
            "The key is mistyped: its last characters do not fit the others.",
            hint="Copy it again, all 52 characters of it.",
        )


def check_life(key: Key, unix_ms: int) -> None:
    """Raise ClientError (401) for a key that is revoked or has expired, and say since when."""
    if key.revoked_at_ms is not None:
        raise _refused(
            Code.KEY_REVOKED,
            f"The key was revoked on {_at(key.revoked_at_ms)}.",
            hint="Ask who gave it to you for another one.",
        )
    if key.expires_at_ms is not None and unix_ms >= key.expires_at_ms:
        hint = "Ask who gave it to you for another one."
        if key.rotated_to is not None:
            hint = "It was replaced: use its successor."
        raise _refused(Code.KEY_EXPIRED, f"The key expired on {_at(key.expires_at_ms)}.", hint=hint)


def may_use(key: Key | None, model: str | None) -> bool:
    """Whether a key may use a model by its public name; None is the default one."""
    if key is None or not key.models:
        return True
    name = DEFAULT_ROUTE if model is None else model
    return name in key.models or any(does_match(pattern, name) for pattern in key.models)


def check_model(key: Key | None, model: str | None) -> None:
    """Raise ClientError (403) for a model that a key may not use."""
    if key is None or may_use(key, model):
        return
    what = "the default model" if model is None else f"the model '{model}'"
    listed = ", ".join(key.models[:10])
    raise ClientError(
        Code.MODEL_NOT_ALLOWED,
        f"The key '{key.name}' may not use {what}.",
        status=403,
        hint=f"It may use: {listed}.",
        model=model,
        param="model",
    )


def check_admin(head: Head, is_admin_key: Callable[[bytes], bool]) -> None:
    """Raise ClientError (400, 401) for a request that does not show the admin key."""
    try:
        is_admin = is_admin_key(read_credential(head))
    except ClientError as error:
        if error.code is not Code.KEY_MISSING:
            raise
        is_admin = False
    if not is_admin:
        raise _refused(
            Code.ADMIN_KEY_NEEDED,
            "Only the admin key lets in here.",
            hint="Send it as 'Authorization: Bearer ...'; it is in KEYHOLE_ADMIN_KEY, or in"
            " admin.key in the state directory.",
        )


def _check_url(head: Head) -> None:
    if head.shows_key_in_query or _is_key_in(head.path):
        raise ClientError(
            Code.KEY_IN_URL,
            "A key must not stand in the URL: URLs are written down in logs and histories.",
            hint=f"{SEND_IT_SO} Have this one replaced if it was in a URL that others saw.",
        )


def _is_key_in(path: str) -> bool:
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    return _KEY_LIKE.search(path) is not None


def _without_scheme(value: bytes) -> bytes:
    """RFC 9110, section 11.4: schemes are compared whatever their case."""
    if value[:7].lower() == b"bearer ":
        return value[7:].strip()
    scheme, space, rest = value.strip().partition(b" ")
    if not space:  # 'Bearer' with nothing, or a bare key, as some clients send
        return b"" if scheme.lower() == b"bearer" else scheme
    if scheme.lower() == b"bearer":
        return rest.strip()
    raise _refused(
        Code.NOT_A_KEY, "The Authorization header is not of the Bearer scheme.", hint=SEND_IT_SO
    )


def _sane(credential: bytes) -> bytes:
    if not credential:
        raise _missing()
    if len(credential) > MAX_CREDENTIAL_BYTES:
        raise _refused(
            Code.NOT_A_KEY,
            f"The credential is longer than {MAX_CREDENTIAL_BYTES} bytes; a key has 52.",
            hint=SEND_IT_SO,
        )
    return credential


def _missing() -> ClientError:
    return _refused(Code.KEY_MISSING, "A key is needed.", hint=SEND_IT_SO)


def _ambiguous(what: str) -> ClientError:
    return ClientError(
        Code.KEY_AMBIGUOUS, f"The request shows {what}.", hint="Send one key, in one header."
    )


def _refused(code: Code, message: str, *, hint: str) -> ClientError:
    return ClientError(code, message, status=401, hint=hint)


@lru_cache(maxsize=256)
def _at(unix_ms: int) -> str:
    """A time for people, to the second; of UTC."""
    try:
        when = datetime.fromtimestamp(unix_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return "a day out of all calendars"
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"
