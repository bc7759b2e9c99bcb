"""All settings: what the sections say, and which of file, environment and flag wins.

It creates no file and reads only what `Inputs` names; acting on the settings is `main`'s.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from keyhole.backends.base import Backend
from keyhole.catalog import Access, Catalog
from keyhole.config.document import ConfigError, Document, Problem, read_document
from keyhole.config.prices import PRICE, read_prices
from keyhole.config.routes import ROUTE, builtin_routes, read_routes
from keyhole.config.tokens import BadToken, FoundToken, expand_home, find_hf_token, read_secret
from keyhole.config.upstreams import UPSTREAM, UpstreamReader
from keyhole.config.values import (
    MAX_SOCKET_PATH_BYTES,
    Check,
    SecretPlace,
    Wrong,
    check_ledger_url,
    flag,
    ledger_url,
    list_of,
    listen,
    meant,
    one_of,
    origin,
    quoted,
    seconds,
    whole,
)
from keyhole.policy.pricing import Price
from keyhole.secret import Secret
from keyhole.wire.keys import Limits

DEFAULT_LISTEN = "127.0.0.1:5000"
DEFAULT_FILE = "keyhole.toml"

_ONCE: Mapping[str, Mapping[str, Check]] = {
    "server": {
        "listen": listen,
        "allowed_origins": list_of(origin, example='["https://app.example.org"]'),
        "max_body_bytes": whole(1024, 1024**3, unit="bytes"),
        "drain_timeout_s": seconds(0, 3600),
        "read_timeout_s": seconds(0.001, 3600),
        "idle_timeout_s": seconds(0.001, 3600),
        "max_buffered_bytes": whole(1024, 2**50, unit="bytes"),
        "loading_patience_s": seconds(0, 3600),
        "builtin_routes": flag,
    },
    "stream": {
        "heartbeat_s": seconds(0, 3600),
        "max_frame_bytes": whole(1024, 1024**3, unit="bytes"),
        "on_client_gone": one_of("close", "drain"),
    },
    "log": {"format": one_of("auto", "text", "json"), "texts": flag},
    "engine": {"threads": whole(1, 1024), "max_waiting": whole(0, 100_000)},
    "keys": {"max_stale_s": seconds(1, 864_000)},
    "limits": {"unknown_price": one_of("zero", "refuse")},
    "journal": {
        "keep": flag,
        "fsync": one_of("never", "interval", "always"),
        "max_bytes": whole(1024**2, 2**50, unit="bytes"),
    },
    "ledger": {
        "url": ledger_url,
        "rows_days": whole(1, 36500, unit="days"),
        "rollups_days": whole(1, 36500, unit="days"),
    },
}
_NAMED: Mapping[str, Mapping[str, Check]] = {
    "upstream": UPSTREAM,
    "route": ROUTE,
    "price": PRICE,
}

SETTINGS: Mapping[str, tuple[str, ...]] = {
    **{section: tuple(checks) for section, checks in _ONCE.items()},
    **{f"{section}.NAME": tuple(checks) for section, checks in _NAMED.items()},
}
"""Every section of the file and its keys, for the docs to be checked against."""


class Listen(Struct, frozen=True):
    """Where Keyhole listens; port 0 is any free one."""

    host: str
    port: int


class StreamSettings(Struct, frozen=True):
    """How replies are streamed."""

    heartbeat_s: float = 15
    """How long one may be silent before its client gets a comment; 0 for ever."""
    max_frame_bytes: int = 1024 * 1024
    """The longest frame that is taken from an upstream."""
    on_client_gone: Literal["close", "drain"] = "close"
    """What becomes of an upstream's stream whose client has left: it is closed, and its tokens
    are counted; or it is read to its end, for the count that the upstream reports."""


class LogSettings(Struct, frozen=True):
    """How the log is written, and whether prompts and answers stand in it."""

    format: Literal["auto", "text", "json"] = "auto"
    texts: bool = False


class EngineSettings(Struct, frozen=True):
    """The bounds of the embedded model server."""

    threads: int | None = None
    """None: as many as the machine has cores."""
    max_waiting: int | None = None
    """How many requests may wait for each model; None: the engine's own bound."""


class KeySettings(Struct, frozen=True):
    """How the copy of the keys is used."""

    max_stale_s: float = 86400
    """How old the last look at the database may be before keys are believed no more."""


class LimitSettings(Struct, frozen=True):
    """What is limited by the configuration alone."""

    unknown_price: Literal["zero", "refuse"] = "zero"
    """What a model costs that nobody knows the price of; `refuse` asks none for it."""
    upstreams: Mapping[str, Limits] = {}
    """The operator's own limits, by upstream; those without any are not here."""


