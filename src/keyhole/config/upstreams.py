"""The sections [upstream.NAME] to Upstreams, and the two that are there without being written.

Which kinds there are, and where each usually is, it hears from the backends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from keyhole.backends.base import Backend
from keyhole.catalog import Upstream
from keyhole.config.document import Document
from keyhole.config.tokens import FoundToken, may_have_found_token
from keyhole.config.values import (
    Check,
    SecretPlace,
    Wrong,
    budget,
    check_upstream_name,
    flag,
    list_of,
    meant,
    one_of,
    organisation,
    seconds,
    secret_place,
    shown,
    text,
    url,
    whole,
)
from keyhole.secret import Secret
from keyhole.wire.keys import NO_LIMITS, Limits

MAX_PER_MINUTE = 10**12
"""Of requests or tokens: more than anybody means."""

_LIMITS = ("rpm", "tpm", "concurrency", "budget")

ENGINE = "engine"
"""The built-in upstream that is Keyhole's own engine."""
HUGGING_FACE = "hf"
"""The built-in upstream that a found token makes."""

UPSTREAM: Mapping[str, Check] = {
    "kind": text,
    "url": url,
    "token": secret_place,
    "bill_to": organisation,
    "completions": flag,
    "accepts": list_of(one_of("top_k", "repetition_penalty"), example='["top_k"]'),
    "connect_timeout_s": seconds(0.001, 86400),
    "silence_timeout_s": seconds(0.001, 86400),
    "total_timeout_s": seconds(0.001, 86400),
    "max_response_bytes": whole(1024, 1024**3, unit="bytes"),
    "max_connections": whole(1, 65535, unit="connections"),
    "rpm": whole(1, MAX_PER_MINUTE, unit="requests"),
    "tpm": whole(1, MAX_PER_MINUTE, unit="tokens"),
    "concurrency": whole(1, 1_000_000, unit="requests"),
    "budget": budget,
}
"""The keys of [upstream.NAME]."""

_BUILT_IN_KINDS = {ENGINE: "engine", HUGGING_FACE: "huggingface"}

# The kinds that a setting means something to; the settings that are not here are for all.
_ONLY_FOR: Mapping[str, tuple[str, ...]] = {
    "completions": ("openai",),
    "accepts": ("openai", "huggingface"),
}

# The paths that a backend puts behind the URL itself.
_ADDED_PATHS: Mapping[str, re.Pattern[str]] = {
    "openai": re.compile(r"/(?:chat/completions|completions|models)$"),
    "huggingface": re.compile(r"/v1(?:/chat/completions|/models)?$|/chat/completions$"),
    "tgi": re.compile(r"/generate(?:_stream)?$"),
    "engine": re.compile(r"/generate(?:_stream)?$"),
    "hf-inference": re.compile(r"/models(?:/[^/]+){0,2}$"),
}

Upstreams = Mapping[str, Upstream | None]
"""Upstreams by name; None for one that has a problem, so that naming it is not another."""


