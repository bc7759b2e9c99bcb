"""Texts up to their stop sequence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyhole.wire.stops import StopCutter, cut

LETTERS = st.text("ab\n", max_size=12)


def test_a_text_is_cut_at_the_first_of_all_stop_sequences() -> None:
    assert cut("one two three", ("three", "two")) == "one "
    assert cut("one", ("two", "")) == "one"
    assert cut("one", ()) == "one"


def test_nothing_is_held_back_that_cannot_begin_a_stop_sequence() -> None:
    cutter = StopCutter(("END",))

    assert [cutter.feed(piece) for piece in ("on", "eE", "x", "EN")] == ["on", "e", "Ex", ""]
    assert (cutter.end(), cutter.is_over) == ("EN", False)


@given(pieces=st.lists(LETTERS, max_size=8), stops=st.lists(LETTERS, max_size=3))
def test_any_split_gives_the_text_before_the_stop_sequence(
    pieces: list[str], stops: list[str]
) -> None:
    cutter = StopCutter(tuple(stops))
    text = "".join(pieces)

    assert "".join([*map(cutter.feed, pieces), cutter.end()]) == cut(text, tuple(stops))
    assert cutter.is_over == (cut(text, tuple(stops)) != text)
