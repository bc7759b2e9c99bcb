"""Reads the secrets that a configuration points at, and the machine's Hugging Face token.

A found token is for Hugging Face alone: `may_have_found_token` is the one place that says where
it may go. Where it is found follows huggingface_hub 2.4 (`utils/_auth.py`, `constants.py`, read
2026-11), except that HF_HUB_DISABLE_IMPLICIT_TOKEN leaves HF_TOKEN alone: who sets that for a
gateway means it to be used. No message repeats a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from keyhole.config.values import SecretPlace, Wrong, shown
from keyhole.secret import Secret

FOUND_TOKEN_KINDS = ("huggingface", "hf-inference")
"""The kinds of upstream that a found token may be for."""

_MAX_SECRET_BYTES = 64 * 1024
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
_VARIABLE_STYLE = re.compile(r"[A-Z][A-Z0-9_]*")
_UNUSABLE = "holds spaces, line breaks or characters beyond ASCII, so it is no token"


class FoundToken(Struct, frozen=True):
    """The machine's Hugging Face token, and the variable or file that it was found in."""

    secret: Secret
    found_in: str


class BadToken(Exception):  # noqa: N818  # says what was found, as Wrong does
    """A Hugging Face token is there, but cannot be used."""

    def __init__(self, found_in: str, message: str) -> None:
        super().__init__(message)
        self.found_in = found_in
        self.message = message


def may_have_found_token(kind: str, url: str) -> bool:
    """Whether an upstream may be sent the machine's token: Hugging Face over https alone."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_hugging_face = host == "huggingface.co" or host.endswith(".huggingface.co")
    return kind in FOUND_TOKEN_KINDS and parts.scheme == "https" and is_hugging_face


def read_secret(
    place: SecretPlace, *, environ: Mapping[str, str], folder: Path, home: Path
) -> Secret:
    """The secret at a place; a relative path is the folder's. Raises Wrong."""
    if place.env is not None:
        return _from_variable(place.env, environ)
    named = place.file or ""
    path = folder / expand_home(named, home)
    try:
        value = _read(path).rstrip("\r\n")
    except FileNotFoundError:
        raise Wrong(f"there is no file {shown(str(path))}") from None
    except (OSError, ValueError) as error:
        raise Wrong(f"cannot read the file {shown(str(path))}: {_reason(error)}") from None
    if not value:
        raise Wrong(f"the file {shown(str(path))} is empty")
    return _secret(value, f"the file {shown(str(path))}")


def find_hf_token(environ: Mapping[str, str], home: Path) -> FoundToken | None:
    """The token of HF_TOKEN, else of `hf auth login`. Raises BadToken."""
    for variable in _TOKEN_VARIABLES:
        if value := environ.get(variable, "").strip():
            return _found(value, variable)
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _TRUE:
        return None
    path = _token_path(environ, home)
    try:
        path.stat()
    except OSError:  # not there, or in a folder that is not this user's to look into
        return None
    try:
        value = _read(path).strip()
    except (OSError, ValueError) as error:
        raise BadToken(str(path), f"cannot be read: {_reason(error)}") from None
    return _found(value, str(path)) if value else None


def expand_home(path: str, home: Path) -> Path:
    """The path, with a leading `~` for the home directory."""
    if path == "~" or path.startswith("~/"):
        return home / path[2:]
    return Path(path)


def _from_variable(name: str, environ: Mapping[str, str]) -> Secret:
    # Who puts the secret itself behind `env` must not find it in a message.
    is_repeatable = _VARIABLE_STYLE.fullmatch(name) and shown(name) == f"'{name}'"
    spoken = f"the variable {name}" if is_repeatable else "the variable that env names"
    value = environ.get(name)
    if not value:
        state = "not set" if value is None else "empty"
        hint = None
        if name == "HF_TOKEN":
            hint = "set it; or leave the token out, and what 'hf auth login' saved is used"
        raise Wrong(f"{spoken} is {state}", hint)
    return _secret(value, spoken)


def _secret(value: str, spoken: str) -> Secret:
    try:
        return Secret(value)
    except ValueError:
        raise Wrong(f"{spoken} {_UNUSABLE}") from None


def _found(value: str, found_in: str) -> FoundToken:
    try:
        return FoundToken(Secret(value), found_in)
    except ValueError:
        raise BadToken(found_in, _UNUSABLE) from None


def _token_path(environ: Mapping[str, str], home: Path) -> Path:
    if named := environ.get("HF_TOKEN_PATH"):
        return expand_home(named, home)
    if named := environ.get("HF_HOME"):
        return expand_home(named, home) / "token"
    cache = environ.get("XDG_CACHE_HOME")
    return (expand_home(cache, home) if cache else home / ".cache") / "huggingface" / "token"


def _read(path: Path) -> str:
    """A small text file; raises OSError, or ValueError for what is no text."""
    with path.open("rb") as file:
        content = file.read(_MAX_SECRET_BYTES + 1)
    if len(content) > _MAX_SECRET_BYTES:
        raise ValueError("it is too large for a secret")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
