"""Every error that Keyhole raises on purpose: whose fault it is, its code, and what to do.

It does not know how any dialect writes an error down; that is each dialect's `refuse`.

    KeyholeError
    +-- ClientError      the caller's request cannot be served as it stands (4xx)
    +-- UpstreamError    what stands behind the gateway failed or refused
    +-- GatewayError     Keyhole itself failed, or cannot serve now (5xx)
    +-- SetupError       the operator's configuration or machine; printed, never sent

A message says what happened, with the values; a hint says what to do. Neither ever holds a
secret or a prompt: both go to clients and to logs.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """The stable, documented slug of each error (docs/errors.md has one row for each)."""

    # The client's
    ADMIN_KEY_NEEDED = "admin_key_needed"
    BODY_TOO_LARGE = "body_too_large"
    BUDGET_SPENT = "budget_spent"
    CALLER_NOT_LOCAL = "caller_not_local"
    CONCURRENCY_LIMITED = "concurrency_limited"
    EXCHANGE_NOT_FOUND = "exchange_not_found"
    HOST_NOT_ALLOWED = "host_not_allowed"
    INVALID_INPUT = "invalid_input"
    INVALID_JSON = "invalid_json"
    INVALID_PARAMETER = "invalid_parameter"
    HEAD_TOO_LARGE = "head_too_large"
    HF_TOKEN_SENT = "hf_token_sent"  # noqa: S105  # a slug, not a password
    KEY_AMBIGUOUS = "key_ambiguous"
    KEY_EXPIRED = "key_expired"
    KEY_IN_URL = "key_in_url"
    KEY_MISSING = "key_missing"
    KEY_MISTYPED = "key_mistyped"
    KEY_REVOKED = "key_revoked"
    KEY_UNKNOWN = "key_unknown"
    MALFORMED_REQUEST = "malformed_request"
    KEY_NOT_FOUND = "key_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    MISSING_INPUT = "missing_input"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_A_KEY = "not_a_key"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    NAME_TAKEN = "name_taken"
    OVER_LIMIT = "over_limit"
    PATH_NOT_FOUND = "path_not_found"
    PRICE_UNKNOWN = "price_unknown"
    REQUESTS_LIMITED = "requests_limited"
    REQUEST_TOO_SLOW = "request_too_slow"
    TOKENS_LIMITED = "tokens_limited"
    TOO_MUCH_BUFFERED = "too_much_buffered"
    UNKNOWN_PARAMETER = "unknown_parameter"
    UNSUPPORTED_BY_UPSTREAM = "unsupported_by_upstream"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"

    # The upstream's
    MODEL_NOT_PULLED = "model_not_pulled"
    UPSTREAM_ANSWER_TOO_LARGE = "upstream_answer_too_large"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_GONE = "upstream_gone"
    UPSTREAM_LOADING = "upstream_loading"
    UPSTREAM_MODEL_NOT_FOUND = "upstream_model_not_found"
    UPSTREAM_NOT_JSON = "upstream_not_json"
    UPSTREAM_OUT_OF_CREDITS = "upstream_out_of_credits"
    UPSTREAM_RATE_LIMITED = "upstream_rate_limited"
    UPSTREAM_REFUSED_REQUEST = "upstream_refused_request"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_TOKEN_REFUSED = "upstream_token_refused"  # noqa: S105  # a slug, not a password
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"

    # Keyhole's own
    CLERK_UNAVAILABLE = "clerk_unavailable"
    INTERNAL_ERROR = "internal_error"
    JOURNAL_FULL = "journal_full"
    KEYS_UNAVAILABLE = "keys_unavailable"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    LIMITS_ELSEWHERE = "limits_elsewhere"
    SHUTTING_DOWN = "shutting_down"


SOON_OVER = frozenset({Code.KEYS_UNAVAILABLE, Code.TOO_MUCH_BUFFERED, Code.SHUTTING_DOWN})
"""Of our own errors those that another try may not meet, a second later."""


class KeyholeError(Exception):
    """The root: a code, a message for people, and optionally a hint of what to do."""

    def __init__(
        self, code: Code, message: str, *, hint: str | None = None, model: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.model = model
        """The model that it is about, for dialects that name it; None where it is about none."""

    @property
    def explained(self) -> str:
        """The message, and the hint behind it where there is one."""
        return f"{self.message} {self.hint}" if self.hint else self.message


class ClientError(KeyholeError):
    """The caller's request cannot be served as it stands; `status` is a 4xx."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        status: int = 400,
        hint: str | None = None,
        allow: tuple[str, ...] = (),
        param: str | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__(code, message, hint=hint, model=model)
        self.status = status
        self.param = param
        """The field of the body that is at fault, for dialects that say so."""
        self.allow = allow
        """The methods for the `Allow` header of a 405."""
        self.retry_after_s: int | None = None
        """After how many seconds the same request may do better; None where waiting is no use."""
        self.headers: tuple[tuple[str, str], ...] = ()
        """What else the reply's head says, in every dialect: of a limit, what is left."""


class UpstreamError(KeyholeError):
    """An upstream could not be reached, was late, refused, or answered nonsense."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        hint: str | None = None,
        upstream_status: int | None = None,
        retry_after: str | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__(code, message, hint=hint, model=model)
        self.upstream_status = upstream_status
        """The status that the upstream answered with; None if it never answered."""
        self.retry_after = retry_after
        """When the upstream says to come back: whole seconds or a date; None if it does not."""
        self.estimated_time_s: float | None = None
        """How long the upstream thinks that its model still loads; None if it does not say."""
        self.upstream_code: str | None = None
        """Its own word for a request that it refused, if it is of the client's own format."""
        self.upstream_param: str | None = None
        """The field that it refused; likewise."""


class GatewayError(KeyholeError):
    """Keyhole itself failed or cannot serve now; `status` is a 5xx."""

    def __init__(
        self, code: Code, message: str, *, status: int = 500, hint: str | None = None
    ) -> None:
        super().__init__(code, message, hint=hint)
        self.status = status


class SetupError(Exception):
    """The operator's configuration, state or machine does not allow it; one line, exit 1."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The message, and what to do behind it."""
        return f"{self.message} ({self.hint})" if self.hint else self.message
