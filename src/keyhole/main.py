"""The composition root: the only file that names concrete classes.

Everything above it (the command line, the worker, the doors that others open) asks it for
Settings and for a Runtime; everything below it gets its parts as arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from keyhole import __version__
from keyhole.backends.base import Backend
from keyhole.backends.hf_inference import HfInference
from keyhole.backends.huggingface import HuggingFaceRouter
from keyhole.backends.openai import OpenAi
from keyhole.backends.tgi import Engine, Tgi
from keyhole.bookkeeping import open_books
from keyhole.catalog import DEFAULT_ROUTE, Catalog
from keyhole.config import Inputs, Settings, engine_socket, load
from keyhole.dialects.generate import GenerateDialect
from keyhole.dialects.huggingface import HuggingFaceDialect
from keyhole.dialects.openai.client import OpenAiDialect, models_page
from keyhole.dialects.tgi_client import (
    GENERATE_PATH,
    INFO_PATH,
    TgiDialect,
    TgiInfoDialect,
    TgiRootDialect,
    TgiTokenizeDialect,
    health,
    info,
    is_tgi,
)
from keyhole.engine.library import Library
from keyhole.errors import ClientError, Code, SetupError
from keyhole.exchange import Gateway, Parts
from keyhole.io.admin_key import load_admin_key
from keyhole.io.clock import SystemClock
from keyhole.io.counters import MemoryCounters
from keyhole.io.refusals import RefusalRing
from keyhole.io.transport import PooledTransport
from keyhole.outbox import Outbox
from keyhole.policy.credentials import check_admin, may_use
from keyhole.policy.paths import Paths
from keyhole.ports import Clock, Observer, Transport
from keyhole.server import page as playground
from keyhole.server.forwarding import AdminDoor
from keyhole.server.health import Readiness
from keyhole.server.log import AccessLog, Observers
from keyhole.server.metrics import Metrics
from keyhole.server.own_key import PATH as OWN_KEY_PATH
from keyhole.server.own_key import show_key, uses_of
from keyhole.supervisor import Command, Say, keep_alone, python_module
from keyhole.wire.http import Head, Page, Reply
from keyhole.wire.keys import Key
from keyhole.wire.mirror import FILE_NAME as MIRROR_FILE

if TYPE_CHECKING:
    from keyhole.ledger.database import Database

_ENGINE_VARIABLES = {"PATH", "HOME", "LANG", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
_ENGINE_PREFIXES = ("LC_", "PYTHON", "OPENBLAS_", "OMP_", "MKL_", "VECLIB_", "COVERAGE_")
_CLERK_STOPS_WITHIN_S = 15.0
"""A batch of the journal takes a second or two on a slow disk; none is lost when it is killed."""
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def backends() -> dict[str, Backend]:
    """Every kind of upstream, by kind."""
    kinds: tuple[Backend, ...] = (HfInference(), HuggingFaceRouter(), Tgi(), Engine(), OpenAi())
    return {backend.kind: backend for backend in kinds}


def paths(catalog: Catalog, pages: Mapping[str, Page]) -> Paths:
    """Every path, with what stands there."""
    generate, tgi, openai = GenerateDialect(), TgiDialect(), OpenAiDialect()
    models = models_page(catalog, int(time.time()), may_use)
    asks_info = _has_info(catalog)
    ours = {} if asks_info else {INFO_PATH: info_page}
    return Paths(
        [generate, tgi, TgiRootDialect(), TgiTokenizeDialect(), HuggingFaceDialect(), openai],
        {**pages, **playground.pages(), **ours, "/health": health_page, "/v1/models": models},
        generate,
        prefixes={"/v1/models/": models},
        others={GENERATE_PATH: (is_tgi, tgi)},
        words={"/v1/": openai},
        questions=[TgiInfoDialect()] if asks_info else [],
    )


def _has_info(catalog: Catalog) -> bool:
    """Whether an upstream of the default route tells TGI's clients about itself."""
    route, kinds = catalog.find(None), backends()
    targets = () if route is None else route.targets
    return any(isinstance(kinds[target.upstream.kind], Tgi) for target in targets)


def health_page(_: Head, __: Key | None) -> Reply:
    """What TGI's clients take for a server that is well."""
    return health()


def info_page(_: Head, __: Key | None) -> Reply:
    """What TGI's clients are told where no upstream tells them."""
    return info(DEFAULT_ROUTE, version=__version__)


def load_settings(
    *, config: Path | None = None, data: Path | None = None, listen: str | None = None
) -> Settings:
    """Settings from this process's environment and working directory; raises ConfigError."""
    inputs = Inputs(
        config=config,
        data=data,
        listen=listen,
        environ=os.environ,
        cwd=Path.cwd(),
        home=Path.home(),
    )
    return load(inputs, backends=backends(), engine_models=engine_models)


