"""The Flask door: an application of its own, or a blueprint in an application of yours.

    app = create_app()                                   # python app.py, gunicorn app:app
    app.register_blueprint(blueprint(), url_prefix="/ai")

Flask only routes: every method and path below the prefix reaches the core, and the core's
status, headers and bytes go out as they are, those of a stream piece by piece. It cannot see a
client hang up while a request runs, or while a stream is silent: WSGI has no way to tell.

Facts: PEP 3333 decodes PATH_INFO, so the path as it came is in RAW_URI (gunicorn, werkzeug) or
REQUEST_URI (uWSGI, mod_wsgi, werkzeug). `wsgi.input` ends by itself only where the server says
`wsgi.input_terminated`; elsewhere a body without Content-Length cannot be read. Read in Flask
3.1.3, werkzeug 3.1.9 and gunicorn 27.0. uWSGI runs threads only with --enable-threads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from keyhole.errors import ClientError, Code, GatewayError, SetupError
from keyhole.exchange import Admission, Gateway
from keyhole.policy.bodies import body_too_large
from keyhole.policy.credentials import shows_key
from keyhole.server.app import LINGER_BYTES, UNKNOWN_PEER, Lifespan
from keyhole.server.loop import Body, ThreadedGateway
from keyhole.wire.http import JSON, Head, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flask.sansio.blueprints import BlueprintSetupState

try:
    import flask
    from werkzeug.exceptions import HTTPException
    from werkzeug.routing import BaseConverter, Rule
    from werkzeug.serving import WSGIRequestHandler
except ModuleNotFoundError as error:
    if error.name not in {"flask", "werkzeug"}:
        raise
    raise ModuleNotFoundError(
        "The Flask door needs Flask: pip install 'keyhole[flask]'", name=error.name
    ) from None

Environ = dict[str, Any]

_PART_BYTES = 65536


def create_app(config: str | os.PathLike[str] | None = None) -> flask.Flask:
    """A Flask application that is Keyhole and nothing else; raises SetupError.

    `config` is the configuration's path; without one it is found as `keyhole serve` finds it.
    """
    return app_over(ThreadedGateway(_lifespan(config, local_only=True)))


def blueprint(
    name: str = "keyhole",
    *,
    local_only: bool = True,
    config: str | os.PathLike[str] | None = None,
) -> flask.Blueprint:
    """Keyhole for an application of one's own, under any `url_prefix`; raises SetupError.

    With `local_only=False` whoever the application lets through may call: it checks its callers
    itself, for instance in a `before_request` of the blueprint.
    """
    return blueprint_over(ThreadedGateway(_lifespan(config, local_only=local_only)), name)


def app_over(gateway: ThreadedGateway) -> flask.Flask:
    """A Flask application that serves every path from a gateway."""
    app = _Application("keyhole", static_folder=None)
    app.url_map.merge_slashes = False
    app.register_blueprint(blueprint_over(gateway, "keyhole"))

    @app.errorhandler(HTTPException)
    def answer_unrouted(error: HTTPException) -> flask.Response | HTTPException:
        # What Flask itself refused, such as a WebSocket handshake; never an abort() of a
        # before_request that someone has added to keep callers out.
        if error is flask.request.routing_exception:
            return _serve(gateway, flask.request.path.removeprefix("/"))
        return error

    return app


def blueprint_over(gateway: ThreadedGateway, name: str) -> flask.Blueprint:
    """A blueprint that serves every path below its prefix from a gateway."""
    mounted = flask.Blueprint(name, __name__)

    def serve(keyhole_path: str, **_: Any) -> flask.Response:  # the rest: of the prefix's rule
        return _serve(gateway, keyhole_path)

    def add_rule(state: BlueprintSetupState) -> None:
        # Blueprint.add_url_rule cannot say "every method", and answers OPTIONS itself.
        endpoint = f"{state.name_prefix}.{state.name}.serve".lstrip(".")
        prefix = (state.url_prefix or "").rstrip("/")
        state.app.url_map.converters["keyhole_path"] = _AnyPath
        state.app.url_map.add(
            Rule(
                f"{prefix}/<keyhole_path:keyhole_path>",
                endpoint=endpoint,
                subdomain=state.subdomain,
                defaults=state.url_defaults,
            )
        )
        state.app.view_functions[endpoint] = serve

    mounted.record(add_rule)
    return mounted


class _AnyPath(BaseConverter):
    """Whatever follows, slashes, line breaks and nothing at all included."""

    regex = r"[\s\S]*"
    part_isolating = False
    weight = 300  # after every other rule


class _Response(flask.Response):
    default_mimetype = None  # a reply has the content type that it came with, or none


class _RequestHandler(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: the core has its line for each request, and without the query."""


class _Application(flask.Flask):
    def run(self, *args: Any, **options: Any) -> None:
        """As Flask.run, but without the debugger, which runs code for whoever reaches it."""
        options.setdefault("use_debugger", False)
        options.setdefault("request_handler", _RequestHandler)
        super().run(*args, **options)


def _lifespan(config: str | os.PathLike[str] | None, *, local_only: bool) -> Lifespan:
    from keyhole import main  # noqa: PLC0415  # the composition root stands above this layer

    settings = main.load_settings(config=None if config is None else Path(config))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Gateway]:
        async with main.open_runtime(
            settings, keeps_clerk=True, role="server", is_local_only=local_only
        ) as runtime:
            yield runtime.gateway

    return lifespan


