"""What a key looks like, and that no two are taken for one."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhole.wire.keys import (
    ALPHABET,
    KEY_CHARS,
    checksum,
    digest_of,
    has_form_of_key,
    is_well_typed,
    secret_from,
)

RANDOM = st.binary(min_size=32, max_size=32)
SECRETS = RANDOM.map(secret_from)


def test_the_form_is_a_promise() -> None:
    """Tools know a key by it; a change would be a break."""
    assert secret_from(bytes(32)) == "kh_" + "0" * 43 + "0CzQGn"
    assert secret_from(b"\xff" * 32) == "kh_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp12wn8F7"


@given(SECRETS)
def test_a_key_is_well_typed(secret: str) -> None:
    assert len(secret) == KEY_CHARS == 52
    assert secret.startswith("kh_")
    assert secret[3:].isalnum()
    assert secret.isascii()
    assert is_well_typed(secret)


@given(SECRETS, st.integers(3, 51), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_noticed(secret: str, place: int, other: str) -> None:
    wrong = secret[:place] + other + secret[place + 1 :]
    assert is_well_typed(wrong) == (wrong == secret)


@given(SECRETS, st.integers(3, 50))
def test_two_characters_changed_about_are_noticed(secret: str, place: int) -> None:
    wrong = secret[:place] + secret[place + 1] + secret[place] + secret[place + 2 :]
    assert is_well_typed(wrong) == (wrong == secret)


@given(SECRETS, st.integers(0, 51))
def test_one_that_is_cut_off_is_noticed(secret: str, length: int) -> None:
    assert not is_well_typed(secret[:length])
    assert not is_well_typed(secret + "0")


@given(RANDOM, RANDOM)
def test_different_bytes_are_different_keys(one: bytes, other: bytes) -> None:
    """No entropy is lost: 43 digits of base 62 hold 256 bits."""
    assert (secret_from(one) == secret_from(other)) == (one == other)


@given(SECRETS)
def test_keys_that_share_all_but_the_last_character_are_two(secret: str) -> None:
    last = ALPHABET[(ALPHABET.index(secret[-1]) + 1) % len(ALPHABET)]
    assert digest_of(secret.encode()) != digest_of((secret[:-1] + last).encode())


@pytest.mark.parametrize("count", [0, 1, 31])
def test_too_little_randomness_makes_no_key(count: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        secret_from(bytes(count))


@pytest.mark.parametrize("odd", ["é", "٣", " ", "\0", "-", "_", "\n", "\u212a"])
def test_only_62_characters_are_a_keys(odd: str) -> None:
    """Digits of other scripts and letters that fold to ours are none of them."""
    body = "kh_" + odd + "0" * 42
    assert not has_form_of_key(body + checksum(body))


def test_the_alphabet_is_in_order_and_without_repeats() -> None:
    assert string.digits + string.ascii_uppercase + string.ascii_lowercase == ALPHABET