def engine_models(data: Path) -> list[str]:
    """The names of the models that the engine can run, the carried one first."""
    return [
        model.name for model in Library(models_dir(data)).list_models() if model.problem is None
    ]


def models_dir(data: Path) -> Path:
    """Where pulled models stand, as OWNER/NAME."""
    return data / "models"


def make_data_dir(data: Path) -> None:
    """Create the state directory for its owner alone; raises SetupError."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(data, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise SetupError(
            f"The state directory {data} cannot be used: {error.strerror}.",
            hint="choose another one with --data or KEYHOLE_DATA",
        ) from None


Role = Literal["server", "command", "visitor"]
"""Who opens a gateway: a server asks for keys and keeps books, a command of the operator's keeps
books, and a visitor, who only looks, neither."""


class Runtime(Struct, kw_only=True):
    """A running gateway with what belongs to it."""

    settings: Settings
    gateway: Gateway
    readiness: Readiness
    transport: Transport
    outbox: Outbox
    admin: AdminDoor | None = None
    """The way to the admin interface."""


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    keeps_engine: bool = True,
    keeps_clerk: bool = False,
    role: Role = "visitor",
    serves_admin: bool = False,
    is_local_only: bool = True,
    observers: Sequence[Observer] | None = None,
) -> AsyncIterator[Runtime]:
    """A gateway on the running loop, with an engine beside it where a route needs one.

    `keeps_engine` is False where a supervisor runs the engine; `keeps_clerk` is True for a door
    that serves without one: it is then waited for, because the keys come from it. The `role`
    says what is done of keys and books. Without `observers` of its own it writes the access log
    to standard error. Raises SetupError.
    """
    metrics, readiness = Metrics(), Readiness()
    outbox, clock = Outbox(), SystemClock()
    log = observers
    if log is None:
        log = (AccessLog(settings.log.format, sys.stderr, outbox=outbox),)
    observer = Observers(metrics, *log)
    transport = PooledTransport(outbox=outbox)
    keeper = engine_keeper(settings, say) if keeps_engine else None
    ready = asyncio.Event()
    clerk = clerk_keeper(settings, say, ready) if keeps_clerk else None
    async with _beside(keeper), _beside(clerk, until=ready), AsyncExitStack() as stack:
        stack.push_async_callback(transport.aclose)
        if role != "visitor" or serves_admin:
            make_data_dir(settings.data)
        books = await open_books(
            settings, clock, stack, keeps=role != "visitor", checks=role == "server", say=say
        )
        ring = _open_ring(settings, stack) if role == "server" else None
        is_admin_key = load_admin_key(settings.data, os.environ).matches if serves_admin else _no
        own_key: Page = partial(own_key_page, counters=books.counters, clock=clock)
        pages = {**readiness.pages(), **metrics.pages(), OWN_KEY_PATH: own_key}
        gateway = Gateway(
            Parts(
                catalog=settings.catalog,
                access=msgspec.structs.replace(settings.access, is_local_only=is_local_only),
                paths=paths(settings.catalog, pages),
                backends=backends(),
                keys=books.keys,
                is_admin_key=is_admin_key,
                accounts=books.accounts,
                transport=transport,
                clock=clock,
                observer=observer,
                alarms=transport.alarms,
                max_body_bytes=settings.max_body_bytes,
                max_frame_bytes=settings.stream.max_frame_bytes,
                heartbeat_s=settings.stream.heartbeat_s,
                loading_patience_s=settings.loading_patience_s,
                refusals=ring,
                drains_streams=settings.stream.on_client_gone == "drain",
                tells_texts=settings.log.texts,
            )
        )
        if books.mirrored is not None:
            books.mirrored.on_gone = gateway.revoke
        yield Runtime(
            settings=settings,
            gateway=gateway,
            readiness=readiness,
            transport=transport,
            outbox=outbox,
            admin=admin_door(settings, transport, observer, is_admin_key) if serves_admin else None,
        )


def _open_ring(settings: Settings, stack: AsyncExitStack) -> RefusalRing:
    """Where refusals are remembered for `keyhole explain`; closed with the stack."""
    ring = RefusalRing(settings.data)
    stack.callback(ring.close)
    return ring


def _no(_: bytes) -> bool:
    """Nobody is the operator where nothing is administered."""
    return False


def own_key_page(_: Head, key: Key | None, *, counters: MemoryCounters, clock: Clock) -> Reply:
    """What the holder of a key is told of it; raises ClientError where there is no key."""
    if key is None:
        raise ClientError(
            Code.KEY_MISSING, "This tells of a key, and none was needed or sent.", status=401
        )
    now_ms = clock.unix_ms()
    return show_key(key, uses_of(counters.scopes(key), now_ms), unix_ms=now_ms)


def engine_keeper(settings: Settings, say: Say) -> Coroutine[None, None, None] | None:
    """What keeps the engine running; None where no route is answered by one of ours."""
    socket = engine_socket(settings.data, os.environ)
    targets = [target for route in settings.catalog.routes for target in route.targets]
    if not any(target.upstream.url == f"unix:{socket}" for target in targets):
        return None
    make_data_dir(settings.data)
    if socket.parent != settings.data:
        _make_socket_dir(socket.parent)
    command = Command(
        name="engine",
        arguments=python_module(
            "keyhole.engine",
            f"--socket={socket}",
            f"--models={models_dir(settings.data)}",
            *_engine_bounds(settings),
            "--exit-with-parent",
            "--quiet",
        ),
        environ=_engine_environ(settings),
    )
    return keep_alone(command, settings.data / "engine.lock", say)


def admin_door(
    settings: Settings,
    transport: Transport,
    observer: Observer,
    is_admin_key: Callable[[bytes], bool],
) -> AdminDoor:
    """The way to the admin interface."""
    return AdminDoor(
        transport=transport,
        socket=clerk_socket(settings.data),
        check=partial(check_admin, is_admin_key=is_admin_key),
        observer=observer,
        clock=SystemClock(),
    )


def clerk_keeper(settings: Settings, say: Say, ready: asyncio.Event) -> Coroutine[None, None, None]:
    """What keeps the clerk running; `ready` is set once one is at work, this one's or another's.

    A clerk is at work when the ledger's tables are as they should be, or its database is away:
    it goes on trying then, and keys come from the mirror.
    """
    make_data_dir(settings.data)
    command = Command(
        name="clerk",
        arguments=python_module("keyhole.clerk", "--locked", *place_options(settings)),
        environ=os.environ,
        stop_within_s=_CLERK_STOPS_WITHIN_S,
        on_ready=ready.set,
    )
    return keep_alone(command, clerk_lock(settings.data), say, when_held=ready.set)


def has_mirror(settings: Settings) -> bool:
    """Whether a clerk has copied the keys before: a worker can begin with those."""
    return (settings.data / MIRROR_FILE).exists()


def open_database(settings: Settings) -> Database:
    """The ledger's database, not yet connected to; raises SetupError for a bad `ledger.url`."""
    from keyhole.ledger.database import Database, ledger_url  # noqa: PLC0415  # no worker's

    url = settings.ledger.url
    return Database(ledger_url(None if url is None else url.reveal(), settings.data))