class JournalSettings(Struct, frozen=True):
    """How the journal is written."""

    fsync: Literal["never", "interval", "always"] = "interval"
    """When its lines are forced to the disk: by the system, once a second, or each by itself."""
    max_bytes: int = 1024**3
    """Of all its segments together."""
    keep: bool = True
    """Whether there is one at all; without, nobody learns what was used."""


class LedgerSettings(Struct, frozen=True):
    """Where the books are, and for how long."""

    url: Secret | None = None
    """The database's URL, which may hold a password; None: SQLite in the data folder."""
    rows_days: int = 90
    rollups_days: int = 730


class Settings(Struct, frozen=True, kw_only=True):
    """All that the operator decided, resolved."""

    listen: Listen
    data: Path
    config_path: Path | None
    max_body_bytes: int = 2 * 1024 * 1024
    drain_timeout_s: float = 30
    read_timeout_s: float = 30
    idle_timeout_s: float = 75
    max_buffered_bytes: int = 256 * 1024 * 1024
    loading_patience_s: float = 10
    access: Access
    catalog: Catalog
    stream: StreamSettings
    log: LogSettings
    engine: EngineSettings
    keys: KeySettings = KeySettings()
    limits: LimitSettings = LimitSettings()
    prices: Mapping[str, Price] = {}
    """What the operator says that models cost, by UPSTREAM/MODEL or UPSTREAM/*."""
    journal: JournalSettings = JournalSettings()
    ledger: LedgerSettings = LedgerSettings()
    hf_token_from: str | None
    """For people: the variable or file that the machine's Hugging Face token is from, if any."""


class Inputs(Struct, frozen=True, kw_only=True):
    """Everything that comes from outside, so that nothing is read behind the caller's back."""

    config: Path | None = None
    """--config"""
    data: Path | None = None
    """--data"""
    listen: str | None = None
    """--listen"""
    environ: Mapping[str, str]
    cwd: Path
    home: Path


EngineModels = Callable[[Path], Sequence[str]]
"""The names of the models that the engine has in a data folder, the demo model first."""


def load(
    inputs: Inputs, *, backends: Mapping[str, Backend], engine_models: EngineModels
) -> Settings:
    """The settings of a configuration file, or of none; raises ConfigError with every problem."""
    problems: list[Problem] = []
    data = _data_folder(inputs, problems)
    config_path, document = _open_document(inputs)
    token = _find_token(inputs, problems)
    sections = _read_sections(document)
    server = sections["server"]
    reader = UpstreamReader(
        document,
        backends=backends,
        engine_url=f"unix:{engine_socket(data, inputs.environ)}",
        token=token,
        read_secret=_secret_reader(inputs, config_path),
    )
    upstreams = reader.read()
    routes = read_routes(document, upstreams)
    if server.pop("builtin_routes", True):
        models = engine_models(data) if not problems else ()
        routes |= builtin_routes(upstreams, models, routes)
    elif not document.tables.get("route"):
        message = "without the built-in routes and with none in this file, nothing would be served"
        document.blame(("server", "builtin_routes"), message, "add a [route.NAME]")
    settings = Settings(
        listen=_listen(inputs, server.pop("listen", None), problems),
        data=data,
        config_path=config_path,
        access=Access(allowed_origins=server.pop("allowed_origins", ())),
        catalog=Catalog(
            upstreams={name: upstream for name, upstream in upstreams.items() if upstream},
            exact={name: route for name, route in routes.items() if not route.is_pattern},
            patterns=tuple(route for route in routes.values() if route.is_pattern),
        ),
        stream=StreamSettings(**sections["stream"]),
        log=LogSettings(**sections["log"]),
        engine=EngineSettings(**sections["engine"]),
        keys=KeySettings(**sections["keys"]),
        limits=LimitSettings(**sections["limits"], upstreams=reader.limits),
        prices=read_prices(document, upstreams),
        journal=JournalSettings(**sections["journal"]),
        ledger=_ledger(sections["ledger"], document, _secret_reader(inputs, config_path)),
        hf_token_from=token.found_in if token else None,
        **server,
    )
    if problems or document.problems:
        raise ConfigError([*problems, *document.problems])
    return settings


