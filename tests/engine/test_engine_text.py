"""Tokens to text, piece by piece, and stop strings in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_gpt2 import END, train_tokenizer
from tokenizers import Tokenizer

from keyhole.engine.text import PieceDecoder, StopStrings, Vocabulary

TOKENIZER = Tokenizer.from_str(train_tokenizer().to_str())
VOCABULARY = Vocabulary(TOKENIZER)
END_ID = TOKENIZER.token_to_id(END)


def pieces_of(tokens):
    decoder = PieceDecoder(VOCABULARY)
    return [*(decoder.push(token) for token in tokens), decoder.flush()]


@given(st.lists(st.integers(1, TOKENIZER.get_vocab_size() - 1), max_size=60))
def test_any_tokens_in_pieces_give_the_text_of_all(tokens):
    """Broken bytes, too, come out as the tokenizer writes them."""
    assert "".join(pieces_of(tokens)) == TOKENIZER.decode(tokens)


@given(st.text(max_size=40))
def test_a_piece_never_ends_inside_a_character(text):
    tokens = TOKENIZER.encode(text).ids

    assert "".join(pieces_of(tokens)) == TOKENIZER.decode(tokens)
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces_of(tokens))


def test_a_character_comes_with_its_last_byte():
    tokens = TOKENIZER.encode("aé\N{FOX FACE}").ids

    assert pieces_of(tokens) == ["a", "", "é", "", "", "", "\N{FOX FACE}", ""]


def test_a_marker_has_no_text_and_brings_out_what_was_held_back():
    fox = TOKENIZER.encode("\N{FOX FACE}").ids

    assert pieces_of([*fox[:2], END_ID, *fox[2:]])[:3] == ["", "", "\N{REPLACEMENT CHARACTER}"]
    assert VOCABULARY.is_special(END_ID)


def test_trailing_spaces_of_a_prompt_are_left_out_and_the_first_piece_gives_one_back():
    with_space, without = VOCABULARY.encode("The fox  "), VOCABULARY.encode("The fox")
    decoder = PieceDecoder(VOCABULARY, drop_space=True)
    said = "".join(decoder.push(token) for token in TOKENIZER.encode(" was old").ids)

    assert with_space.tokens == without.tokens
    assert with_space.lost_space
    assert not without.lost_space
    assert said == "was old"


def test_only_one_space_is_dropped_and_only_at_the_beginning():
    decoder = PieceDecoder(VOCABULARY, drop_space=True)

    assert "".join(decoder.push(token) for token in TOKENIZER.encode("  a b").ids) == " a b"


def test_a_prompt_of_spaces_stays_one():
    assert TOKENIZER.decode(VOCABULARY.encode("   ").tokens) == "   "


def told_pieces(stops, pieces):
    """What is told of each piece, and whether a stop string ended it."""
    finder = StopStrings(stops)
    told = []
    for piece in pieces:
        told.append(finder.push(piece))
        if finder.is_found:
            return told, True
    return [*told, finder.flush()], False


@pytest.mark.parametrize(
    ("stops", "text", "expected", "is_found"),
    [
        (["door"], "the door was", "the door", True),
        (["was", "door"], "the door was", "the door", True),
        (["doo", "door"], "the door was", "the doo", True),
        (["door was", "oo"], "the door was", "the doo", True),
        (["aab"], "aaab", "aaab", True),
        (["xyz"], "the door", "the door", False),
        (["door."], "the door", "the door", False),
        ([""], "the door", "the door", False),
        ([], "the door", "the door", False),
        (["the door was"], "the door was", "the door was", True),
    ],
)
def test_a_stop_string_ends_the_text_wherever_the_pieces_break(stops, text, expected, is_found):
    cuts = [[text[:at], text[at:]] for at in range(len(text))]
    for pieces in (*cuts, list(text)):
        told, was_found = told_pieces(stops, pieces)

        assert ("".join(told), was_found) == (expected, is_found)


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.text("abc", max_size=4), max_size=12),
)
def test_no_piece_but_the_last_has_a_part_of_the_stop_string_that_ends_the_text(stops, pieces):
    told, is_found = told_pieces(stops, pieces)
    text, whole = "".join(told), "".join(pieces)

    assert whole.startswith(text)
    assert is_found == any(stop in whole for stop in stops)
    if is_found:
        assert any(told[-1].endswith(stop) for stop in stops)
        assert not any(stop in text[:-1] for stop in stops)
    else:
        assert text == whole


def test_text_that_can_begin_no_stop_string_is_not_held_back():
    finder = StopStrings(["door", "\n\n"])

    assert [finder.push(piece) for piece in ("the d", "oo", "m\n", "a")] == [
        *("the ", "", "doom", "\na"),
    ]
    assert not finder.is_holding
