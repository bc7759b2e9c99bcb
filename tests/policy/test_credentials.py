"""What a request shows of a key, and what is said to whom."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyhole.errors import ClientError, Code
from keyhole.policy.credentials import (
    check_admin,
    check_model,
    identify,
    mask_keys,
    may_use,
    shows_key,
)
from keyhole.wire.http import Head
from keyhole.wire.keys import ALPHABET, Key, LiveKey, digest_of
from keys import key, secret

NOW_MS = 1_795_000_000_000
SECRET = secret(1)
HF_TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"
FOREVER = float("inf")


class Known:
    """The keys of a worker: some held in memory, some only to be found."""

    def __init__(self, *keys: Key, held: bool = True) -> None:
        self.keys = {known.digest: live(known) for known in keys}
        self.held = self.keys if held else {}
        self.asked = 0

    def find(self, digest: bytes) -> LiveKey | None:
        self.asked += 1
        return self.keys.get(digest)

    def identify(self, asked: Head) -> LiveKey:
        return identify(asked, held=self.held, find=self.find, unix_ms=NOW_MS)


def live(known: Key) -> LiveKey:
    until = FOREVER if known.expires_at_ms is None else known.expires_at_ms
    return LiveKey(known, 0 if known.revoked_at_ms is not None else until)


def head(
    *headers: tuple[str, str | bytes], path: str = "/generate", in_query: bool = False
) -> Head:
    encoded = [
        (name.encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in (("host", "evil.example"), *headers)
    ]
    return Head(
        method="POST",
        path=path,
        headers=tuple(encoded),
        peer="203.0.113.9",
        shows_key_in_query=in_query,
    )


def refusal(asked: Head, *keys: Key, held: bool = True) -> ClientError:
    with pytest.raises(ClientError) as caught:
        Known(*keys, held=held).identify(asked)
    return caught.value


def said(error: ClientError) -> tuple[int, Code]:
    return error.status, error.code


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {SECRET}")],
        [("authorization", f"bearer {SECRET}")],
        [("authorization", f"BEARER   {SECRET} ")],
        [("authorization", SECRET)],
        [("x-api-key", SECRET)],
        [("x-api-key", f" {SECRET}\t")],
        [("authorization", f"Bearer {SECRET}"), ("x-api-key", SECRET)],
        [("x-api-key", SECRET), ("authorization", f"bearer {SECRET}")],
    ],
)
def test_a_key_lets_in_from_any_address_under_any_host(
    headers: list[tuple[str, str]], held: bool
) -> None:
    assert Known(key(1), key(2), held=held).identify(head(*headers)).key == key(1)


def test_a_key_in_memory_is_not_looked_for() -> None:
    known = Known(key(1))
    known.identify(head(("x-api-key", SECRET)))
    assert known.asked == 0


@pytest.mark.parametrize(
    "headers",
    [[], [("authorization", "")], [("authorization", "Bearer")], [("authorization", "Bearer  ")],
     [("x-api-key", "")], [("cookie", f"key={SECRET}")], [("proxy-authorization", SECRET)]],
)  # fmt: skip
def test_without_a_key_nobody_comes_in(headers: list[tuple[str, str]]) -> None:
    error = refusal(head(*headers), key(1))
    assert said(error) == (401, Code.KEY_MISSING)
    assert error.hint is not None
    assert "Authorization: Bearer kh_..." in error.hint


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {SECRET}"), ("authorization", f"Bearer {SECRET}")],
        [("authorization", f"Bearer {SECRET}"), ("authorization", "Basic eDp5")],
        [("x-api-key", SECRET), ("x-api-key", SECRET)],
        [("authorization", f"Bearer {SECRET}"), ("x-api-key", secret(2))],
        [("authorization", f"Bearer {HF_TOKEN}"), ("x-api-key", SECRET)],
    ],
)
def test_two_credentials_are_refused_because_nobody_knows_which_is_meant(
    headers: list[tuple[str, str]],
) -> None:
    assert said(refusal(head(*headers), key(1), key(2))) == (400, Code.KEY_AMBIGUOUS)


@pytest.mark.parametrize(
    ("credential", "code"),
    [
        (SECRET[:-1] + ALPHABET[(ALPHABET.index(SECRET[-1]) + 1) % 62], Code.KEY_MISTYPED),
        (SECRET[:-1], Code.KEY_MISTYPED),
        (SECRET + "0", Code.KEY_MISTYPED),
        (SECRET[:10] + SECRET[11] + SECRET[10] + SECRET[12:], Code.KEY_MISTYPED),
        ("kh_", Code.KEY_MISTYPED),
        ("kh_" + "\xe9" * 49, Code.KEY_MISTYPED),
        (secret(3), Code.KEY_UNKNOWN),
        (HF_TOKEN, Code.HF_TOKEN_SENT),
        ("hf_", Code.HF_TOKEN_SENT),
        ("sk-proj-0123456789", Code.NOT_A_KEY),
        ("ka_" + SECRET[3:], Code.NOT_A_KEY),
        ("KH_" + SECRET[3:], Code.NOT_A_KEY),
        ("' OR 1=1 --", Code.NOT_A_KEY),
        ("kh_' OR 1=1 --", Code.KEY_MISTYPED),
        ("kh_\0", Code.KEY_MISTYPED),
        ("x" * 5000, Code.NOT_A_KEY),
        ("kh_" + "x" * 1_000_000, Code.NOT_A_KEY),
        (digest_of(SECRET.encode()).hex(), Code.NOT_A_KEY),
        ("kh_" + digest_of(SECRET.encode()).hex(), Code.KEY_MISTYPED),
    ],
)  # fmt: skip
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_what_is_no_key_is_told_apart_and_never_repeated(
    credential: str, code: Code, header: str
) -> None:
    shown = f"Bearer {credential}" if header == "authorization" else credential
    error = refusal(head((header, shown)), key(1), key(2))
    assert said(error) == (401, code)
    assert len(credential) < 8 or credential[3:] not in error.explained


def test_an_hf_token_is_told_what_happened() -> None:
    error = refusal(head(("authorization", f"Bearer {HF_TOKEN}")))
    assert error.message == (
        "Your client sent its own Hugging Face token; Keyhole wants a key of its own."
    )
    assert error.hint is not None
    assert "HF_TOKEN=kh_..." in error.hint


@pytest.mark.parametrize("value", ["Basic dXNlcjpwYXNz", "Digest x=1", "Token abc", "kh_a b"])
def test_another_scheme_is_refused(value: str) -> None:
    assert said(refusal(head(("authorization", value)))) == (401, Code.NOT_A_KEY)


def test_only_what_can_be_a_key_is_looked_for() -> None:
    known = Known(key(1))
    for shown in (HF_TOKEN, SECRET[:-1], "sk-1", "kh_" + "0" * 49):
        with pytest.raises(ClientError):
            known.identify(head(("x-api-key", shown)))
    assert known.asked == 0


@pytest.mark.parametrize("held", [True, False])
def test_revoked_and_expired_keys_are_told_since_when(held: bool) -> None:
    asked = head(("x-api-key", SECRET))
    revoked = key(1, revoked_at_ms=1_794_999_999_000, expires_at_ms=1)
    error = refusal(asked, revoked, held=held)
    assert said(error) == (401, Code.KEY_REVOKED)
    assert error.message == "The key was revoked on 2026-11-18 11:06:39 UTC."
    error = refusal(asked, key(1, expires_at_ms=NOW_MS), held=held)
    assert said(error) == (401, Code.KEY_EXPIRED)
    assert error.message == "The key expired on 2026-11-18 11:06:40 UTC."


def test_a_key_lives_up_to_its_last_millisecond() -> None:
    known = Known(key(1, expires_at_ms=NOW_MS + 1))
    assert known.identify(head(("x-api-key", SECRET))).key is not None


def test_a_replaced_key_points_at_its_successor() -> None:
    old = key(1, expires_at_ms=NOW_MS - 1, rotated_to="key_2")
    assert refusal(head(("x-api-key", SECRET)), old).hint == "It was replaced: use its successor."


def test_a_key_that_was_found_under_another_ones_digest_lets_nobody_in() -> None:
    """The digest is compared again after the lookup, whatever the lookup did."""
    wrong = {digest_of(SECRET.encode()): live(key(2))}
    with pytest.raises(ClientError) as caught:
        identify(head(("x-api-key", SECRET)), held=wrong, find=wrong.get, unix_ms=NOW_MS)
    assert caught.value.code is Code.KEY_UNKNOWN


@pytest.mark.parametrize(
    "query",
    [
        f"key={SECRET}", "key=x", "api_key=abc", "API-KEY=abc", "apikey=a", "access_token=a",
        "token=hf_x", "a=1&key=2", "a=1;key=2", f"q={SECRET}", SECRET, f"x={SECRET}y",
        "kh%5F" + SECRET[3:], "%6bey=1", f"q={HF_TOKEN}", "x-api-key=1", "authorization=Bearer",
        "q=ka_0123456789abcdefghij",
    ],
)  # fmt: skip
def test_a_key_in_the_query_is_seen(query: str) -> None:
    assert shows_key(query.encode())


@pytest.mark.parametrize(
    "query", ["", "stream=true", "monkey=1", "keys=1", "key=", "a=kh_short", "q=key", "model=a/b"]
)
def test_a_query_without_one_is_let_by(query: str) -> None:
    assert not shows_key(query.encode())


@pytest.mark.parametrize(
    "path",
    [f"/models/{SECRET}", f"/{SECRET}/generate", f"/models/{HF_TOKEN}", "/kh%5f" + SECRET[3:],
     "/v1/models/kh_0123456789abcdefghij"],
)  # fmt: skip
def test_a_key_in_the_url_is_refused_even_beside_a_good_one(path: str) -> None:
    good = ("x-api-key", secret(2))
    error = refusal(head(good, path=path), key(1), key(2))
    assert said(error) == (400, Code.KEY_IN_URL)
    assert SECRET not in error.explained
    assert said(refusal(head(good, in_query=True), key(2))) == (400, Code.KEY_IN_URL)
    assert SECRET[3:30] not in mask_keys(path)
    assert "hf_" not in mask_keys(path)


@given(st.text(max_size=100).map(lambda text: "/" + text))
@example("/%")
@example("/models/gpt2")
def test_a_path_without_a_key_is_left_as_it_is(path: str) -> None:
    assert mask_keys(path) == path


@pytest.mark.parametrize("path", ["/models/owner/kh_model", "/models/hf_internal/x", "/generate"])
def test_models_with_such_names_are_no_keys(path: str) -> None:
    asked = head(("x-api-key", SECRET), path=path)
    assert Known(key(1)).identify(asked).key == key(1)


@given(st.lists(st.binary(max_size=80), max_size=3), st.lists(st.binary(max_size=80), max_size=3))
def test_any_bytes_are_a_refusal_and_nothing_else(
    bearers: list[bytes], others: list[bytes]
) -> None:
    headers = [("authorization", value) for value in bearers]
    error = refusal(head(*headers, *(("x-api-key", value) for value in others)), key(1))
    assert error.status in {400, 401}


@pytest.mark.parametrize(
    ("models", "asked", "may"),
    [
        ((), "anything/x", True),
        ((), None, True),
        (("gpt2",), "gpt2", True),
        (("gpt2",), "gpt2-large", False),
        (("gpt2",), None, False),
        (("default",), None, True),
        (("meta-llama/*",), "meta-llama/Llama-3.1-8B", True),
        (("meta-llama/*",), "meta-llama/Llama-3.1-8B:fast", True),
        (("meta-llama/*",), "meta-llama", False),
        (("meta-llama/*",), "meta-llama/a/b", False),
        (("meta-llama/*",), "xmeta-llama/a", False),
        (("*",), "gpt2", True),
        (("*",), "a/b", False),
        (("*/*", "gpt2"), "gpt2", True),
        (("a.c",), "abc", False),
    ],
)
def test_a_key_may_use_the_models_that_it_names(
    models: tuple[str, ...], asked: str | None, may: bool
) -> None:
    known = key(1, models=models)
    assert may_use(known, asked) is may
    if may:
        check_model(known, asked)
        return
    with pytest.raises(ClientError) as caught:
        check_model(known, asked)
    assert said(caught.value) == (403, Code.MODEL_NOT_ALLOWED)
    assert models[0] in caught.value.explained


def test_who_needs_no_key_may_use_every_model() -> None:
    check_model(None, "anything")
    assert may_use(None, None)


def test_only_the_admin_key_is_the_admins() -> None:
    def is_admin_key(credential: bytes) -> bool:
        return credential == b"ka_admin"

    check_admin(head(("authorization", "Bearer ka_admin")), is_admin_key)
    check_admin(head(("x-api-key", "ka_admin")), is_admin_key)
    for headers in ([], [("x-api-key", SECRET)], [("authorization", "Basic ka_admin")]):
        with pytest.raises(ClientError) as caught:
            check_admin(head(*headers), is_admin_key)
        assert caught.value.status == 401