def engine_socket(data: Path, environ: Mapping[str, str]) -> Path:
    """Where the engine's Unix socket is: in the data folder, unless that path is too long.

    Then it is named by a hash of the data folder, in $XDG_RUNTIME_DIR or else in a folder of
    the user's own under the temporary directory, which whoever binds it has to make (0700).
    """
    plain = data / "engine.sock"
    if _fits(plain):
        return plain
    name = f"keyhole-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}.sock"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    own = f"keyhole-{os.getuid()}"
    candidates = [
        *([Path(runtime, name)] if runtime.startswith("/") else []),
        Path(environ.get("TMPDIR") or "/tmp", own, name),  # noqa: S108  # a folder of our own there
    ]
    return next(filter(_fits, candidates), Path("/tmp", own, name))  # noqa: S108


def _read_sections(document: Document) -> dict[str, dict[str, Any]]:
    """The values of every section that stands once; unknown sections become problems."""
    known = [*_ONCE, *_NAMED]
    for name, table in document.tables.items():
        if name in known:
            continue
        holders = [section for section, checks in _ONCE.items() if name in checks]
        if holders and not isinstance(table, dict):
            document.blame((name,), "stands in no section", f"write it under [{holders[0]}]")
        else:
            document.blame((name,), "unknown section", meant(name, known))
    return {
        name: document.section((name,), document.tables.get(name, {}), checks)
        for name, checks in _ONCE.items()
    }


def _ledger(
    values: dict[str, Any], document: Document, read: Callable[[SecretPlace], Secret]
) -> LedgerSettings:
    """The ledger's settings; its URL from where the file says that it is."""
    url = values.pop("url", None)
    if isinstance(url, SecretPlace):
        try:
            url = read(url)
            check_ledger_url(url.reveal())
        except Wrong as wrong:
            document.blame_wrong(("ledger", "url"), wrong)
            url = None
    return LedgerSettings(url=url, **values)


def _secret_reader(inputs: Inputs, config_path: Path | None) -> Callable[[SecretPlace], Secret]:
    folder = config_path.parent if config_path else inputs.cwd

    def read(place: SecretPlace) -> Secret:
        return read_secret(place, environ=inputs.environ, folder=folder, home=inputs.home)

    return read


def _data_folder(inputs: Inputs, problems: list[Problem]) -> Path:
    environ = inputs.environ
    if inputs.data is not None:
        named_by, path = "--data", inputs.data
    elif environ.get("KEYHOLE_DATA"):
        named_by, path = "KEYHOLE_DATA", Path(environ["KEYHOLE_DATA"])
    else:
        # The XDG base directory specification has relative paths ignored.
        base = environ.get("XDG_DATA_HOME", "")
        folder = Path(base) if base.startswith("/") else inputs.home / ".local" / "share"
        named_by, path = "the data folder", folder / "keyhole"
    path = _absolute(path, inputs)
    try:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(0, "it is not a directory")
    except OSError as error:
        message = f"cannot use {quoted(str(path))}: {error.strerror}"
        problems.append(Problem(named_by, 0, message))
    return path


def _open_document(inputs: Inputs) -> tuple[Path | None, Document]:
    """The configuration file, read; an empty document where there is none to read."""
    if inputs.config is not None:
        named_by, given = "--config", inputs.config
    elif inputs.environ.get("KEYHOLE_CONFIG"):
        named_by, given = "KEYHOLE_CONFIG", Path(inputs.environ["KEYHOLE_CONFIG"])
    elif os.path.lexists(inputs.cwd / DEFAULT_FILE):
        named_by, given = None, Path(DEFAULT_FILE)
    else:
        return None, Document(DEFAULT_FILE, {}, {})
    path = _absolute(given, inputs)
    return path, read_document(path, name=str(given), named_by=named_by)


def _find_token(inputs: Inputs, problems: list[Problem]) -> FoundToken | None:
    try:
        return find_hf_token(inputs.environ, inputs.home)
    except BadToken as bad:
        hint = "set HF_TOKEN anew, or run 'hf auth login'"
        problems.append(Problem(bad.found_in, 0, bad.message, hint))
        return None


def _listen(inputs: Inputs, of_file: tuple[str, int] | None, problems: list[Problem]) -> Listen:
    """Where to listen: --listen, else the file's, else the default."""
    host, port = of_file or listen(DEFAULT_LISTEN)
    if inputs.listen is not None:
        try:
            host, port = listen(inputs.listen)
        except Wrong as wrong:
            problems.append(Problem("--listen", 0, wrong.message, wrong.hint))
    return Listen(host, port)


def _absolute(path: Path, inputs: Inputs) -> Path:
    return inputs.cwd / expand_home(str(path), inputs.home)


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES
