"""What a single value of the configuration must look like; each check returns it or is Wrong.

A check knows neither its key nor its line, opens nothing and looks nothing up; those are
`document`, `tokens` and `settings`. What a check repeats of a value goes through
`shown`, because a secret may stand anywhere by mistake.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from keyhole.catalog import AS_ASKED, is_model_name
from keyhole.secret import Secret
from keyhole.wire.amounts import BUDGET_HINT, NotAnAmountError, parse_budget, parse_usd
from keyhole.wire.keys import Budget

Check = Callable[[object], Any]
"""Takes what TOML gave; returns the value as it will be used. Raises Wrong, or a group of it."""

# sun_path holds 104 bytes on macOS and 108 on Linux, a closing zero included.
MAX_SOCKET_PATH_BYTES = 103

# What looks like a token: a known prefix, or a long run of letters and digits without a break.
_LIKE_A_SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_\w{6,}|(?:sk|xai|nvapi)-[\w-]{6,}|(?:gsk|ghp|api|key)_\w{8,})"
    r"|(?=[A-Za-z]*[0-9])[A-Za-z0-9]{24,}",
    re.ASCII,
)
HIDDEN = "<hidden, in case it is a secret>"
_UPSTREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ORGANISATION = re.compile(r"[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", re.ASCII)
_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII
)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII)
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*", re.ASCII)
_MAX_USD_PER_MILLION = 1_000_000
_USUAL_PORTS = {"http": "80", "https": "443"}


class Wrong(Exception):  # noqa: N818  # an answer of a check, not a failure of the program
    """What is wrong with a value, and what would be right; never holds a secret."""

    def __init__(self, message: str, hint: str | None = None, *, where: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where
        """The index of the item of an array that it is about."""


class SecretPlace(Struct, frozen=True):
    """Where the configuration says that a secret is: exactly one of the two."""

    env: str | None = None
    file: str | None = None


def quoted(value: str) -> str:
    """A value for people: in quotes, on one line, not too long."""
    short = value if len(value) <= 200 else value[:197] + "..."
    return "'" + "".join(c if c.isprintable() else repr(c)[1:-1] for c in short) + "'"


def shown(value: str) -> str:
    """The same for a value of the configuration, where anything may be a secret by mistake."""
    return HIDDEN if _LIKE_A_SECRET.search(value) else quoted(value)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, if any is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def meant(name: str, known: Iterable[str]) -> str:
    """A did-you-mean for a name that is not known; without a close one, all that are."""
    names = list(known)
    close = closest(name, names)
    if close:
        return f"did you mean {_listed(close)}?"
    return f"there are: {', '.join(map(_listed, names))}"


def _listed(name: str) -> str:
    """A known name in a list: plain, unless that would not show it or show too much."""
    is_plain = name and name.isprintable() and not _LIKE_A_SECRET.search(name)
    return name if is_plain else shown(name)


def flag(value: object) -> bool:
    """Either true or false."""
    if not isinstance(value, bool):
        raise _not_a("true or false", value)
    return value


def text(value: object) -> str:
    """A string that is not empty, on one line."""
    if not isinstance(value, str):
        raise _not_a("a string", value)
    if not value.strip():
        raise Wrong("must not be empty")
    if not value.isprintable():
        raise Wrong("must not hold line breaks or control characters")
    return value


def whole(at_least: int, at_most: int, *, unit: str = "") -> Check:
    """A check for a whole number between the two, both included."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _not_a("a whole number" + (f" of {unit}" if unit else ""), value)
        if not at_least <= value <= at_most:
            raise Wrong(f"must be from {at_least} to {at_most}, not {_number(value)}")
        return value

    return check


def seconds(at_least: float, at_most: float) -> Check:
    """A check for a duration in seconds between the two, both included."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _not_a("a number of seconds", value)
        if not at_least <= value <= at_most:
            raise Wrong(f"must be from {at_least:g} to {at_most:g} seconds, not {_number(value)}")
        return float(value)

    return check


def budget(value: object) -> Budget:
    """A budget, as in "20/month" or "2Mtok/day"."""
    if not isinstance(value, str):
        raise _not_a("a string", value, hint=BUDGET_HINT)
    try:
        return parse_budget(value)
    except NotAnAmountError as error:
        raise Wrong(f"{shown(value)} {error.message}", error.hint) from None


def usd_per_million(value: object) -> int:
    """Dollars per million tokens, as micro-dollars.

    TOML's numbers with a fraction are floats; the shortest text of one is what was written.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _not_a("a number of dollars per million tokens", value)
    if not 0 <= value <= _MAX_USD_PER_MILLION:
        raise Wrong(f"must be from 0 to {_MAX_USD_PER_MILLION} dollars, not {_number(value)}")
    try:
        return parse_usd(format(Decimal(repr(value)), "f").removesuffix(".0"))
    except NotAnAmountError as error:
        raise Wrong(error.message, error.hint) from None