def _serve(gateway: ThreadedGateway, below_prefix: str) -> flask.Response:
    environ: Environ = flask.request.environ
    body: Body | None = None
    try:
        reply, body = _exchange(gateway, environ, _head(environ, below_prefix))
    except SetupError as error:
        log = flask.current_app.logger
        log.error("Keyhole could not start: %s", error)  # noqa: TRY400  # one line says it all
        reply = _unavailable(Code.INTERNAL_ERROR, "Keyhole could not start; its log says why.")
    except GatewayError as error:
        reply = _unavailable(error.code, error.message)
    if body is not None:
        return _Response(body, status=reply.status, headers=reply.headers)
    return _response(reply, environ)


def _exchange(gateway: ThreadedGateway, environ: Environ, head: Head) -> tuple[Reply, Body | None]:
    admission = gateway.admit(head)
    if isinstance(admission, Reply):
        return admission, None
    body: Body | None = None
    try:
        reply, body = _answer(gateway, admission, environ)
    except GatewayError as error:  # the core was closed meanwhile
        reply = _unavailable(error.code, error.message, admission.record.request_id)
    finally:
        if body is None and not admission.is_over:
            gateway.end(lambda core: core.left(admission))
    return reply, body


def _unavailable(code: Code, error: str, request_id: str | None = None) -> Reply:
    """For the time when there is no core to ask; there is an id where one was given before."""
    body = {"error": error, "code": code}
    headers = [("content-type", JSON)]
    if request_id is not None:
        body["request_id"] = request_id
        headers.append(("x-request-id", request_id))
    return Reply(status=503, headers=headers, body=msgspec.json.encode(body))


def _answer(
    gateway: ThreadedGateway, admission: Admission, environ: Environ
) -> tuple[Reply, Body | None]:
    try:
        body = _read_body(environ, admission.max_body_bytes)
    except ClientError as error:
        too_large = error
        return gateway.end(lambda core: core.refuse(admission, too_large)), None
    except OSError:  # it hung up, or its chunks are broken
        return Reply(status=400, headers=[]), None
    return gateway.run(admission, body)


def _response(reply: Reply, environ: Environ) -> flask.Response:
    if reply.status != 413:
        return _Response(reply.body, status=reply.status, headers=reply.headers)
    headers = [*reply.headers, ("content-length", str(len(reply.body)))]
    return _Response(_lingering(reply.body, environ), status=413, headers=headers)


def _lingering(body: bytes, environ: Environ) -> Iterator[bytes]:
    """The body of a reply, and then the refused request's own, read for a while and dropped.

    As in the ASGI door: a client that is cut off while it sends does not see the reply.
    """
    yield body
    if not environ.get("wsgi.input_terminated", False):
        return  # it might not end; such a server has to see to it itself, as werkzeug's does
    dropped = 0
    with contextlib.suppress(OSError):
        while dropped < LINGER_BYTES and (part := environ["wsgi.input"].read(_PART_BYTES)):
            dropped += len(part)


def _read_body(environ: Environ, max_bytes: int) -> bytes:
    """The whole body; raises ClientError (413), or OSError where it ends too soon."""
    announced = environ.get("CONTENT_LENGTH", "")
    length = int(announced) if announced.isascii() and announced.isdigit() else None
    is_terminated = environ.get("wsgi.input_terminated", False)
    if length is None and not is_terminated:
        return b""
    wanted = max_bytes + 1 if is_terminated or length is None else length
    read: Callable[[int], bytes] = environ["wsgi.input"].read
    parts, received = [], 0
    while received < wanted and (part := read(min(wanted - received, _PART_BYTES))):
        parts.append(part)
        received += len(part)
    if received > max_bytes:
        raise body_too_large(max_bytes)
    if length is not None and received < length and "HTTP_TRANSFER_ENCODING" not in environ:
        raise ConnectionError("the body ended too soon")
    return b"".join(parts)


def _head(environ: Environ, below_prefix: str) -> Head:
    headers = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    headers += [
        (name.replace("_", "-").lower().encode(), environ[name].encode("latin-1"))
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        if environ.get(name)
    ]
    return Head(
        method=environ["REQUEST_METHOD"],
        path=_path(environ, below_prefix),
        headers=tuple(headers),
        peer=_peer(environ),
        shows_key_in_query=shows_key(environ.get("QUERY_STRING", "").encode("latin-1", "replace")),
    )


def _path(environ: Environ, below_prefix: str) -> str:
    """The path as it came, below the prefix; as decoded where the server does not tell.

    The prefix is told from the rest by the number of its slashes. Where that is doubtful, for an
    escaped slash or for those in front that werkzeug drops, the path keeps its prefix, and so
    belongs to nothing.
    """
    path = environ.get("PATH_INFO", "")
    if path.startswith("//"):
        return quote_from_bytes(path.encode("latin-1"))
    decoded = environ.get("SCRIPT_NAME", "") + path
    raw = _raw_path(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "")
    if unquote_to_bytes(raw.encode("latin-1")) != decoded.encode(
        "latin-1"
    ):  # a server or middleware rewrote it
        return quote_from_bytes(f"/{below_prefix}".encode())
    if raw.count("/") != decoded.count("/"):
        return raw
    slashes = decoded.count("/") - below_prefix.count("/")
    return "/" + raw.split("/", slashes)[-1]


def _raw_path(uri: str) -> str:
    """The path of a request target, also of one in absolute form."""
    path = uri.partition("?")[0]
    scheme, separator, rest = path.partition("://")
    if separator and scheme.isalpha():
        return "/" + rest.partition("/")[2]
    return path


def _peer(environ: Environ) -> str | None:
    address: str = environ.get("REMOTE_ADDR", UNKNOWN_PEER)
    return None if address in {"", "<local>"} else address  # gunicorn, werkzeug: a Unix socket
