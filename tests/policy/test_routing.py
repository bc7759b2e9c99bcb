"""The route of a model's name, and what is said where there is none."""

from __future__ import annotations

import pytest

from keyhole.catalog import Catalog, Route
from keyhole.errors import ClientError, Code
from keyhole.policy.routing import find_route, settle_model
from keyhole.wire.call import Call


def catalog(count: int) -> Catalog:
    names = [f"m{number}" for number in range(count)]
    return Catalog(upstreams={}, exact={name: Route(name=name, targets=()) for name in names})


@pytest.mark.parametrize(
    ("count", "hint"),
    [
        (0, "There are no routes at all."),
        (2, "There are: m0, m1."),
        (10, "There are: m0, m1, m2, m3, m4, m5, m6, m7, m8, m9."),
        (12, "There are: m0, m1, m2, m3, m4, m5, m6, m7, m8, m9 and 2 more."),
    ],
)
def test_a_name_without_a_route_is_told_what_there_is(count: int, hint: str) -> None:
    with pytest.raises(ClientError) as caught:
        find_route(catalog(count), "gpt2")
    assert caught.value.code == Code.MODEL_NOT_FOUND
    assert caught.value.status == 404
    assert caught.value.message == "No route serves the model 'gpt2'."
    assert caught.value.hint == hint


@pytest.mark.parametrize("is_optional", [True, False])
@pytest.mark.parametrize("names", [("default",), ("default", "tgi")])
def test_a_word_for_no_model_is_a_routes_name_where_one_has_it(
    names: tuple[str, ...], is_optional: bool
) -> None:
    exact = {name: Route(name=name, targets=()) for name in names}
    here = Catalog(upstreams={}, exact=exact, patterns=(Route(name="*", targets=()),))
    call = settle_model(here, Call(model="tgi", is_model_optional=is_optional))
    assert call.model == (None if is_optional and "tgi" not in names else "tgi")
