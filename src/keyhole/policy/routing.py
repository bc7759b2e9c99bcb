"""Which targets a call tries, in which order, and when the next one is worth trying.

Order is the configuration's. Weights, health and latency are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from keyhole.catalog import AS_ASKED, DEFAULT_ROUTE, Catalog, Route, Target
from keyhole.errors import ClientError, Code, UpstreamError
from keyhole.wire.call import Call

_WORTH_ANOTHER_TARGET = frozenset(
    {
        Code.MODEL_NOT_PULLED,
        Code.UNSUPPORTED_BY_UPSTREAM,
        Code.UPSTREAM_ERROR,
        Code.UPSTREAM_GONE,
        Code.UPSTREAM_LOADING,
        Code.UPSTREAM_MODEL_NOT_FOUND,
        Code.UPSTREAM_NOT_JSON,
        Code.UPSTREAM_OUT_OF_CREDITS,
        Code.UPSTREAM_RATE_LIMITED,
        Code.UPSTREAM_TIMEOUT,
        Code.UPSTREAM_TOKEN_REFUSED,
        Code.UPSTREAM_UNAVAILABLE,
        Code.UPSTREAM_UNREACHABLE,
    }
)

_MAX_NAMES = 10
_LOADING_ASKED_WITHIN_S = (0.25, 2.0)
"""How soon, and how late, a model that loads is asked again: upstreams say 20 s of any (hosted
API), 0 or nothing at all (llama.cpp), and a call that is held should be answered when it can."""


def settle_model(catalog: Catalog, call: Call) -> Call:
    """The call, of the default route where its model is a word for none that no route is named."""
    if not call.is_model_optional or call.model in catalog.exact:
        return call
    return replace(call, model=None, is_model_optional=False)


def find_route(catalog: Catalog, model: str | None) -> Route:
    """The route for a model's public name; raises ClientError (404) where there is none."""
    route = catalog.find(model)
    if route is None:
        raise ClientError(
            Code.MODEL_NOT_FOUND,
            f"No route serves the model '{model or DEFAULT_ROUTE}'.",
            status=404,
            hint=_names(catalog),
            model=model,
        )
    return route


def plan(route: Route, model: str | None) -> Sequence[Target]:
    """The targets to try, in order, with the model's name filled in where it is as asked."""
    if not route.is_as_asked or not model:
        return route.targets
    return [
        Target(target.upstream, model) if target.model == AS_ASKED else target
        for target in route.targets
    ]


def is_worth_another_target(error: UpstreamError) -> bool:
    """Whether another target might do better: not where the request itself was refused."""
    return error.code in _WORTH_ANOTHER_TARGET


def ask_again_after_s(error: UpstreamError) -> float:
    """How long to wait for a target that loads: what it says, but neither too short nor long."""
    soonest_s, latest_s = _LOADING_ASKED_WITHIN_S
    told = error.retry_after or ""
    return min(max(float(told), soonest_s), latest_s) if told.isdecimal() else latest_s


def is_worth_waiting(left_s: float) -> bool:
    """Whether so much patience is left that a target which loads is asked once more."""
    return left_s >= _LOADING_ASKED_WITHIN_S[0]


def patience_ends_s(began_s: float, patience_s: float, deadline_s: float) -> float:
    """Until when a call is held for a model that loads.

    That is early enough for the last try to have some time, so that a client whose deadline is
    near hears of the loading and not of the deadline.
    """
    return min(began_s + patience_s, deadline_s - _LOADING_ASKED_WITHIN_S[1])


def _names(catalog: Catalog) -> str:
    names = [route.name for route in catalog.routes]
    if not names:
        return "There are no routes at all."
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"There are: {', '.join(names[:_MAX_NAMES])}{more}."