def clerk_socket(data: Path) -> Path:
    """Where the clerk serves the admin interface; as short a path as the engine's has to be."""
    return engine_socket(data, os.environ).with_name(
        engine_socket(data, os.environ)
        .name.replace("engine", "clerk")
        .replace("keyhole-", "clerk-")
    )


def clerk_lock(data: Path) -> Path:
    """What whoever writes to the ledger from the journal holds."""
    return data / "clerk.lock"


def place_options(settings: Settings) -> list[str]:
    """The options that make a child find the same configuration and state."""
    options = [f"--data={settings.data}"]
    if settings.config_path is not None:
        options.append(f"--config={settings.config_path}")
    return options


def _make_socket_dir(folder: Path) -> None:
    """Make the socket's folder; under a temporary directory somebody may have made it before."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise SetupError(f"The folder {folder} cannot be made: {error.strerror}.") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise SetupError(
            f"The folder {folder} for the engine's socket is not yours alone to write.",
            hint="remove it, or choose a state directory with a shorter path",
        )


def say(line: str) -> None:
    """Tell the operator one line, on standard error."""
    sys.stderr.write(f"keyhole: {line}\n")
    sys.stderr.flush()


def _engine_bounds(settings: Settings) -> list[str]:
    waiting = settings.engine.max_waiting
    return [] if waiting is None else [f"--max-waiting={waiting}"]


def _engine_environ(settings: Settings) -> dict[str, str]:
    """What the engine needs to run, and none of the secrets that this process may hold."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if name in _ENGINE_VARIABLES or name.startswith(_ENGINE_PREFIXES)
    }
    if settings.engine.threads is not None:
        environ |= {name: str(settings.engine.threads) for name in _BLAS_THREADS}
    return environ


@asynccontextmanager
async def _beside(
    keeper: Coroutine[None, None, None] | None, *, until: asyncio.Event | None = None
) -> AsyncIterator[None]:
    """Run a keeper while the body runs, and say what it gave up with.

    With `until`, the body begins when that is set; raises what the keeper gave up with before.
    """
    if keeper is None:
        yield
        return
    task = asyncio.ensure_future(keeper)
    try:
        if until is not None:
            await _first_of(task, until)
        task.add_done_callback(_say_failure)
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, SetupError):
            await task


async def _first_of(task: asyncio.Future[None], event: asyncio.Event) -> None:
    """Wait for the event; raises what the task ended with before."""
    told = asyncio.ensure_future(event.wait())
    waiting: set[asyncio.Future[Any]] = {task, told}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
    if task.done():
        task.result()


def _say_failure(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        say(str(error))