def ledger_url(value: object) -> Secret | SecretPlace:
    """Where the ledger's database is: a URL, or the place of one that holds a password."""
    if not isinstance(value, str):
        return secret_place(value)
    given = text(value)
    hint = 'write { env = "NAME" } or { file = "PATH" } in place of the URL'
    parts = check_ledger_url(given)
    if parts.password is not None or "password" in parts.query.lower():
        raise Wrong("a password must not stand in this file", hint)
    try:
        return Secret(given)
    except ValueError:
        raise Wrong("must be a URL in ASCII, without spaces") from None


def check_ledger_url(given: str) -> SplitResult:
    """The parts of a database's URL; raises Wrong, which does not repeat it."""
    hint = "such as postgresql://user@host/keyhole or sqlite:////var/lib/keyhole/ledger.sqlite"
    try:
        parts = urlsplit(given)
        port = parts.port
    except ValueError:
        raise Wrong("is not a URL", hint) from None
    if parts.scheme not in {"postgresql", "sqlite"} or "://" not in given:
        raise Wrong("must begin with postgresql:// or sqlite:////", hint)
    is_file = parts.scheme == "sqlite"
    if is_file and (parts.netloc or not parts.path.startswith("//") or len(parts.path) < 3):
        raise Wrong("must have an absolute path after sqlite:///", hint)
    if not is_file and (not parts.path.strip("/") or port == 0):
        raise Wrong("must name a database", hint)
    return parts


def one_of(*words: str) -> Check:
    """A check for one of these words."""

    def check(value: object) -> str:
        word = text(value)
        if word not in words:
            raise Wrong(f"{shown(word)} is not known", meant(word, words))
        return word

    return check


