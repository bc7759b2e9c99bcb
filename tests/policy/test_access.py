"""Who may call while no keys exist, and what browsers are told."""

from __future__ import annotations

import pytest

from keyhole.catalog import Access
from keyhole.errors import ClientError, Code
from keyhole.policy.access import (
    Need,
    check_caller,
    cors_headers,
    is_local_caller,
    is_loopback,
    need_of,
    preflight_headers,
)
from keyhole.wire.http import Head

OPEN_TO = "https://app.example.org"
ACCESS = Access(allowed_origins=(OPEN_TO,))


def head(*headers: tuple[bytes, bytes], peer: str | None = "127.0.0.1") -> Head:
    return Head(method="POST", path="/generate", headers=headers, peer=peer)


def hosted(*headers: tuple[bytes, bytes], host: bytes = b"127.0.0.1:5000") -> Head:
    return head((b"host", host), *headers)


def refusal(asked: Head, access: Access = ACCESS) -> Code | None:
    try:
        check_caller(asked, access)
    except ClientError as error:
        return error.code if error.status == 403 else None
    return None


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:5000", "app.localhost", "127.0.0.1", "127.1.2.3:80", "[::1]",
        "[::1]:5000", "[::ffff:127.0.0.1]", "[0:0:0:0:0:0:0:1]:1",
    ],
)  # fmt: skip
def test_a_host_that_names_this_machine_is_let_in(host: str) -> None:
    assert refusal(hosted(host=host.encode())) is None


@pytest.mark.parametrize(
    "host",
    [
        "", " ", "evil.example", "localhost.evil.example", "notlocalhost", "127.0.0.1.nip.io",
        "0.0.0.0", "[::]", "10.0.0.1", "[fe80::1]", "[::ffff:10.0.0.1]", "127.1", "2130706433",
        "0x7f000001", "127.0.0.1:", "127.0.0.1:123456", "localhost:80:80", "user@localhost",
        "localhost/", "localhost?", "localhost#", "localhost,evil.example", "[::1", "::1",
        "[localhost]", "[127.0.0.1]:x", "localhost\t", "localh\xf6st", "[::1%25lo]",
    ],
)  # fmt: skip
def test_any_other_host_is_refused(host: str) -> None:
    assert refusal(hosted(host=host.encode("latin-1"))) == Code.HOST_NOT_ALLOWED


def test_no_host_or_two_are_refused() -> None:
    local = (b"host", b"localhost")
    assert refusal(head()) == Code.HOST_NOT_ALLOWED
    assert refusal(head(local, local)) == Code.HOST_NOT_ALLOWED
    assert refusal(head(local, (b"host", b"evil.example"))) == Code.HOST_NOT_ALLOWED


@pytest.mark.parametrize(
    "header",
    [
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"x-forwarded-for", b"203.0.113.9, 127.0.0.1"),
        (b"x-forwarded-for", b"127.0.0.1, unknown"),
        (b"x-forwarded-for", b""),
        (b"x-real-ip", b"10.0.0.1"),
        (b"forwarded", b"for=127.0.0.1"),
    ],
)
def test_callers_whom_a_proxy_on_this_machine_passes_on_are_refused(
    header: tuple[bytes, bytes],
) -> None:
    """nginx in front, say: the connection is local, its caller is not."""
    assert refusal(hosted(header)) is Code.CALLER_NOT_LOCAL


def test_a_proxy_of_a_developers_own_is_let_in() -> None:
    """As a front end's development server adds it to a local caller's request."""
    assert refusal(hosted((b"x-forwarded-for", b"::1, 127.0.0.1"))) is None


@pytest.mark.parametrize("peer", ["10.0.0.1", "::", "fe80::1%eth0", "8.8.8.8", "", "unknown", "x"])
def test_callers_from_elsewhere_are_refused(peer: str) -> None:
    assert refusal(head((b"host", b"localhost"), peer=peer)) == Code.CALLER_NOT_LOCAL