class UpstreamReader:
    """Reads the upstreams of one document; what is wrong becomes the document's problems."""

    def __init__(
        self,
        document: Document,
        *,
        backends: Mapping[str, Backend],
        engine_url: str,
        token: FoundToken | None,
        read_secret: Callable[[SecretPlace], Secret],
    ) -> None:
        self._document = document
        self._backends = backends
        self._engine_url = engine_url
        self._token = token
        self._read_secret = read_secret
        self.limits: dict[str, Limits] = {}
        """What each upstream may be used, by name; those without limits are not here."""

    def read(self) -> Upstreams:
        """Every upstream by name, the built-in ones included."""
        upstreams: dict[str, Upstream | None] = {
            name: self._checked(name, table)
            for name, table in self._document.named("upstream").items()
        }
        if ENGINE not in upstreams:
            kind = _BUILT_IN_KINDS[ENGINE]
            upstreams[ENGINE] = Upstream(name=ENGINE, kind=kind, url=self._engine_url)
        router = self._backends.get(_BUILT_IN_KINDS[HUGGING_FACE])
        if self._token and router and router.default_url and HUGGING_FACE not in upstreams:
            upstreams[HUGGING_FACE] = Upstream(
                name=HUGGING_FACE,
                kind=router.kind,
                url=router.default_url,
                secret=self._found_secret(router.kind, router.default_url),
            )
        return upstreams

    def _checked(self, name: str, table: dict[str, Any]) -> Upstream | None:
        problems_before = len(self._document.problems)
        try:
            check_upstream_name(name)
        except Wrong as wrong:
            self._document.blame_wrong(("upstream", name), wrong)
        values = self._document.section(("upstream", name), table, UPSTREAM)
        limits = Limits(**{key: values.pop(key, None) for key in _LIMITS})
        if limits != NO_LIMITS:
            self.limits[name] = limits
        upstream = self._upstream(name, table, values)
        return upstream if len(self._document.problems) == problems_before else None

    def _upstream(
        self, name: str, table: Mapping[str, Any], values: dict[str, Any]
    ) -> Upstream | None:
        kind = self._kind(name, table, values.pop("kind", None))
        secret = self._secret(name, values.pop("token", None))
        if kind is None:
            return None
        base = self._url(name, kind, table, values.pop("url", None))
        for key, kinds in _ONLY_FOR.items():
            if key in table and kind not in kinds:
                message = f"means nothing to an upstream of kind {kind}"
                hint = f"only to {' and '.join(kinds)}"
                self._document.blame(("upstream", name, key), message, hint)
        if base is None:
            return None
        return Upstream(
            name=name,
            kind=kind,
            url=base,
            secret=secret if "token" in table else self._found_secret(kind, base),
            has_completions=values.pop("completions", False),
            **values,
        )

    def _kind(self, name: str, table: Mapping[str, Any], given: str | None) -> str | None:
        """The upstream's kind; a built-in one may leave it out."""
        if "kind" not in table:
            built_in = _BUILT_IN_KINDS.get(name)
            if built_in is None:
                kinds = f"one of {', '.join(self._backends)}"
                self._document.blame_missing(("upstream", name), "kind", kinds)
            return built_in
        if given is not None and given not in self._backends:
            message = f"{shown(given)} is not a kind of upstream"
            hint = meant(given, self._backends)
            self._document.blame(("upstream", name, "kind"), message, hint)
            return None
        return given

    def _url(self, name: str, kind: str, table: Mapping[str, Any], given: str | None) -> str | None:
        """The upstream's URL, given or its kind's own; None where there is no good one."""
        if "url" not in table:
            return self._usual_url(name, kind)
        if given is None:
            return None
        added = _ADDED_PATHS.get(kind)
        if added and not given.startswith("unix:") and (found := added.search(given)):
            message = f"must end before {found[0]}: Keyhole adds the path itself"
            hint = f'write url = "{given[: found.start()]}"'
            self._document.blame(("upstream", name, "url"), message, hint)
            return None
        return given

    def _usual_url(self, name: str, kind: str) -> str | None:
        if name == ENGINE and kind == _BUILT_IN_KINDS[ENGINE]:
            return self._engine_url
        usual = self._backends[kind].default_url
        if usual is None:
            message = f"url is missing, and kind {kind} has no usual one"
            hint = 'such as url = "http://127.0.0.1:8080"'
            self._document.blame(("upstream", name), message, hint)
        return usual

    def _secret(self, name: str, place: SecretPlace | None) -> Secret | None:
        if place is None:
            return None
        try:
            return self._read_secret(place)
        except Wrong as wrong:
            self._document.blame_wrong(("upstream", name, "token"), wrong)
            return None

    def _found_secret(self, kind: str, base: str) -> Secret | None:
        """The machine's own token, where that upstream may have it."""
        return self._token.secret if self._token and may_have_found_token(kind, base) else None
