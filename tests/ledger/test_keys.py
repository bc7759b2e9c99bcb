"""The key store, on both databases: names, groups, rotation, what a mirror is told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from keyhole.errors import ClientError, Code
from keyhole.ledger.database import Database
from keyhole.ledger.keys import KeyStore, NewKey
from keyhole.wire.keys import Budget, Group, Key, Limits, digest_of, is_well_typed

NOW_MS = 1_763_850_000_000
LIMITS = Limits(rpm=3, tpm=1000, concurrency=2, budget=Budget(5_000_000, per="month"))


def bytes_of_a_counter() -> Callable[[int], bytes]:
    """Different bytes at each call, the same in each test."""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size)


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database)


@pytest.fixture
def random_bytes() -> Callable[[int], bytes]:
    return bytes_of_a_counter()


def refusal(code: Code, act: Callable[[], object]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        act()
    assert caught.value.code is code
    return caught.value


def test_a_key_is_kept_as_it_was_made(store: KeyStore, random_bytes) -> None:
    new = NewKey(
        name="anna",
        group="class-a",
        models=("gpt2", "openai-community/*"),
        limits=LIMITS,
        labels={"room": "12 b", "empty": ""},
        expires_at_ms=NOW_MS + 1,
    )
    issued = store.create(new, now_ms=NOW_MS, random_bytes=random_bytes)
    secret = issued.secret.reveal()
    assert is_well_typed(secret)
    assert issued.key == Key(
        id="key_0000000000000002",
        name="anna",
        digest=digest_of(secret.encode()),
        group=Group(name="class-a"),
        models=("gpt2", "openai-community/*"),
        limits=LIMITS,
        labels={"room": "12 b", "empty": ""},
        created_at_ms=NOW_MS,
        expires_at_ms=NOW_MS + 1,
    )
    assert store.get("anna") == store.get("key_0000000000000002") == issued.key


def test_the_secret_is_nowhere_in_the_database(
    store: KeyStore, database: Database, random_bytes
) -> None:
    secret = store.create(NewKey(name="anna"), now_ms=NOW_MS, random_bytes=random_bytes).secret
    with database.reading() as connection:
        rows = [*connection.exec_driver_sql("SELECT * FROM keys").all()]
    assert len(rows) == 1
    assert not secret.is_in(repr(rows).encode())


def test_a_live_name_is_taken(store: KeyStore, random_bytes) -> None:
    store.create(NewKey(name="anna"), now_ms=NOW_MS, random_bytes=random_bytes)
    error = refusal(
        Code.NAME_TAKEN,
        lambda: store.create(NewKey(name="anna"), now_ms=NOW_MS, random_bytes=random_bytes),
    )
    assert (error.status, "'anna'" in error.message) == (409, True)


def test_a_name_is_free_again_after_revocation_or_expiry(store: KeyStore, random_bytes) -> None:
    ids = []
    for at_ms in (NOW_MS, NOW_MS + 1, NOW_MS + 10):
        new = NewKey(name="anna", expires_at_ms=at_ms + 5)
        ids.append(store.create(new, now_ms=at_ms, random_bytes=random_bytes).key.id)
        if at_ms == NOW_MS:
            store.revoke("anna", now_ms=at_ms)
    assert store.get("anna").id == ids[2]
    assert [key.id for key in store.list_keys()] == ids


def test_a_name_without_a_live_key_means_the_last_that_had_it(
    store: KeyStore, random_bytes
) -> None:
    for at_ms in (NOW_MS, NOW_MS + 1):
        last = store.create(NewKey(name="anna"), now_ms=at_ms, random_bytes=random_bytes).key.id
        store.revoke("anna", now_ms=at_ms)
    assert store.get("anna").id == last


def test_two_who_make_the_same_name_at_once_make_one_key(store: KeyStore) -> None:
    def create(number: int) -> str:
        try:
            random = lambda size: (number * 1000 + size).to_bytes(size)  # noqa: E731
            return store.create(NewKey(name="anna"), now_ms=NOW_MS, random_bytes=random).key.id
        except ClientError as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        made = sorted(pool.map(create, range(4)))
    assert made[1:] == [Code.NAME_TAKEN] * 3
    assert len(store.list_keys()) == 1


def test_many_keys_are_made_together_or_not_at_all(store: KeyStore, random_bytes) -> None:
    names = [f"student-{n:02}" for n in range(30)]
    new = [NewKey(name=name, group="class-a") for name in names]
    issued = store.create_many(new, now_ms=NOW_MS, random_bytes=random_bytes)
    assert [one.key.name for one in issued] == names
    assert store.version() == 1
    again = [NewKey(name="another"), NewKey(name="student-07")]
    refusal(
        Code.NAME_TAKEN,
        lambda: store.create_many(again, now_ms=NOW_MS, random_bytes=random_bytes),
    )
    twice = [NewKey(name="another"), NewKey(name="another")]
    refusal(
        Code.NAME_TAKEN,
        lambda: store.create_many(twice, now_ms=NOW_MS, random_bytes=random_bytes),
    )
    assert len(store.list_keys()) == 30
    assert store.version() == 1


def test_keys_are_listed_in_pages_and_by_group(store: KeyStore, random_bytes) -> None:
    new = [NewKey(name=f"n{n}", group=f"g{n % 2}") for n in range(5)]
    ids = [i.key.id for i in store.create_many(new, now_ms=NOW_MS, random_bytes=random_bytes)]
    assert [key.id for key in store.list_keys(limit=2)] == ids[:2]
    assert [key.id for key in store.list_keys(after=ids[1], limit=2)] == ids[2:4]
    assert [key.name for key in store.list_keys(group="g1")] == ["n1", "n3"]


def test_a_group_is_made_by_its_first_key_and_limited_for_all(
    store: KeyStore, random_bytes
) -> None:
    store.create(NewKey(name="a", group="class-a"), now_ms=NOW_MS, random_bytes=random_bytes)
    assert store.groups() == (Group(name="class-a"),)
    limited = store.set_group("class-a", LIMITS)
    store.create(NewKey(name="b", group="class-a"), now_ms=NOW_MS, random_bytes=random_bytes)
    assert store.groups() == (limited,) == (Group(name="class-a", limits=LIMITS),)
    assert [key.group for key in store.list_keys()] == [limited, limited]


def test_a_revoked_key_stays_revoked_at_its_first_time(store: KeyStore, random_bytes) -> None:
    key = store.create(NewKey(name="anna"), now_ms=NOW_MS, random_bytes=random_bytes).key
    assert store.revoke("anna", now_ms=NOW_MS + 1).revoked_at_ms == NOW_MS + 1
    assert store.revoke(key.id, now_ms=NOW_MS + 2).revoked_at_ms == NOW_MS + 1


@pytest.mark.parametrize(
    ("expires_in_ms", "grace_s", "ends_in_ms"),
    [(None, 60, 60_000), (90_000, 60, 60_000), (30_000, 60, 30_000), (None, 0, 0), (None, -5, 0)],
)
def test_a_rotated_key_lives_on_for_the_grace_but_not_longer_than_it_would(
    store: KeyStore, random_bytes, expires_in_ms: int | None, grace_s: float, ends_in_ms: int
) -> None:
    expires = None if expires_in_ms is None else NOW_MS + expires_in_ms
    new = NewKey(
        name="anna",
        group="g",
        models=("m",),
        limits=LIMITS,
        labels={"a": "b"},
        expires_at_ms=expires,
    )
    old = store.create(new, now_ms=NOW_MS - 1, random_bytes=random_bytes).key
    issued = store.rotate("anna", grace_s=grace_s, now_ms=NOW_MS, random_bytes=random_bytes)
    successor, ended = issued.key, store.get(old.id)
    assert (ended.rotated_to, ended.expires_at_ms) == (successor.id, NOW_MS + ends_in_ms)
    assert ended.revoked_at_ms is None
    assert store.get("anna") == successor
    assert successor.digest == digest_of(issued.secret.reveal().encode()) != old.digest
    same = ("name", "group", "models", "limits", "labels", "expires_at_ms")
    assert [getattr(successor, n) for n in same] == [getattr(old, n) for n in same]
    assert successor.created_at_ms == NOW_MS


def test_only_a_live_key_without_a_successor_is_rotated(store: KeyStore, random_bytes) -> None:
    def rotate(name: str, now_ms: int) -> None:
        store.rotate(name, grace_s=60, now_ms=now_ms, random_bytes=random_bytes)

    old = store.create(NewKey(name="a"), now_ms=NOW_MS, random_bytes=random_bytes).key
    rotate("a", NOW_MS)
    store.create(NewKey(name="b"), now_ms=NOW_MS, random_bytes=random_bytes)
    store.revoke("b", now_ms=NOW_MS)
    new = NewKey(name="c", expires_at_ms=NOW_MS + 1)
    store.create(new, now_ms=NOW_MS, random_bytes=random_bytes)
    for name, why in ((old.id, "successor"), ("b", "revoked"), ("c", "expired")):
        error = refusal(Code.INVALID_PARAMETER, lambda name=name: rotate(name, NOW_MS + 1))
        assert why in error.message


def test_keys_have_existed_from_the_first_on_for_ever(store: KeyStore, random_bytes) -> None:
    assert not store.have_existed()
    store.create(NewKey(name="anna"), now_ms=NOW_MS, random_bytes=random_bytes)
    store.revoke("anna", now_ms=NOW_MS)
    assert store.have_existed()


def test_changes_are_told_once_and_make_up_everything(store: KeyStore, random_bytes) -> None:
    """A copy that is kept up by changes alone equals one that is made anew."""
    seen, copy, groups = 0, {}, {}
    steps: list[Callable[[], object]] = [
        lambda: store.create_many(
            [NewKey(name=f"k{n}", group="g") for n in range(3)],
            now_ms=NOW_MS,
            random_bytes=random_bytes,
        ),
        lambda: store.set_group("g", LIMITS),
        lambda: store.revoke("k1", now_ms=NOW_MS),
        lambda: store.rotate("k2", grace_s=9, now_ms=NOW_MS, random_bytes=random_bytes),
        lambda: store.set_group("h", LIMITS),
    ]
    told = []
    for step in steps:
        step()
        changes = store.changes_since(seen)
        assert changes.version == store.version() > seen
        seen = changes.version
        told.append((len(changes.keys), len(changes.groups)))
        groups |= {group.name: group for group in changes.groups}
        copy |= {key.id: (key.name, key.revoked_at_ms, key.rotated_to) for key in changes.keys}
    assert told == [(3, 1), (0, 1), (1, 0), (2, 0), (0, 1)]
    with store.everything() as everything:
        assert everything.version == seen
        assert {group.name: group for group in everything.groups} == groups
        assert {k.id: (k.name, k.revoked_at_ms, k.rotated_to) for k in everything.keys} == copy
    assert store.changes_since(seen).keys == ()


def test_a_refused_write_raises_no_version(store: KeyStore, random_bytes) -> None:
    refusal(Code.KEY_NOT_FOUND, lambda: store.revoke("nobody", now_ms=NOW_MS))
    assert store.version() == 0


HOSTILE = [
    "'; DROP TABLE keys; --",
    '" OR ""="',
    "anna' OR '1'='1",
    "%",
    "_",
    "%s %(name)s :name ?",
    "\\",
    "$$",
    "ключ-鍵-🔑",
    "x" * 100,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_never_taken_for_sql(store: KeyStore, random_bytes, name: str) -> None:
    store.create(NewKey(name="anna"), now_ms=NOW_MS, random_bytes=random_bytes)
    refusal(Code.KEY_NOT_FOUND, lambda: store.get(name))
    new = NewKey(name=name, group=name, models=(name,), labels={name: name})
    key = store.create(new, now_ms=NOW_MS, random_bytes=random_bytes).key
    assert store.get(name) == key
    assert store.list_keys(group=name) == [key]
    assert (key.name, key.models, key.labels) == (name, (name,), {name: name})
    assert len(store.list_keys()) == 2


@pytest.mark.parametrize(
    "bad",
    ["", " ", " a", "a ", "a\0b", "a\nb", "\x1b[31m", "\ud800", "x" * 101, "key_0123456789abcdef"],
)
def test_what_is_no_name_is_refused_everywhere(store: KeyStore, random_bytes, bad: str) -> None:
    def create(new: NewKey) -> Callable[[], object]:
        return lambda: store.create(new, now_ms=NOW_MS, random_bytes=random_bytes)

    refusal(Code.INVALID_PARAMETER, create(NewKey(name=bad)))
    refusal(Code.INVALID_PARAMETER, create(NewKey(name="a", group=bad or " ")))
    refusal(Code.INVALID_PARAMETER, lambda: store.set_group(bad, LIMITS))
    refusal(Code.KEY_NOT_FOUND, lambda: store.get(bad))
    assert store.list_keys(group=bad) == []
    if not bad.isprintable():
        refusal(Code.INVALID_PARAMETER, create(NewKey(name="a", models=(bad,))))
        refusal(Code.INVALID_PARAMETER, create(NewKey(name="a", labels={bad: "b"})))
        refusal(Code.INVALID_PARAMETER, create(NewKey(name="a", labels={"b": bad})))
    assert store.list_keys() == []
    assert store.groups() == ()


@pytest.mark.parametrize(
    "new",
    [
        NewKey(name="a", limits=Limits(rpm=-1)),
        NewKey(name="a", limits=Limits(budget=Budget(2**63))),
        NewKey(name="a", expires_at_ms=NOW_MS),
        NewKey(name="a", expires_at_ms=2**63),
        NewKey(name="a", models=("m",) * 201),
        NewKey(name="a", labels={str(n): "" for n in range(51)}),
        NewKey(name="a", models=("x" * 1_000_000,)),
    ],
)
def test_what_no_key_can_be_is_refused(store: KeyStore, random_bytes, new: NewKey) -> None:
    refusal(
        Code.INVALID_PARAMETER,
        lambda: store.create(new, now_ms=NOW_MS, random_bytes=random_bytes),
    )
    assert store.list_keys() == []
