"""The Flask door: what WSGI servers tell it, how it is mounted, and how it is started."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import flask
import pytest
from flask.testing import FlaskClient

from doors.composed import MAX_BODY_BYTES, ODD_JSON, Composed
from doors.leaks import no_leaks
from keyhole.errors import SetupError
from keyhole.exchange import Gateway
from keyhole.server.app import LINGER_BYTES
from keyhole.server.flask import app_over, blueprint_over
from keyhole.server.loop import ThreadedGateway

REPOSITORY = Path(__file__).parents[2]
ODD = b'{"input": "odd"}'
LOCAL = "http://localhost"


@pytest.fixture
def composed() -> Composed:
    return Composed(io.StringIO())


@pytest.fixture
def gateway(composed: Composed) -> Iterator[ThreadedGateway]:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Gateway]:
        yield composed.gateway

    with no_leaks():
        made = ThreadedGateway(lifespan)
        yield made
        made.close()
    assert composed.memory.began_count == len(composed.memory.records)


@pytest.fixture
def client(gateway: ThreadedGateway) -> FlaskClient:
    return app_over(gateway).test_client()


def mounted(gateway: ThreadedGateway, prefix: str | None) -> FlaskClient:
    app = flask.Flask("host", static_folder=None)
    app.add_url_rule("/mine", view_func=lambda: "mine")
    app.register_blueprint(blueprint_over(gateway, "keyhole"), url_prefix=prefix)
    return app.test_client()


def post(client: FlaskClient, path: str = "/generate", body: bytes = ODD, **environ: Any) -> Any:
    return client.post(path, data=body, base_url=LOCAL, environ_overrides=environ)


class TestPath:
    @pytest.mark.parametrize(
        ("environ", "status"),
        [
            ({"RAW_URI": "/generate?x=1", "REQUEST_URI": "/elsewhere"}, 200),
            ({"RAW_URI": "", "REQUEST_URI": "/generate"}, 200),
            ({"RAW_URI": "", "REQUEST_URI": ""}, 200),
            ({"RAW_URI": "http://evil.example/generate?x"}, 200),
            ({"RAW_URI": "/%67enerate"}, 404),
            ({"RAW_URI": "/rewritten/by/middleware"}, 200),
            ({"RAW_URI": "*"}, 200),
            ({"PATH_INFO": "/ai/generate", "RAW_URI": "/ai/generate"}, 404),
            ({"PATH_INFO": "/generate", "SCRIPT_NAME": "/ai", "RAW_URI": "/ai/generate"}, 200),
            ({"PATH_INFO": "/generate", "SCRIPT_NAME": "/\xc3\xa9", "RAW_URI": "/%C3%A9/generate"},
             200),
            ({"PATH_INFO": "/generate", "SCRIPT_NAME": "/a", "RAW_URI": "/%61/generate"}, 200),
            ({"PATH_INFO": "/generate", "SCRIPT_NAME": "/a/b", "RAW_URI": "/a%2Fb/generate"}, 404),
            ({"PATH_INFO": "//generate", "RAW_URI": "//generate"}, 404),
            ({"PATH_INFO": "//generate", "RAW_URI": ""}, 404),
            ({"PATH_INFO": "/generate\n", "RAW_URI": "/generate%0A"}, 404),
            ({"PATH_INFO": "/generate\xff", "RAW_URI": "/generate%FF"}, 404),
            ({"PATH_INFO": "", "RAW_URI": ""}, 404),
        ],
    )  # fmt: skip
    def test_the_path_is_read_as_it_came(
        self, client: FlaskClient, environ: dict[str, str], status: int
    ) -> None:
        response = post(client, **environ)
        assert response.status_code == status
        assert response.mimetype == "application/json"

    @pytest.mark.parametrize("prefix", ["/ai", "/ai/", "/a/b", "/<tenant>"])
    def test_below_a_prefix_the_rest_counts(self, gateway: ThreadedGateway, prefix: str) -> None:
        client = mounted(gateway, prefix)
        below = prefix.rstrip("/").replace("<tenant>", "anybody")
        assert post(client, f"{below}/generate").data == ODD_JSON
        for rest in ("/x", "/%67enerate", "/generate/", "/"):
            path = below + rest
            response = post(client, path, RAW_URI=path)
            assert (response.status_code, response.mimetype) == (404, "application/json"), rest
        assert client.get("/mine").data == b"mine"
        assert client.get("/other").mimetype == "text/html", "the rest is the application's"

    def test_without_a_prefix_the_applications_own_pages_come_first(
        self, gateway: ThreadedGateway
    ) -> None:
        client = mounted(gateway, None)
        assert client.get("/mine").data == b"mine"
        assert post(client).data == ODD_JSON

    def test_blueprints_may_stand_within_blueprints(self, gateway: ThreadedGateway) -> None:
        app, outer = flask.Flask("host"), flask.Blueprint("outer", "host")
        outer.register_blueprint(blueprint_over(gateway, "keyhole"), url_prefix="/inner")
        app.register_blueprint(outer, url_prefix="/outer")
        assert post(app.test_client(), "/outer/inner/generate").data == ODD_JSON

    def test_it_may_be_mounted_twice(self, gateway: ThreadedGateway) -> None:
        app = flask.Flask("host")
        app.register_blueprint(blueprint_over(gateway, "one"), url_prefix="/1")
        app.register_blueprint(blueprint_over(gateway, "two"), url_prefix="/2")
        for number in "12":
            assert post(app.test_client(), f"/{number}/generate").data == ODD_JSON


class TestFlaskItself:
    def test_it_adds_nothing_to_a_reply(self, client: FlaskClient) -> None:
        response = post(client)
        names = {name.lower() for name in response.headers.keys()}  # noqa: SIM118  # pairs
        expected = {"content-type", "content-length", "x-request-id", "x-keyhole-model", "vary"}
        assert names == expected
        assert response.headers["content-type"] == "application/json"

    @pytest.mark.parametrize("method", ["GET", "OPTIONS", "TRACE", "CONNECT", "FOO", "head"])
    def test_every_method_reaches_the_core(self, client: FlaskClient, method: str) -> None:
        response = client.open("/nowhere", method=method, base_url=LOCAL)
        assert response.status_code == 404
        assert "x-request-id" in response.headers

    def test_a_websocket_handshake_reaches_the_core(self, client: FlaskClient) -> None:
        headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
        response = client.get("/generate", base_url=LOCAL, headers=headers)
        assert (response.status_code, response.json["code"]) == (405, "method_not_allowed")

    @pytest.mark.parametrize(
        "host", ["", "evil name", "[", "x" * 5000, "\xe9", "a,b", "localhost\0"]
    )
    def test_any_host_reaches_the_core(self, client: FlaskClient, host: str) -> None:
        response = post(client, HTTP_HOST=host)
        assert (response.status_code, response.json["code"]) == (403, "host_not_allowed")

    def test_who_keeps_callers_out_before_a_request_is_heeded(
        self, gateway: ThreadedGateway
    ) -> None:
        app = app_over(gateway)

        @app.before_request
        def refuse() -> None:
            flask.abort(401)

        client = app.test_client()
        websocket = {"Connection": "Upgrade", "Upgrade": "websocket"}
        assert post(client).status_code == 401
        assert client.get("/", base_url=LOCAL, headers=websocket).status_code == 401

    def test_what_keeps_it_from_starting_is_logged_and_not_told(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[Gateway]:
            raise SetupError("The disk at /secret/place is gone.")
            yield

        response = post(app_over(ThreadedGateway(lifespan)).test_client())
        assert response.status_code == 503
        assert "secret" not in response.text
        assert "/secret/place" in caplog.text


class TestCaller:
    @pytest.mark.parametrize(
        ("peer", "status"),
        [
            ("127.0.0.1", 200), ("::1", 200), ("", 200), ("<local>", 200),
            ("10.0.0.1", 403), ("unix:", 403), ("evil", 403),
        ],
    )  # fmt: skip
    def test_a_caller_is_known_by_its_address(
        self, client: FlaskClient, peer: str, status: int
    ) -> None:
        """Nothing, or <local>, is what gunicorn and werkzeug say of a Unix socket."""
        assert post(client, REMOTE_ADDR=peer).status_code == status

    def test_a_caller_whose_address_nobody_tells_is_refused(self, gateway: ThreadedGateway) -> None:
        app, told = app_over(gateway), []
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": "/health/live", "HTTP_HOST": "localhost",
            "SERVER_NAME": "x", "SERVER_PORT": "80", "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
        }  # fmt: skip
        response = app(environ, lambda status, headers: told.append(status))
        assert b"caller_not_local" in b"".join(response)
        assert told == ["403 FORBIDDEN"]


class Failing(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise ConnectionResetError


class TestBody:
    def test_without_a_length_it_is_read_only_where_it_ends_by_itself(
        self, client: FlaskClient
    ) -> None:
        stream = {"wsgi.input": io.BytesIO(ODD), "CONTENT_LENGTH": ""}
        assert post(client, **stream).json["code"] == "invalid_json"
        stream["wsgi.input"] = io.BytesIO(ODD)
        assert post(client, **stream, **{"wsgi.input_terminated": True}).data == ODD_JSON

    @pytest.mark.parametrize("extra", [0, 1])
    def test_the_limit_holds_for_what_comes_without_a_length(
        self, client: FlaskClient, extra: int
    ) -> None:
        stream = io.BytesIO(ODD.ljust(MAX_BODY_BYTES + extra))
        environ = {"wsgi.input": stream, "CONTENT_LENGTH": "", "wsgi.input_terminated": True}
        response = post(client, **environ)
        assert response.status_code == (413 if extra else 200)

    def test_what_is_refused_is_dropped_up_to_a_point(self, client: FlaskClient) -> None:
        stream = io.BytesIO(bytes(MAX_BODY_BYTES + LINGER_BYTES + 1_000_000))
        environ = {"wsgi.input": stream, "CONTENT_LENGTH": "", "wsgi.input_terminated": True}
        assert post(client, **environ).json["code"] == "body_too_large"
        assert (
            MAX_BODY_BYTES + LINGER_BYTES < stream.tell() < MAX_BODY_BYTES + LINGER_BYTES + 70_000
        )

    def test_no_more_is_read_than_was_announced(self, client: FlaskClient) -> None:
        stream = io.BytesIO(ODD + b"the next request")
        environ = {"wsgi.input": stream, "CONTENT_LENGTH": str(len(ODD))}
        assert post(client, **environ).data == ODD_JSON
        assert stream.read() == b"the next request"

    @pytest.mark.parametrize("stream", [io.BytesIO(ODD[:5]), Failing()])
    def test_a_client_that_goes_within_the_body_is_recorded(
        self, client: FlaskClient, composed: Composed, stream: io.BytesIO
    ) -> None:
        environ = {"wsgi.input": stream, "CONTENT_LENGTH": str(len(ODD))}
        assert post(client, **environ).status_code == 400
        assert [record.status for record in composed.memory.records] == [499]

    @pytest.mark.parametrize("length", ["-1", "+5", "x", "0x5", "5,5", "\xb2", "1_0"])
    def test_a_length_that_is_none_is_none(self, client: FlaskClient, length: str) -> None:
        environ = {"wsgi.input": io.BytesIO(ODD), "CONTENT_LENGTH": length}
        assert post(client, **environ).json["code"] == "invalid_json"


def test_who_is_cut_off_when_it_closes_is_told_so_under_the_request_s_id(
    composed: Composed, gateway: ThreadedGateway
) -> None:
    app = app_over(gateway)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, app.test_client(), body=b'{"input": "wait"}')
        assert composed.transport.is_inside.wait(60)
        gateway.close()
        answer = waiting.result()
    (record,) = composed.memory.records
    assert (answer.status_code, answer.json["code"]) == (503, "shutting_down")
    assert answer.json["request_id"] == answer.headers["x-request-id"] == record.request_id