@pytest.mark.parametrize("peer", [None, "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_callers_on_this_machine_are_let_in(peer: str | None) -> None:
    """None is a Unix socket."""
    assert refusal(head((b"host", b"localhost"), peer=peer)) is None


@pytest.mark.parametrize(
    "origin",
    [OPEN_TO, "http://127.0.0.1:5000", "https://127.0.0.1:5000"],
)
def test_our_own_origin_and_an_allowed_one_are_let_in(origin: str) -> None:
    assert refusal(hosted((b"origin", origin.encode()))) is None


@pytest.mark.parametrize(
    "origin",
    [
        "null", "", "https://evil.example", "http://127.0.0.1", "http://127.0.0.1:3000",
        "http://localhost:5000", "https://app.example.org:443", "https://app.example.org/",
        "HTTPS://APP.EXAMPLE.ORG", "http://app.example.org", "ftp://127.0.0.1:5000",
        "https://app.example.org.evil.example", "https://app.example.org, https://evil.example",
        "https://\xe4pp.example.org",
    ],
)  # fmt: skip
def test_any_other_origin_is_refused(origin: str) -> None:
    asked = hosted((b"origin", origin.encode("latin-1")))
    assert refusal(asked) == Code.ORIGIN_NOT_ALLOWED


def test_two_origins_are_refused_whichever_comes_first() -> None:
    allowed, foreign = (b"origin", OPEN_TO.encode()), (b"origin", b"https://evil.example")
    for asked in (hosted(allowed, foreign), hosted(foreign, allowed), hosted(allowed, allowed)):
        assert refusal(asked) == Code.ORIGIN_NOT_ALLOWED


def test_an_application_that_decides_itself_who_may_call_is_not_second_guessed() -> None:
    asked = head((b"host", b"anything"), (b"origin", b"https://evil.example"), peer="8.8.8.8")
    assert refusal(asked, Access(is_local_only=False)) is None


def test_cors_is_silent_without_allowed_origins() -> None:
    assert cors_headers(hosted((b"origin", OPEN_TO.encode())), Access()) == []


def test_a_reply_names_only_an_allowed_origin_and_varies_by_it() -> None:
    named = cors_headers(hosted((b"origin", OPEN_TO.encode())), ACCESS)
    assert ("access-control-allow-origin", OPEN_TO) in named
    for asked in (hosted(), hosted((b"origin", b"https://evil.example"))):
        assert cors_headers(asked, ACCESS) == [("vary", "Origin")]
    assert ("vary", "Origin") in named
    assert "access-control-allow-credentials" not in dict(named)


def test_only_a_preflight_of_an_allowed_origin_is_told_the_methods() -> None:
    allowed, foreign = (b"origin", OPEN_TO.encode()), (b"origin", b"https://evil.example")
    wish = (b"access-control-request-method", b"POST")
    methods = ("OPTIONS", "POST")
    told = dict(preflight_headers(hosted(allowed, wish), ACCESS, methods))
    assert told["access-control-allow-methods"] == "OPTIONS, POST"
    for asked in (hosted(allowed), hosted(foreign, wish), hosted(wish)):
        assert preflight_headers(asked, ACCESS, methods) == []


def allowed(asked: str) -> list[str]:
    """The headers that a page is told it may send."""
    preflight = hosted(
        (b"origin", OPEN_TO.encode()),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", asked.encode("latin-1")),
    )
    told = dict(preflight_headers(preflight, ACCESS, ("POST",)))["access-control-allow-headers"]
    return told.split(", ")


ALWAYS = ["authorization", "content-type", "x-api-key", "x-request-id"]


def test_a_page_may_send_what_the_sdks_send() -> None:
    """As openai-node 6 asks for it."""
    wanted = ["x-stainless-arch", "x-stainless-retry-count", "x-stainless-runtime-version"]
    wanted += ["user-agent", "x-wait-for-model", "x-use-cache", "openai-organization"]
    assert allowed(",".join(["authorization", *wanted])) == [*ALWAYS, *wanted]


@pytest.mark.parametrize(
    "asked",
    ["", "cookie", "*", "x-stainless-", "x-stainless-\xe4", "x-stainless-a\r\nb: c", "host"],
)
def test_a_page_may_send_nothing_else(asked: str) -> None:
    assert allowed(asked) == ALWAYS


def test_however_much_a_page_asks_for_the_answer_is_short() -> None:
    assert len(", ".join(allowed(",".join(["x-stainless-" + "a" * 30] * 500)))) < 1024


def test_a_page_may_read_what_the_sdks_read() -> None:
    told = dict(cors_headers(hosted((b"origin", OPEN_TO.encode())), ACCESS))
    names = told["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "x-should-retry", "x-error-code", "x-error-message"} <= set(names)
    assert {"ratelimit", "ratelimit-policy", "x-ratelimit-remaining-tokens"} <= set(names)


def test_only_what_can_mean_nothing_else_is_loopback() -> None:
    assert is_loopback("localhost")
    assert not is_loopback(None)
    assert not is_loopback("localhost.")


@pytest.mark.parametrize(
    ("asked", "need"),
    [
        ("GET /", Need.NOTHING), ("HEAD /", Need.NOTHING), ("GET /key", Need.NOTHING),
        ("GET /page/key.js", Need.NOTHING), ("GET /health", Need.NOTHING),
        ("GET /health/live", Need.NOTHING), ("GET /health/ready", Need.NOTHING),
        ("OPTIONS /v1/models", Need.NOTHING), ("OPTIONS /nothing", Need.NOTHING),
        ("GET /metrics", Need.ADMIN_OR_LOCAL), ("HEAD /metrics", Need.ADMIN_OR_LOCAL),
        ("POST /metrics", Need.KEY), ("POST /", Need.KEY), ("POST /page/x", Need.KEY),
        ("POST /generate", Need.KEY), ("POST /v1/chat/completions", Need.KEY),
        ("GET /v1/models", Need.KEY), ("GET /v1/key", Need.KEY), ("GET /info", Need.KEY),
        ("GET /key/", Need.KEY), ("GET /pagex", Need.KEY), ("GET //", Need.KEY),
        ("GET /%6bey", Need.KEY), ("GET /nothing", Need.KEY), ("BREW /", Need.KEY),
        ("GET /healthz", Need.KEY), ("GET /health/live/", Need.KEY),
        ("GET /admin/v1/keys", Need.ADMIN), ("OPTIONS /admin/v1/keys", Need.ADMIN),
        ("DELETE /admin/v1/keys/1", Need.ADMIN), ("GET /admin/", Need.ADMIN),
        ("GET /Admin/v1/keys", Need.KEY), ("GET //admin/v1/keys", Need.KEY),
    ],
)  # fmt: skip
def test_everything_needs_a_key_that_is_not_named(asked: str, need: Need) -> None:
    method, _, path = asked.partition(" ")
    assert need_of(Head(method=method, path=path)) is need


def test_a_local_caller_is_one_whom_an_open_gateway_would_let_in() -> None:
    assert is_local_caller(hosted(), ACCESS)
    assert not is_local_caller(hosted(host=b"evil.example"), ACCESS)
    assert not is_local_caller(hosted((b"origin", b"https://evil.example")), ACCESS)
    assert not is_local_caller(hosted((b"x-forwarded-for", b"203.0.113.9")), ACCESS)
    far = Head(method="GET", path="/", headers=((b"host", b"localhost"),), peer="203.0.113.9")
    assert not is_local_caller(far, ACCESS)
