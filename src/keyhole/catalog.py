"""The configured nouns, frozen: Upstream, Target, Route, Access, Catalog.

It holds no defaults from the environment and reads no file; `config` makes these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import force_setattr

from keyhole.secret import Secret

DEFAULT_ROUTE = "default"
"""The route of a request that names no model."""

AS_ASKED = "*"
"""A target's model that stands for the name as the client asked for it."""

# One to four segments, as in `gpt2`, `openai-community/gpt2`, `owner/name:fastest`,
# `llama3.2:3b`, `hf.co/owner/name:Q4`. A segment begins with a word character, so that no
# name is ever `..` or empty: names become parts of upstream paths.
_MODEL_NAME = re.compile(r"[A-Za-z0-9_][\w.\-:@+]*(?:/[A-Za-z0-9_][\w.\-:@+]*){0,3}", re.ASCII)
MAX_MODEL_NAME_CHARS = 200


def is_model_name(name: str) -> bool:
    """Whether the name is one that may be looked up, logged and put into a path."""
    return len(name) <= MAX_MODEL_NAME_CHARS and _MODEL_NAME.fullmatch(name) is not None


def does_match(pattern: str, model: str) -> bool:
    """Whether a model's public name is this one, where a `*` is any run of characters but `/`."""
    if "*" not in pattern:
        return pattern == model
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch("[^/]+".join(parts), model) is not None


class Upstream(Struct, frozen=True, kw_only=True):
    """A configured instance of some backend: where it is, its secret, its bounds."""

    name: str
    kind: str
    """The backend's name: hf-inference, huggingface, tgi, openai or engine."""
    url: str
    """What stands before the backend's own path; or `unix:/path/to.sock`."""
    secret: Secret | None = None
    bill_to: str | None = None
    """The organisation that Hugging Face bills (`X-HF-Bill-To`)."""
    has_completions: bool = False
    """An `openai` upstream that serves /completions for text; otherwise /chat/completions."""
    accepts: tuple[str, ...] = ()
    """Parameters beyond the dialect's own that this server takes, such as top_k."""
    connect_timeout_s: float = 5.0
    silence_timeout_s: float = 120.0
    """How long it may be silent in the middle of an answer."""
    total_timeout_s: float = 600.0
    max_response_bytes: int = 16 * 1024 * 1024
    max_connections: int = 4096
    """From one worker, those that rest included."""


class Target(Struct, frozen=True):
    """An upstream, and the name that it has for the model."""

    upstream: Upstream
    model: str
    label: str = ""
    """As in the configuration: UPSTREAM/MODEL; filled in by itself."""

    def __post_init__(self) -> None:
        force_setattr(self, "label", f"{self.upstream.name}/{self.model}")

    def __str__(self) -> str:
        """The label."""
        return self.label


class Route(Struct, frozen=True, kw_only=True):
    """A public model name or pattern, and the targets that answer for it, in order."""

    name: str
    targets: tuple[Target, ...]
    first_byte_timeout_s: float | None = None
    """None: the client dialect's own default."""
    max_output_tokens: int | None = None
    """What is asked of the upstream when the client names no maximum."""
    is_as_asked: bool = False
    """Whether a target's model is AS_ASKED; filled in by itself."""

    def __post_init__(self) -> None:
        is_as_asked = any(target.model == AS_ASKED for target in self.targets)
        force_setattr(self, "is_as_asked", is_as_asked)

    @property
    def is_pattern(self) -> bool:
        """Whether the name holds a `*`, which stands for any run of characters but `/`."""
        return "*" in self.name

    def matches(self, model: str) -> bool:
        """Whether this route answers for the model's public name."""
        return does_match(self.name, model)


class Access(Struct, frozen=True, kw_only=True):
    """Who may call while no keys exist."""

    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may call, as in `https://app.example.org`."""
    is_local_only: bool = True
    """False where an application that Keyhole is mounted in decides who may call."""


class Catalog(Struct, frozen=True, kw_only=True):
    """All upstreams and routes, as loaded; nothing is merged or looked up later."""

    upstreams: Mapping[str, Upstream]
    exact: Mapping[str, Route]
    """Routes by their public name."""
    patterns: tuple[Route, ...] = ()
    """Routes whose name is a pattern, in the order of the file; exact names come first."""

    def find(self, model: str | None) -> Route | None:
        """The route that answers for a model's public name; None asks for the default."""
        wanted = DEFAULT_ROUTE if model is None else model
        if found := self.exact.get(wanted):
            return found
        return next((route for route in self.patterns if route.matches(wanted)), None)

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every route, in the order in which `find` tries them."""
        return (*self.exact.values(), *self.patterns)
