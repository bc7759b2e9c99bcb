"""Names that may be looked up and put into paths, and which route answers for one."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.catalog import (
    MAX_MODEL_NAME_CHARS,
    Access,
    Catalog,
    Route,
    Target,
    Upstream,
    is_model_name,
)
from keyhole.secret import Secret

ENGINE = Upstream(name="engine", kind="engine", url="unix:/data/engine.sock")
TARGETS = (Target(ENGINE, "keyhole-demo"),)


def route(name: str) -> Route:
    return Route(name=name, targets=TARGETS)


def catalog(*names: str) -> Catalog:
    routes = [route(name) for name in names]
    return Catalog(
        upstreams={"engine": ENGINE},
        exact={route.name: route for route in routes if not route.is_pattern},
        patterns=tuple(route for route in routes if route.is_pattern),
    )


@pytest.mark.parametrize(
    "name",
    ["gpt2", "openai-community/gpt2", "owner/name:fastest", "llama3.2:3b", "hf.co/owner/name:Q4",
     "a/b/c/d", "_", "v1.0", "name@rev", "a+b", "x" * MAX_MODEL_NAME_CHARS],
)  # fmt: skip
def test_names_that_models_have_are_taken(name: str) -> None:
    assert is_model_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", ".hidden", "a/.b", "-a",
     "a b", "a\n", "\na", "a\x00", "a?b", "a#b", "a%2fb", "a\\b", "é", "a*", "*", "a/b/c/d/e",
     "http://a", ":a", "x" * (MAX_MODEL_NAME_CHARS + 1), "\u0661"],
)  # fmt: skip
def test_names_that_could_mean_another_path_are_not(name: str) -> None:
    assert not is_model_name(name)


@given(st.text("ab./-:@+_%?#\\ \n*é", max_size=20))
def test_a_name_stays_itself_within_a_path(name: str) -> None:
    """No part of it is empty, `.` or `..`, and quoting changes only what must be quoted."""
    if is_model_name(name):
        assert not {"", ".", ".."} & set(name.split("/"))
        assert quote(name, safe="/:@+") == name


@pytest.mark.parametrize(
    ("pattern", "model", "answers"),
    [
        ("*/*", "owner/name", True),
        ("*/*", "owner/name:fastest", True),
        ("*/*", "name", False),
        ("*/*", "hf.co/owner/name", False),
        ("owner/*", "owner/name", True),
        ("owner/*", "other/name", False),
        ("owner/*", "owner/", False),
        ("gpt*", "gpt2", True),
        ("gpt*", "gpt", False),
        ("gpt*", "gpt/2", False),
        ("*", "gpt2", True),
        ("*", "owner/name", False),
        ("*-instruct", "llama-instruct", True),
        ("a.c*", "abcd", False),
        ("gpt2", "gpt2", True),
        ("gpt2", "GPT2", False),
    ],
)
def test_a_star_stands_for_anything_but_a_slash_and_never_for_nothing(
    pattern: str, model: str, answers: bool
) -> None:
    assert route(pattern).matches(model) == answers


def test_exact_names_come_before_patterns_and_patterns_in_their_order() -> None:
    found = catalog("*/*", "a/*", "a/b", "default").find
    assert found("a/b").name == "a/b"
    assert found("a/c").name == "*/*"
    assert found("gpt2") is None


def test_a_request_that_names_no_model_gets_the_default_route_or_none() -> None:
    assert catalog("default", "*").find(None).name == "default"
    assert catalog("gpt2").find(None) is None


def test_routes_are_listed_in_the_order_in_which_they_are_tried() -> None:
    listed = [route.name for route in catalog("*/*", "b", "a", "c/*").routes]
    assert listed == ["b", "a", "*/*", "c/*"]


def test_a_target_is_written_as_in_the_configuration() -> None:
    assert str(Target(ENGINE, "openai-community/gpt2")) == "engine/openai-community/gpt2"


def test_the_nouns_do_not_change_once_they_are_made() -> None:
    for noun, field in ((ENGINE, "url"), (TARGETS[0], "model"), (route("a"), "targets")):
        with pytest.raises(AttributeError):
            setattr(noun, field, "other")


def test_a_catalog_does_not_give_out_its_secrets() -> None:
    secret = Secret("hf_OnlyRevealMaySayThis")
    upstream = Upstream(name="hf", kind="huggingface", url="https://a", secret=secret)
    whole = Catalog(
        upstreams={"hf": upstream}, exact={"a": Route(name="a", targets=(Target(upstream, "b"),))}
    )
    assert "OnlyReveal" not in repr(whole)
    with pytest.raises(TypeError):
        msgspec.json.encode(whole)


def test_by_default_only_local_callers_may_come_in() -> None:
    assert Access().is_local_only
    assert Access().allowed_origins == ()