def list_of(item: Check, *, at_least: int = 0, example: str) -> Check:
    """A check for an array whose items pass another check."""

    def check(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _not_a("an array", value, hint=f"such as {example}")
        if len(value) < at_least:
            raise Wrong("must not be empty", f"such as {example}")
        good: list[Any] = []
        wrongs: list[Wrong] = []
        for index, entry in enumerate(value):
            try:
                good.append(item(entry))
            except Wrong as wrong:
                wrong.where = index
                wrongs.append(wrong)
        if wrongs:
            raise ExceptionGroup("items of an array", wrongs)
        return tuple(good)

    return check


def listen(value: object) -> tuple[str, int]:
    """A HOST:PORT to listen on, as host (no brackets) and port; port 0 is any free one."""
    address = text(value) if isinstance(value, str) else None
    if address is None:
        raise _not_a("a string", value, hint='write HOST:PORT, such as "127.0.0.1:5000"')
    found = _ADDRESS.fullmatch(address)
    if found is None:
        hint = "write HOST:PORT, such as 127.0.0.1:5000"
        if address.count(":") > 1 and "[" not in address:
            hint = "an IPv6 address stands in brackets, such as [::1]:5000"
        raise Wrong(f"{shown(address)} is not HOST:PORT", hint)
    port = int(found[3])
    if port > 65535:
        raise Wrong(f"the port must be from 0 to 65535, not {port}")
    return found[1] or found[2], port


def origin(value: object) -> str:
    """An origin as browsers send it: scheme://host[:port], lower case, no usual port."""
    given = text(value)
    if given == "*":
        raise Wrong(
            "'*' would let every web page in the world use your token",
            "name each origin, such as https://app.example.org",
        )
    if given.lower() == "null":
        raise Wrong(
            "'null' is the origin of any sandboxed page or local file, not of yours alone",
            "serve the page over http, and name that origin",
        )
    found = _ORIGIN.fullmatch(given.lower())
    if found is None:
        raise Wrong(
            f"{shown(given)} is not an origin",
            "write scheme://host or scheme://host:port, with no path and no slash at the end",
        )
    scheme, host, port = found.groups()
    if port is not None and not 0 < int(port) <= 65535:
        raise Wrong(f"the port must be from 1 to 65535, not {port}")
    if port is None or port == _USUAL_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def url(value: object) -> str:
    """An upstream's base: http, https or unix, without a slash at the end.

    No message repeats it: before its parts are checked, it may hold a password.
    """
    given = text(value)
    if given.startswith("unix:"):
        return _socket_url(given)
    parts = _split(given)
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise Wrong(
            "must not hold a user name or password",
            'give the secret as token = { env = "NAME" }',
        )
    if "?" in given or "#" in given:
        raise Wrong("must not hold a query (?) or a fragment (#)")
    found = _HOST.fullmatch(parts.netloc.lower())
    if found is None or (found[2] is not None and not 0 < int(found[2]) <= 65535):
        raise Wrong("must have a host, and a port from 1 to 65535 or none")
    if _URL_PATH.fullmatch(parts.path) is None or {".", ".."} & set(parts.path.split("/")):
        raise Wrong("must have a plain path: no spaces, no '.' or '..', the rest %-escaped")
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def organisation(value: object) -> str:
    """The name of an organisation, as it stands in an HTTP header."""
    name = text(value)
    if not _ORGANISATION.fullmatch(name):
        raise Wrong("is not the name of an organisation", "as in huggingface.co/NAME")
    return name


def secret_place(value: object) -> SecretPlace:
    """Where a secret is; a literal is refused, and never repeated."""
    hint = 'write { env = "NAME" } or { file = "PATH" }'
    if isinstance(value, str):
        raise Wrong("a secret itself must not stand in this file", hint)
    if not isinstance(value, dict):
        raise _not_a("a table", value, hint=hint)
    for key in value:
        if key not in {"env", "file"}:
            raise Wrong(f"unknown key {shown(key)}", meant(key, ("env", "file")))
    if len(value) != 1:
        raise Wrong("must have one of env and file", hint)
    ((key, place),) = value.items()
    if not isinstance(place, str) or not place or not place.isprintable():
        raise Wrong(f"{key} must be a string that is not empty", hint)
    if key == "env" and not _VARIABLE.fullmatch(place):
        raise Wrong("env must be the name of an environment variable", hint)
    return SecretPlace(**{key: place})


def check_upstream_name(name: str) -> None:
    """Raise Wrong for a name that no target could use."""
    if not _UPSTREAM_NAME.fullmatch(name):
        raise Wrong(
            f"{shown(name)} is not a name for an upstream",
            "use letters, digits, - and _, at most 64",
        )


def check_route_name(name: str) -> None:
    """Raise Wrong for what can be neither a model's public name nor a pattern of names."""
    if "**" in name or not is_model_name(name.replace("*", "x")):
        raise Wrong(
            f"{shown(name)} is not a name or pattern of models",
            "such as gpt2, owner/name or owner/*; a * stands for anything but a slash",
        )


def target(value: object) -> tuple[str, str]:
    """UPSTREAM/MODEL, as the two; the model may be `*`."""
    given = text(value)
    upstream, slash, model = given.partition("/")
    if not slash:
        raise Wrong(f"{shown(given)} is not UPSTREAM/MODEL", "such as engine/keyhole-demo")
    if "*" in model and model != AS_ASKED:
        raise Wrong(f"{shown(given)} has a * within its model", "a * alone is the name as asked")
    if model != AS_ASKED and not is_model_name(model):
        raise Wrong(
            f"{shown(given)} names no model behind its upstream",
            "a model is one to four names with slashes between, such as owner/name",
        )
    return upstream, model


def not_a_table(value: object, hint: str) -> Wrong:
    """The complaint about something that should have been a table."""
    return _not_a("a table", value, hint=hint)


def _number(value: object) -> str:
    """For people; Python refuses to write out a number of some thousand digits."""
    is_long = isinstance(value, int) and abs(value) >= 10**20
    return "a number of many digits" if is_long else str(value)


def _split(given: str) -> SplitResult:
    try:
        parts = urlsplit(given)
    except ValueError:
        raise Wrong("is not a URL", "such as http://127.0.0.1:8080") from None
    if parts.scheme.lower() not in {"http", "https"} or "://" not in given:
        raise Wrong(
            "must begin with http://, https:// or unix:/",
            "such as http://127.0.0.1:8080 or unix:/run/engine.sock",
        )
    return parts


def _socket_url(given: str) -> str:
    path = given.removeprefix("unix:")
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    if not path.startswith("/") or path == "/":
        raise Wrong("must have an absolute path after unix:", "such as unix:/run/engine.sock")
    if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
        raise Wrong(f"the path of a socket is at most {MAX_SOCKET_PATH_BYTES} bytes long")
    return f"unix:{path}"


def _not_a(wanted: str, value: object, *, hint: str | None = None) -> Wrong:
    names: tuple[tuple[type, str], ...] = (
        (bool, "true or false"),
        (str, "a string"),
        (int, "a whole number"),
        (float, "a number with a fraction"),
        (list, "an array"),
        (dict, "a table"),
    )
    got = next((name for kind, name in names if isinstance(value, kind)), "a date or time")
    return Wrong(f"must be {wanted}, not {got}", hint)
