"""Which place a path belongs to, and which methods it takes."""

from __future__ import annotations

import pytest

from keyhole.dialects.generate import GenerateDialect
from keyhole.errors import ClientError, Code
from keyhole.policy.paths import CALL_METHODS, PAGE_METHODS, Paths, check_method
from keyhole.wire.http import Head, Reply


def page(_: Head) -> Reply:
    return Reply(status=200, headers=[])


GENERATE = GenerateDialect()
PATHS = Paths([GENERATE], {"/page": page}, GENERATE)


def refusal(method: str, path: str) -> ClientError:
    with pytest.raises(ClientError) as caught:
        check_method(Head(method=method, path=path), PATHS.find(path))
    return caught.value


def test_a_dialects_path_takes_calls_and_a_page_is_read() -> None:
    assert PATHS.find("/generate").methods == CALL_METHODS
    assert PATHS.find("/generate").page is None
    assert PATHS.find("/page").methods == PAGE_METHODS
    assert PATHS.find("/page").page is page


def test_a_call_that_comes_by_get_takes_what_a_page_takes() -> None:
    there = Paths([], {}, GENERATE, questions=[GENERATE])

    assert there.find("/generate").methods == PAGE_METHODS
    assert there.find("/generate").page is None
    assert not there.takes_calls("/generate")


@pytest.mark.parametrize(
    "path",
    ["", "/", "generate", "/generate/", "//generate", "/Generate", "/%67enerate", "/generate%00",
     "/generate?", "/x/../generate", "/generate ", "*"],
)  # fmt: skip
def test_any_other_path_is_denied_whatever_the_method(path: str) -> None:
    for method in ("GET", "POST", "OPTIONS", "X"):
        error = refusal(method, path)
        assert (error.code, error.status) == (Code.PATH_NOT_FOUND, 404)
    assert PATHS.find(path).dialect is GENERATE


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "post", "", "TRACE"])
def test_a_method_that_is_not_taken_is_told_which_are(method: str) -> None:
    error = refusal(method, "/generate")
    assert (error.code, error.status) == (Code.METHOD_NOT_ALLOWED, 405)
    assert error.allow == CALL_METHODS
    assert refusal("POST", "/page").allow == PAGE_METHODS


def test_the_methods_that_are_taken_pass() -> None:
    for method in CALL_METHODS:
        check_method(Head(method=method, path="/generate"), PATHS.find("/generate"))
    for method in PAGE_METHODS:
        check_method(Head(method=method, path="/page"), PATHS.find("/page"))
