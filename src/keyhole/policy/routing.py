"""Which targets a call tries, in which order, and when the next one is worth trying.

Order is the configuration's. Weights, health and latency are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from keyhole.catalog import AS_ASKED, DEFAULT_ROUTE, Catalog, Route, Target
from keyhole.errors import ClientError, Code, UpstreamError

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


def _names(catalog: Catalog) -> str:
    names = [route.name for route in catalog.routes]
    if not names:
        return "There are no routes at all."
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"There are: {', '.join(names[:_MAX_NAMES])}{more}."
