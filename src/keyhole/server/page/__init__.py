"""The playground at `/`, and a key's page at `/key`: their files beside this one, as they are.

At `/` a browser (its Accept names text/html) gets the page; anybody else who asks for `/` gets the
empty 200 that a TGI server gives there. Nothing is made at run time: what the page knows it
asks over the same paths as every other client. It keeps nothing, so there is no cookie to set.

style.css    light and dark, from a phone's width up
app.js       the form, the answer as it streams in, the snippets
call.js      what the form says, as a call
stream.js    one call of POST /generate, frame by frame
timing.js    time to first token, and the rate
snippets.js  the same call in other languages
icon.svg     a keyhole

key.html     what a key has left, for whoever holds it
key.css      what it has beside style.css
key.js       asks GET /v1/key, and shows what is told

The policy lets nothing run, load or be called that is not one of these files or Keyhole itself
(Content Security Policy Level 3, https://www.w3.org/TR/CSP3/, read 2026-11). Addresses in the
page are relative, so it works below the prefix of a Flask blueprint too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from keyhole.wire.http import Head, Page, Reply
from keyhole.wire.keys import Key

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES = (
    *("app.js", "call.js", "icon.svg", "key.css", "key.js"),
    *("snippets.js", "stream.js", "style.css", "timing.js"),
)


def pages() -> Mapping[str, Page]:
    """The pages and their files by their paths; the files are read here, once."""
    html = {"/": _root(_file("index.html")), "/key": _file("key.html")}
    return html | {f"/page/{name}": _file(name) for name in _FILES}


def _root(html: Page) -> Page:
    def page(head: Head, key: Key | None) -> Reply:
        reply = html(head, key) if _is_browser(head) else Reply(status=200, headers=[])
        reply.headers.append(("vary", "Accept"))
        return reply

    return page


def _is_browser(head: Head) -> bool:
    return any(b"text/html" in value.lower() for value in head.values(b"accept"))


def _file(name: str) -> Page:
    path = Path(__file__).with_name(name)
    content = path.read_bytes()

    def page(_: Head, __: Key | None) -> Reply:
        headers = [
            ("content-type", _TYPES[path.suffix]),
            # Asked for anew each time: a page and a script of two versions never meet.
            ("cache-control", "no-cache"),
            ("content-security-policy", POLICY),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
        ]
        return Reply(status=200, headers=headers, body=content)

    return page
