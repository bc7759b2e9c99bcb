"""The page as files: what is sent for which path, under which policy, and what is in the wheel."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from flit_core import wheel

from keyhole.server import page
from keyhole.server.page import pages
from keyhole.wire.http import Head, Reply

FOLDER = Path(page.__file__).parent
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix not in {".py", ".pyc", ""})
BROWSER = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def get(path: str, accept: bytes | None = BROWSER) -> Reply:
    headers = () if accept is None else ((b"accept", accept),)
    return pages()[path](Head(method="GET", path=path, headers=headers), None)


@pytest.mark.parametrize("accept", [BROWSER, b"text/html", b"TEXT/HTML; q=0.5"])
def test_a_browser_gets_the_page(accept: bytes) -> None:
    reply = get("/", accept)
    assert (reply.status, dict(reply.headers)["content-type"]) == (200, "text/html; charset=utf-8")
    assert reply.body == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize("accept", [None, b"*/*", b"application/json", b""])
def test_everybody_else_gets_an_empty_200_as_from_tgi(accept: bytes | None) -> None:
    reply = get("/", accept)
    assert (reply.status, reply.body) == (200, b"")
    assert "content-type" not in dict(reply.headers)


@pytest.mark.parametrize("accept", [BROWSER, None])
def test_a_cache_keeps_the_two_apart(accept: bytes | None) -> None:
    assert ("vary", "Accept") in get("/", accept).headers


def test_every_file_is_served_and_no_other() -> None:
    html = {"index.html": "/", "key.html": "/key"}
    assert sorted(pages()) == sorted(html.get(name, f"/page/{name}") for name in FILES)


@pytest.mark.parametrize("path", sorted(pages()))
def test_every_file_is_sent_under_the_policy(path: str) -> None:
    """Nothing runs, loads or is called but these files and Keyhole; no type is guessed."""
    types = {
        "": "text/html; charset=utf-8",  # "/" and "/key"
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
    headers = dict(get(path).headers)
    headers.pop("vary", None)
    assert headers == {
        "content-type": types[Path(path).suffix],
        "cache-control": "no-cache",
        "content-security-policy": POLICY,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def test_a_reply_is_not_shared_between_requests() -> None:
    """What a door adds to one reply is not in the next."""
    one, other = get("/page/app.js"), get("/page/app.js")
    one.headers.append(("x-request-id", "1"))
    assert ("x-request-id", "1") not in other.headers


@pytest.mark.parametrize("name", ["index.html", "key.html"])
def test_the_pages_need_no_exception_from_the_policy(name: str) -> None:
    """No script, style or handler stands in the HTML, which the policy would not run."""
    html = (FOLDER / name).read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html))


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_host(name: str) -> None:
    text = (FOLDER / name).read_text()
    found = set(re.findall(r"https?://[\w.-]+", text))
    assert found <= {"http://www.w3.org", "https://www.w3.org"}  # a namespace and a comment


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_no_script_keeps_anything_or_makes_markup_of_text(name: str) -> None:
    banned = (
        r"\b(localStorage|sessionStorage|indexedDB|caches|cookie|history|serviceWorker|"
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function)\b\s*[.(=\[]"
    )
    assert not re.findall(banned, (FOLDER / name).read_text())


def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    built = wheel.make_wheel_in(project, tmp_path)
    names = zipfile.ZipFile(built.file).namelist()
    assert {f"keyhole/server/page/{name}" for name in FILES} <= set(names)
