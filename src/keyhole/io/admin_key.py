"""The admin key: from KEYHOLE_ADMIN_KEY, or made on first need into DATA/admin.key.

It is no virtual key: it lets in at /admin/v1/ and /metrics, and calls nothing. It is as long as
one and begins with `ka_`, so that nobody takes one for the other, and logs leave both out. The
command line uses the state directory itself and needs none.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from keyhole.errors import SetupError
from keyhole.wire.keys import PREFIX, secret_from

VARIABLE = "KEYHOLE_ADMIN_KEY"
FILE_NAME = "admin.key"
MIN_CHARS = 16
_PREFIX = "ka_"


class AdminKey:
    """The admin key, which can only be compared; `repr` does not show it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value.encode()

    def matches(self, credential: bytes) -> bool:
        """Whether a credential is the admin key; in the same time for any of its length."""
        return hmac.compare_digest(self._value, credential)

    def __repr__(self) -> str:
        """Never the value."""
        return "<admin key>"


def load_admin_key(
    data: Path,
    environ: Mapping[str, str],
    *,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> AdminKey:
    """The admin key, made where there is none yet.

    A variable that is set but empty is a mistake here, not an absent one: somebody thinks that
    it protects. Raises SetupError, without any of the key.
    """
    given = environ.get(VARIABLE)
    if given is not None:
        return AdminKey(_checked(given, VARIABLE))
    path = data / FILE_NAME
    try:
        found = _read(path)
        if found is None:
            draft = path.with_name(f"{path.name}.{random_bytes(4).hex()}")
            _make(path, draft, _PREFIX + secret_from(random_bytes(32)).removeprefix(PREFIX))
            found = _read(path)
    except OSError as error:
        raise SetupError(f"The admin key's file {path} cannot be used: {error.strerror}.") from None
    return AdminKey(_checked(found or "", str(path)))


def _checked(value: str, where: str) -> str:
    hint = f"at least {MIN_CHARS} characters that nobody can guess, such as openssl rand -hex 32"
    if len(value) < MIN_CHARS:
        raise SetupError(f"The admin key in {where} is empty or too short.", hint=hint)
    if not value.isascii() or not value.isprintable() or " " in value:
        raise SetupError(
            f"The admin key in {where} is not printable ASCII without spaces.",
            hint="it travels in an HTTP header",
        )
    return value


def _read(path: Path) -> str | None:
    """What the file holds; None where there is none. Raises OSError and SetupError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise SetupError(
                f"The admin key's file {path} can be read by others.", hint=f"chmod 600 {path}"
            )
        return file.read(4096).decode("utf-8", "replace").strip()


def _make(path: Path, draft: Path, value: str) -> None:
    """Write it whole under another name, then link it: whoever comes second reads the first's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{value}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
