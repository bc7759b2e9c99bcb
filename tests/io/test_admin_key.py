"""Where the admin key comes from, and who can read it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from keyhole.errors import SetupError
from keyhole.io.admin_key import AdminKey, load_admin_key

GIVEN = "0123456789abcdef"


def test_the_environments_key_is_taken_and_nothing_is_written(tmp_path: Path) -> None:
    admin = load_admin_key(tmp_path, {"KEYHOLE_ADMIN_KEY": GIVEN})
    assert admin.matches(GIVEN.encode())
    assert list(tmp_path.iterdir()) == []


def test_without_one_it_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    load_admin_key(data, {})
    path = data / "admin.key"
    made = path.read_bytes().strip()
    assert made.startswith(b"ka_")
    assert len(made) == 52
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_admin_key(data, {}).matches(made)
    assert [file.name for file in data.iterdir()] == ["admin.key"]


def test_each_is_another(tmp_path: Path) -> None:
    for name in "ab":
        load_admin_key(tmp_path / name, {})
    one, other = ((tmp_path / name / "admin.key").read_bytes() for name in "ab")
    assert one != other


@pytest.mark.parametrize("given", ["", " ", "short", "0123456789abcde"])
def test_an_empty_or_short_one_stops_the_start(tmp_path: Path, given: str) -> None:
    """Rather than letting in whoever sends nothing, or can guess."""
    with pytest.raises(SetupError, match="empty or too short") as caught:
        load_admin_key(tmp_path, {"KEYHOLE_ADMIN_KEY": given})
    assert not given.strip() or given not in str(caught.value).replace("too short", "")
    (tmp_path / "admin.key").write_text(given)
    (tmp_path / "admin.key").chmod(0o600)
    with pytest.raises(SetupError, match="empty or too short"):
        load_admin_key(tmp_path, {})


def test_one_that_no_header_can_carry_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        load_admin_key(tmp_path, {"KEYHOLE_ADMIN_KEY": "with spaces and ümlauts"})
    assert "ümlauts" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "admin.key"
    path.write_text(GIVEN)
    path.chmod(mode)
    with pytest.raises(SetupError, match="can be read by others"):
        load_admin_key(tmp_path, {})


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(GIVEN)
    (tmp_path / "admin.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match="cannot be used"):
        load_admin_key(tmp_path, {})


def test_all_who_need_it_at_once_get_the_same(tmp_path: Path) -> None:
    admins: list[AdminKey] = []
    threads = [
        threading.Thread(target=lambda: admins.append(load_admin_key(tmp_path, {})))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = (tmp_path / "admin.key").read_bytes().strip()
    assert [admin.matches(made) for admin in admins] == [True] * 8


@pytest.mark.parametrize("wrong", [b"", GIVEN[:-1].encode(), (GIVEN + "0").encode(), b"\xff" * 16])
def test_nothing_else_is_the_admin_key(wrong: bytes) -> None:
    admin = AdminKey(GIVEN)
    assert not admin.matches(wrong)
    assert GIVEN not in f"{admin!r} {admin}"
