"""A refusal by a limit is 429 in every dialect, in its own words, with what is left."""

from __future__ import annotations

import msgspec
import pytest

from keyhole.dialects.base import ClientDialect
from keyhole.dialects.generate import GenerateDialect
from keyhole.dialects.huggingface import HuggingFaceDialect
from keyhole.dialects.openai.client import OpenAiDialect
from keyhole.dialects.tgi_client import TgiDialect
from keyhole.errors import ClientError, Code

DIALECTS = (GenerateDialect(), HuggingFaceDialect(), OpenAiDialect(), TgiDialect())
LEFT = ("ratelimit", '"requests";r=0;t=40')


def limited(code: Code, retry_after_s: int | None = 40) -> ClientError:
    error = ClientError(code, "The key 'bob' has nothing left.", status=429)
    error.retry_after_s = retry_after_s
    error.headers = (LEFT,)
    return error


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("retry_after_s", [40, None])
def test_every_dialect_says_when_to_come_back(
    dialect: ClientDialect, retry_after_s: int | None
) -> None:
    reply = dialect.refuse(limited(Code.REQUESTS_LIMITED, retry_after_s), "id")
    told = dict(reply.headers)
    assert reply.status == 429
    assert told["ratelimit"] == LEFT[1]
    assert told.get("retry-after") == (None if retry_after_s is None else "40")
    assert b"The key 'bob' has nothing left." in reply.body


@pytest.mark.parametrize(
    ("code", "type_", "word"),
    [
        (Code.REQUESTS_LIMITED, "requests", "rate_limit_exceeded"),
        (Code.CONCURRENCY_LIMITED, "requests", "rate_limit_exceeded"),
        (Code.TOKENS_LIMITED, "tokens", "rate_limit_exceeded"),
        (Code.BUDGET_SPENT, "insufficient_quota", "insufficient_quota"),
    ],
)
def test_openai_has_words_of_its_own(code: Code, type_: str, word: str) -> None:
    error = msgspec.json.decode(OpenAiDialect().refuse(limited(code), "id").body)["error"]
    assert (error["type"], error["code"]) == (type_, word)


def test_openais_sdks_are_kept_from_asking_in_vain() -> None:
    """They send a 429 again, twice, unless they are told that it is no use."""
    spent = OpenAiDialect().refuse(limited(Code.BUDGET_SPENT, None), "id")
    assert dict(spent.headers)["x-should-retry"] == "false"
    soon = OpenAiDialect().refuse(limited(Code.BUDGET_SPENT, 5), "id")
    assert "x-should-retry" not in dict(soon.headers)


def test_tgi_calls_it_overloaded() -> None:
    reply = TgiDialect().refuse(limited(Code.TOKENS_LIMITED), "id")
    assert msgspec.json.decode(reply.body)["error_type"] == "overloaded"


def test_what_never_fits_is_the_requests_fault() -> None:
    error = ClientError(Code.OVER_LIMIT, "It would never fit.")
    statuses = [dialect.refuse(error, "id").status for dialect in DIALECTS]
    assert statuses == [400, 400, 400, 422]
    assert all("retry-after" not in dict(d.refuse(error, "id").headers) for d in DIALECTS)
