"""A request as bytes: what stands in it, where the secret goes, what is refused."""

from __future__ import annotations

import pytest
from wires import TOKEN, make_request, make_upstream

from keyhole import __version__
from keyhole.errors import GatewayError
from keyhole.io.request import RequestWriter

JSON = (("content-type", "application/json"), ("accept", "application/json"))


def write(url: str = "http://gpu.example:8080/v1", **fields: object) -> bytes:
    upstream = make_upstream(url)
    return RequestWriter(upstream).write(make_request(upstream, **fields), "the-id")


def test_a_request_is_these_bytes() -> None:
    assert write(headers=JSON, body=b'{"a":1}') == (
        b"POST /v1/generate HTTP/1.1\r\n"
        b"host: gpu.example:8080\r\n"
        b"user-agent: keyhole/%b\r\n"
        b"accept-encoding: identity\r\n"
        b"content-type: application/json\r\n"
        b"accept: application/json\r\n"
        b"authorization: Bearer %b\r\n"
        b"x-request-id: the-id\r\n"
        b"content-length: 7\r\n"
        b"\r\n"
        b'{"a":1}' % (__version__.encode(), TOKEN.encode())
    )


def test_an_upstream_without_a_secret_is_sent_none() -> None:
    upstream = make_upstream(secret=None)
    assert b"authorization" not in RequestWriter(upstream).write(make_request(upstream), "id")


@pytest.mark.parametrize(
    ("method", "ending"),
    [("GET", b"x-request-id: the-id\r\n\r\n"), ("POST", b"content-length: 0\r\n\r\n")],
)
def test_an_empty_body_is_announced_where_one_is_expected(method: str, ending: bytes) -> None:
    assert write(method=method, body=b"").endswith(ending)


@pytest.mark.parametrize(
    ("url", "path", "line", "host"),
    [
        ("http://a.example", "/generate", "/generate", "a.example"),
        ("http://a.example:80", "/", "/", "a.example"),
        ("https://a.example:443/x", "/y?z=1", "/x/y?z=1", "a.example"),
        ("https://a.example:80", "/y", "/y", "a.example:80"),
        ("http://[::1]:8080/v1", "/m", "/v1/m", "[::1]:8080"),
        ("unix:/tmp/engine.sock", "/m/generate", "/m/generate", "localhost"),
        ("http://a.example", "", "/", "a.example"),
    ],
)
def test_the_path_and_host_are_the_urls(url: str, path: str, line: str, host: str) -> None:
    head = write(url, path=path).decode()
    assert head.startswith(f"POST {line} HTTP/1.1\r\nhost: {host}\r\n")


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": (("x", "a\r\nauthorization: other"),)},
        {"headers": (("x", "a\nb"),)},
        {"headers": (("x", "a\0b"),)},
        {"headers": (("x", "a\u2028b"),)},
        {"headers": (("x\r\ny", "a"),)},
        {"headers": (("x y", "a"),)},
        {"headers": (("", "a"),)},
        {"headers": (("Content-Length", "5"),)},
        {"headers": (("Transfer-Encoding", "chunked"),)},
        {"headers": (("authorization", "Bearer other"),)},
        {"headers": (("host", "elsewhere"),)},
        {"headers": (("Connection", "upgrade"),)},
        {"path": "/a b"},
        {"path": "/a\r\nhost: elsewhere"},
        {"path": "/\xe9"},
        {"path": "elsewhere/"},
        {"method": "POST /x HTTP/1.1\r\n"},
        {"method": ""},
    ],
)
def test_what_would_break_a_request_apart_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(GatewayError) as caught:
        write("http://a.example", **fields)

    assert caught.value.message.startswith("The request to upstream 'gpu' has a")
    assert TOKEN not in caught.value.explained


@pytest.mark.parametrize("request_id", ["a\r\nb", "a\tb", "\xe9", "a\0", "a\n"])
def test_a_request_id_that_cannot_be_sent_is_refused(request_id: str) -> None:
    upstream = make_upstream()
    with pytest.raises(GatewayError):
        RequestWriter(upstream).write(make_request(upstream), request_id)


def test_the_heads_that_are_kept_have_an_end() -> None:
    upstream = make_upstream()
    writer = RequestWriter(upstream)
    for number in range(1000):
        request = make_request(upstream, path=f"/{number}")
        assert writer.write(request, "id") == writer.write(request, "id")
        assert f"POST /{number} ".encode() in writer.write(request, "id")

    assert len(writer._heads) <= 256
