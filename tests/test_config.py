"""What the operator writes becomes Settings, or a line that says where and how to mend it.

It is one long file because every setting is tried in the same few ways, with the same helpers.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Struct

from keyhole.config import (
    SETTINGS,
    ConfigError,
    Inputs,
    Listen,
    Problem,
    Settings,
    engine_socket,
    load,
)
from keyhole.errors import SetupError

GOLDEN = Path(__file__).parent / "golden" / "config"
CASES = sorted(folder.name for folder in GOLDEN.iterdir())

# What goldens and tests use as secrets; none may ever be seen in a message.
SECRETS = ("hf_FoundOnThisMachine", "s3cr3t", "pa55word", "hf_LiteralInTheFile", "sp aced")
ENVIRON = {
    "GPU_TOKEN": "s3cr3t",
    "LEDGER_URL": "postgresql://k:pa55word@db/keyhole",
    "EMPTY": "",
    "SPACED": "sp aced",
    "lower_case": "s3cr3t",
}


class FakeBackend(Struct, frozen=True):
    kind: str
    default_url: str | None


BACKENDS = {
    backend.kind: backend
    for backend in (
        FakeBackend("engine", None),
        FakeBackend("hf-inference", "https://router.huggingface.co/hf-inference"),
        FakeBackend("huggingface", "https://router.huggingface.co"),
        FakeBackend("openai", None),
        FakeBackend("tgi", None),
    )
}


def load_in(folder: Path, environ: Mapping[str, str] | None = None, **inputs: object) -> Settings:
    """Load as if started in the folder, which is the home directory too."""
    return load(
        Inputs(**{"environ": environ or {}, "cwd": folder, "home": folder, **inputs}),
        backends=BACKENDS,
        engine_models=lambda data: ["keyhole-demo", "openai-community/gpt2"],
    )


def load_text(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    (folder / "keyhole.toml").write_text(text)
    return load_in(folder, environ)


def problems_of(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        load_text(folder, text, environ)
    return str(raised.value)


def describe(settings: Settings) -> str:
    """All settings, a line each, as a golden holds them."""
    lines = [
        f"listen: {settings.listen.host} {settings.listen.port}",
        f"max_body_bytes: {settings.max_body_bytes}",
        f"drain_timeout_s: {settings.drain_timeout_s:g}",
        f"read_timeout_s: {settings.read_timeout_s:g} idle_timeout_s: {settings.idle_timeout_s:g}",
        f"max_buffered_bytes: {settings.max_buffered_bytes}",
        f"loading_patience_s: {settings.loading_patience_s:g}",
        f"allowed_origins: {', '.join(settings.access.allowed_origins)}",
        f"stream: {settings.stream.heartbeat_s:g} {settings.stream.max_frame_bytes}",
        f"on_client_gone: {settings.stream.on_client_gone}",
        f"keys: max_stale_s={settings.keys.max_stale_s:g}",
        f"limits: unknown_price={settings.limits.unknown_price}",
        f"journal: {settings.journal.keep} {settings.journal.fsync} {settings.journal.max_bytes}",
        f"ledger: {settings.ledger}",
        f"log: {settings.log.format} texts={settings.log.texts}",
        f"engine: threads={settings.engine.threads} max_waiting={settings.engine.max_waiting}",
        f"hf_token_from: {settings.hf_token_from}",
    ]
    for upstream in settings.catalog.upstreams.values():
        lines += ["", repr(upstream)]
        if upstream.name in settings.limits.upstreams:
            lines.append(f"  {settings.limits.upstreams[upstream.name]}")
    for name, price in settings.prices.items():
        lines += ["", f"{name}: {price}"]
    for route in settings.catalog.routes:
        targets = " ".join(map(str, route.targets))
        lines += ["", f"{route.name} -> {targets}"]
        lines += [f"  first_byte_timeout_s={route.first_byte_timeout_s}"] * (
            route.first_byte_timeout_s is not None
        )
        lines += [f"  max_output_tokens={route.max_output_tokens}"] * (
            route.max_output_tokens is not None
        )
    return "\n".join(lines) + "\n"


def outcome(case: str) -> str:
    """What a golden case gives: the settings, or every problem; `environ` may add variables."""
    folder = GOLDEN / case
    environ = dict(ENVIRON)
    if (folder / "environ").exists():
        lines = (folder / "environ").read_text().splitlines()
        environ |= dict(line.split("=", 1) for line in lines)
    try:
        return describe(load_in(folder, environ, data=Path("/data")))
    except ConfigError as error:
        return f"{error}\n"


@pytest.mark.parametrize("case", CASES)
def test_each_golden_gives_what_it_says(case: str) -> None:
    given_out = outcome(case)
    assert given_out == (GOLDEN / case / "expected.txt").read_text()
    assert not [secret for secret in SECRETS if secret in given_out]


def test_there_are_goldens_of_both_sorts() -> None:
    broken = [
        case for case in CASES if "keyhole.toml:" in (GOLDEN / case / "expected.txt").read_text()
    ]
    assert len(broken) >= 20
    assert len(CASES) - len(broken) >= 5


# Which file, and which data folder


def test_without_any_file_the_engine_answers_on_loopback(tmp_path: Path) -> None:
    settings = load_in(tmp_path)
    assert settings.listen == Listen("127.0.0.1", 5000)
    assert settings.config_path is None
    assert [str(target) for target in settings.catalog.find(None).targets] == [
        "engine/keyhole-demo"
    ]
    assert settings.catalog.find("openai-community/gpt2") is not None
    assert settings.catalog.find("someone/else") is None


def test_loading_creates_nothing(tmp_path: Path) -> None:
    load_in(tmp_path, {"HF_TOKEN": "hf_FoundOnThisMachine"})
    assert list(tmp_path.iterdir()) == []


def test_the_flag_wins_over_the_variable_and_that_over_the_working_directory(
    tmp_path: Path,
) -> None:
    for name, port in (("keyhole", 1), ("variable", 2), ("flag", 3)):
        (tmp_path / f"{name}.toml").write_text(f'[server]\nlisten = "127.0.0.1:{port}"')
    environ = {"KEYHOLE_CONFIG": "variable.toml"}
    assert load_in(tmp_path, {}).listen.port == 1
    assert load_in(tmp_path, {"KEYHOLE_CONFIG": ""}).listen.port == 1
    assert load_in(tmp_path, environ).listen.port == 2
    assert load_in(tmp_path, environ, config=Path("flag.toml")).listen.port == 3
    assert load_in(tmp_path, environ).config_path == tmp_path / "variable.toml"


@pytest.mark.parametrize(
    ("inputs", "environ", "said"),
    [
        ({"config": Path("no.toml")}, {}, "--config: there is no file 'no.toml'"),
        ({"config": Path("folder")}, {}, "--config: cannot read 'folder': it is a directory"),
        ({}, {"KEYHOLE_CONFIG": "no.toml"}, "KEYHOLE_CONFIG: there is no file 'no.toml'"),
        ({"config": Path("latin.toml")}, {}, "latin.toml:3: the file is not UTF-8 text"),
        (
            {"data": Path("latin.toml")},
            {},
            "--data: cannot use '{cwd}/latin.toml': it is not a directory",
        ),
        (
            {},
            {"KEYHOLE_DATA": "latin.toml"},
            "KEYHOLE_DATA: cannot use '{cwd}/latin.toml': it is not a directory",
        ),
        (
            {"listen": "5000"},
            {},
            "--listen: '5000' is not HOST:PORT (write HOST:PORT, such as 127.0.0.1:5000)",
        ),
    ],
)
def test_what_was_named_and_is_not_usable_is_one_line(
    tmp_path: Path, inputs: dict[str, object], environ: dict[str, str], said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.toml").write_bytes(b"[server]\n# one\n# \xe9\n")
    with pytest.raises(ConfigError) as raised:
        load_in(tmp_path, environ, **inputs)
    # The temporary folder's name may be long.
    assert str(raised.value).replace(str(tmp_path), "{cwd}") == said


def test_a_dangling_link_in_the_working_directory_is_no_absent_file(tmp_path: Path) -> None:
    (tmp_path / "keyhole.toml").symlink_to("gone.toml")
    with pytest.raises(ConfigError, match=r"keyhole\.toml: there is no file 'keyhole.toml'"):
        load_in(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "keyhole.toml").touch(mode=0o000)
    with pytest.raises(ConfigError, match=r"cannot read 'keyhole\.toml': Permission denied"):
        load_in(tmp_path)


def test_a_file_of_megabytes_is_no_configuration(tmp_path: Path) -> None:
    assert "larger than" in problems_of(tmp_path, "#" * (1024 * 1024 + 1))


def test_nesting_without_end_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    assert "nested too deeply" in problems_of(tmp_path, "x = " + "[" * 100_000)


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "0x" + "f" * 9000])
def test_a_number_of_thousands_of_digits_is_a_problem_and_no_crash(
    tmp_path: Path, number: str
) -> None:
    said = problems_of(tmp_path, f"[engine]\nthreads = {number}")
    assert said.startswith("keyhole.toml:2: ")
    assert len(said) < 300


def test_a_byte_order_mark_and_windows_line_breaks_are_taken(tmp_path: Path) -> None:
    text = '\ufeff[server]\r\nlisten = "127.0.0.1:1"\r\n'
    (tmp_path / "keyhole.toml").write_bytes(text.encode())
    assert load_in(tmp_path).listen.port == 1


def test_a_command_line_that_is_wrong_is_told_together_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "keyhole.toml").write_text("[sever]\n")
    with pytest.raises(ConfigError) as raised:
        load_in(tmp_path, listen="x")
    assert [problem.file for problem in raised.value.problems] == ["--listen", "keyhole.toml"]


@pytest.mark.parametrize(
    ("environ", "data", "found"),
    [
        ({}, None, "home/.local/share/keyhole"),
        ({"XDG_DATA_HOME": "/xdg"}, None, "/xdg/keyhole"),
        ({"XDG_DATA_HOME": "relative"}, None, "home/.local/share/keyhole"),
        ({"XDG_DATA_HOME": "/xdg", "KEYHOLE_DATA": "here"}, None, "cwd/here"),
        ({"KEYHOLE_DATA": "~/there"}, None, "home/there"),
        ({"KEYHOLE_DATA": ""}, None, "home/.local/share/keyhole"),
        ({"KEYHOLE_DATA": "/variable"}, Path("/flag"), "/flag"),
    ],
)
def test_the_data_folder_is_the_flags_the_variables_or_the_usual_one(
    tmp_path: Path, environ: dict[str, str], data: Path | None, found: str
) -> None:
    cwd, home = tmp_path / "cwd", tmp_path / "home"
    assert load_in(cwd, environ, home=home, data=data).data == tmp_path / found


def test_the_engine_is_asked_for_models_of_the_data_folder_alone(tmp_path: Path) -> None:
    asked: list[Path] = []
    inputs = Inputs(environ={}, cwd=tmp_path, home=tmp_path, data=Path("/data"))

    def engine_models(data: Path) -> list[str]:
        asked.append(data)
        return []

    load(inputs, backends=BACKENDS, engine_models=engine_models)
    assert asked == [Path("/data")]


# Where to listen


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:5000", Listen("127.0.0.1", 5000)),
        ("localhost:0", Listen("localhost", 0)),
        ("LOCALHOST:80", Listen("LOCALHOST", 80)),
        ("[::1]:65535", Listen("::1", 65535)),
        ("127.9.9.9:1", Listen("127.9.9.9", 1)),
        ("0.0.0.0:5000", Listen("0.0.0.0", 5000)),
        ("[::]:5000", Listen("::", 5000)),
        ("example.org:5000", Listen("example.org", 5000)),
    ],
)
def test_an_address_is_listened_on(tmp_path: Path, text: str, listen: Listen) -> None:
    """Whether it may be one that others reach depends on the keys, which are not looked at here."""
    assert load_text(tmp_path, f'[server]\nlisten = "{text}"').listen == listen
    assert load_in(tmp_path, listen=text).listen == listen


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("127.0.0.1", "is not HOST:PORT"),
        (":5000", "is not HOST:PORT"),
        ("::1:5000", "an IPv6 address stands in brackets"),
        ("127.0.0.1:65536", "the port must be from 0 to 65535"),
        ("127.0.0.1:-1", "is not HOST:PORT"),
        ("127.0.0.1:\u0665", "is not HOST:PORT"),
        ("http://127.0.0.1:5000", "is not HOST:PORT"),
        ("127.0.0.1:5000\\n", "must not hold line breaks"),
        ("", "must not be empty"),
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    problem = problems_of(tmp_path, f'[server]\n\nlisten = "{text}"')
    assert problem.startswith("keyhole.toml:3: server.listen: ")
    assert said in problem


def test_the_flag_overrules_the_address_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "keyhole.toml").write_text('[server]\nlisten = "0.0.0.0:5000"')
    assert load_in(tmp_path, listen="127.0.0.1:1").listen == Listen("127.0.0.1", 1)


# Values


@pytest.mark.parametrize(
    ("origin", "kept"),
    [
        ("https://app.example.org", "https://app.example.org"),
        ("HTTPS://App.Example.org:443", "https://app.example.org"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ],
)
def test_an_origin_is_kept_as_browsers_send_it(tmp_path: Path, origin: str, kept: str) -> None:
    settings = load_text(tmp_path, f'[server]\nallowed_origins = ["{origin}"]')
    assert settings.access.allowed_origins == (kept,)


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "https://*.example.org", "https://a/", "https://a/b", "a.example", "https://",
     "https://u@a", "https://a:0", "https://a:99999", "https://é.example", "https://a?b"],
)  # fmt: skip
def test_what_is_no_single_origin_is_refused(tmp_path: Path, origin: str) -> None:
    text = f'[server]\nallowed_origins = [\n  "{origin}"\n]'
    assert problems_of(tmp_path, text).startswith("keyhole.toml:3: server.allowed_origins: ")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://10.0.0.5:8080", "http://10.0.0.5:8080"),
        ("HTTPS://Api.Example.org/V1/", "https://api.example.org/V1"),
        ("http://localhost//", "http://localhost"),
        ("http://[fe80::1]:8080/a%20b", "http://[fe80::1]:8080/a%20b"),
        ("http://my_host", "http://my_host"),
        ("unix:/run/tgi.sock", "unix:/run/tgi.sock"),
        ("unix:///run/tgi.sock", "unix:/run/tgi.sock"),
    ],
)
def test_an_url_is_kept_without_a_slash_at_its_end(tmp_path: Path, url: str, kept: str) -> None:
    settings = load_text(tmp_path, f'[upstream.a]\nkind = "openai"\nurl = "{url}"')
    assert settings.catalog.upstreams["a"].url == kept


@pytest.mark.parametrize(
    "url",
    ["", " ", "10.0.0.5:8080", "localhost:8080", "ftp://a", "http://", "http:///a", "http:a",
     "http://u:pa55word@a", "http://pa55word@a", "http://a?key=pa55word", "http://a#pa55word",
     "http://a:0", "http://a:99999", "http://a:x", "http://[::1", "http://a b", "http://a/b c",
     "http://é", "http://a/é", "http://a/../b", "http://a/.", "http://a\\\\@huggingface.co",
     "http://a/\\n", "unix:run/a", "unix:", "unix:/", "unix:/" + "a" * 103],
)  # fmt: skip
def test_an_url_that_is_none_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    problem = problems_of(tmp_path, f'[upstream.a]\nkind = "openai"\n\nurl = "{url}"')
    assert problem.startswith("keyhole.toml:4: upstream.a.url: ")
    assert "pa55word" not in problem


@pytest.mark.parametrize(
    ("kind", "url", "right"),
    [
        ("openai", "http://a/v1/chat/completions", "http://a/v1"),
        ("openai", "http://a/v1/chat/completions/", "http://a/v1"),
        ("openai", "http://a/v1/completions", "http://a/v1"),
        ("openai", "http://a/v1/models", "http://a/v1"),
        ("tgi", "http://a/generate", "http://a"),
        ("tgi", "http://a/x/generate_stream", "http://a/x"),
        ("engine", "http://a/generate", "http://a"),
        ("huggingface", "https://router.huggingface.co/v1", "https://router.huggingface.co"),
        (
            "huggingface",
            "https://router.huggingface.co/v1/chat/completions",
            "https://router.huggingface.co",
        ),
        ("hf-inference", "https://a/x/models/gpt2", "https://a/x"),
        ("hf-inference", "https://a/x/models/owner/name", "https://a/x"),
        ("hf-inference", "https://a/models", "https://a"),
    ],
)
def test_an_url_with_the_path_that_keyhole_adds_is_refused_with_the_right_one(
    tmp_path: Path, kind: str, url: str, right: str
) -> None:
    problem = problems_of(tmp_path, f'[upstream.a]\nkind = "{kind}"\nurl = "{url}"')
    assert problem.endswith(f'(write url = "{right}")')
    assert load_text(tmp_path, f'[upstream.a]\nkind = "{kind}"\nurl = "{right}"')


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0.0", "1e9", '"5"', "true", "[5]"])
def test_a_timeout_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    text = f'[route.a]\ntargets = ["engine/a"]\nfirst_byte_timeout_s = {value}'
    assert "keyhole.toml:3: route.a.first_byte_timeout_s: must be " in problems_of(tmp_path, text)


def test_every_setting_is_read(tmp_path: Path) -> None:
    """An unknown key is refused; so a key that SETTINGS names and no code reads would be too."""
    once = ("server", "stream", "log", "engine", "keys", "limits", "journal", "ledger")
    said = problems_of(tmp_path, "".join(f"[{name}]\nx = 1\n" for name in once))
    for section in once:
        assert f"(there are: {', '.join(SETTINGS[section])})" in said
    assert set(SETTINGS) == {*once, "upstream.NAME", "route.NAME", "price.NAME"}
    everything = (GOLDEN / "50-every-setting" / "keyhole.toml").read_text()
    assert [
        key for keys in SETTINGS.values() for key in keys if f"\n{key} = " not in everything
    ] == []


# Secrets


def test_a_found_token_makes_the_hugging_face_upstream_and_its_pattern(tmp_path: Path) -> None:
    settings = load_in(tmp_path, {"HF_TOKEN": "hf_FoundOnThisMachine\n"})
    upstream = settings.catalog.upstreams["hf"]
    assert upstream.secret is not None
    assert upstream.secret.reveal() == "hf_FoundOnThisMachine"
    assert settings.hf_token_from == "HF_TOKEN"
    route = settings.catalog.find("owner/name:fastest")
    assert route is not None
    assert str(route.targets[0]) == "hf/*"
    assert settings.catalog.find("openai-community/gpt2").name == "openai-community/gpt2"


@pytest.mark.parametrize(
    ("url", "is_sent"),
    [
        ("https://huggingface.co", True),
        ("https://router.huggingface.co/hf-inference", True),
        ("https://HuggingFace.CO:443/x", True),
        ("http://router.huggingface.co", False),
        ("https://huggingface.co.example.org", False),
        ("https://evilhuggingface.co", False),
        ("https://example.org/huggingface.co", False),
        ("https://huggingface.co.", False),
        ("unix:/huggingface.co", False),
    ],
)
@pytest.mark.parametrize("kind", ["huggingface", "hf-inference", "openai", "tgi", "engine"])
def test_a_found_token_goes_to_hugging_face_and_nowhere_else(
    tmp_path: Path, kind: str, url: str, is_sent: bool
) -> None:
    text = f'[upstream.a]\nkind = "{kind}"\nurl = "{url}"'
    settings = load_text(tmp_path, text, {"HF_TOKEN": "hf_FoundOnThisMachine"})
    is_for_hugging_face = kind in {"huggingface", "hf-inference"}
    assert (settings.catalog.upstreams["a"].secret is not None) == (is_sent and is_for_hugging_face)


def test_an_upstreams_own_token_wins_over_the_found_one(tmp_path: Path) -> None:
    text = '[upstream.hf]\nkind = "huggingface"\ntoken = { env = "GPU_TOKEN" }'
    settings = load_text(tmp_path, text, {**ENVIRON, "HF_TOKEN": "hf_FoundOnThisMachine"})
    secret = settings.catalog.upstreams["hf"].secret
    assert secret is not None
    assert secret.reveal() == "s3cr3t"


@pytest.mark.parametrize(
    ("environ", "found_in"),
    [
        ({"HF_TOKEN": "a", "HUGGING_FACE_HUB_TOKEN": "b", "HF_TOKEN_PATH": "{}/c"}, "HF_TOKEN"),
        ({"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "b"}, "HUGGING_FACE_HUB_TOKEN"),
        ({"HF_TOKEN": " \n", "HF_TOKEN_PATH": "~/c", "HF_HOME": "{}/d"}, "{}/c"),
        ({"HF_HOME": "{}/d", "XDG_CACHE_HOME": "{}/e"}, "{}/d/token"),
        ({"XDG_CACHE_HOME": "{}/e"}, "{}/e/huggingface/token"),
        ({}, "{}/.cache/huggingface/token"),
        ({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, None),
        ({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}, "{}/.cache/huggingface/token"),
        ({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "true", "HF_TOKEN": "a"}, "HF_TOKEN"),
        ({"HF_TOKEN_PATH": "{}/empty"}, None),
        ({"HF_TOKEN_PATH": "{}/missing"}, None),
        ({"HF_TOKEN_PATH": "{}/c/beyond"}, None),
    ],
)
def test_the_token_is_looked_for_where_hugging_face_keeps_it(
    tmp_path: Path, environ: dict[str, str], found_in: str | None
) -> None:
    for name in ("c", "d/token", "e/huggingface/token", ".cache/huggingface/token"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("hf_FoundOnThisMachine\n")
    (tmp_path / "empty").write_text("\n")
    settings = load_in(tmp_path, {k: v.format(tmp_path) for k, v in environ.items()})
    assert settings.hf_token_from == (found_in and found_in.format(tmp_path))
    assert ("hf" in settings.catalog.upstreams) == (found_in is not None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"sp aced", "holds spaces, line breaks or characters beyond ASCII"),
        (b"one\ntwo", "holds spaces, line breaks or characters beyond ASCII"),
        (b"\xff", "cannot be read: it is not text"),
        (b"a" * 70_000, "cannot be read: it is too large for a secret"),
    ],
)
def test_a_token_file_that_holds_no_token_is_named(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load_in(tmp_path, {"HF_TOKEN_PATH": str(tmp_path / "token")})
    assert str(raised.value).startswith(f"{tmp_path}/token: {said}")
    assert "sp aced" not in str(raised.value)


@pytest.mark.parametrize("named", ["token", "./token", "~/home/token", "{}/token"])
def test_a_secret_file_is_found_from_the_folder_of_the_configuration(
    tmp_path: Path, named: str
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "home").mkdir()
    for folder in ("etc", "home"):
        (tmp_path / folder / "token").write_text("s3cr3t\n")
    named = named.format(tmp_path / "etc")
    text = f'[upstream.a]\nkind = "tgi"\nurl = "http://a"\ntoken = {{ file = "{named}" }}'
    (tmp_path / "etc" / "k.toml").write_text(text)
    settings = load_in(tmp_path, config=Path("etc/k.toml"))
    secret = settings.catalog.upstreams["a"].secret
    assert secret is not None
    assert secret.reveal() == "s3cr3t"


@given(
    st.sampled_from(["hf_", "sk-", "sk-proj-", "hf_LiteralInTheFile", ""]),
    st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=28),
    st.sampled_from(
        [
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\ntoken = "{}"',
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\ntoken = {{ env = "{}" }}',
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\ntoken = {{ file = "{}" }}',
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\ntoken = {{ "{}" = "env" }}',
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\ntoken = {{ env = "A", file = "{}" }}',
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\ntoken = ["{}"]',
            '[upstream.a]\nkind = "{}"\nurl = "http://a"',
            '[upstream.a]\nkind = "openai"\nurl = "http://x:{}@a"',
            '[upstream.a]\nkind = "openai"\nurl = "http://a?{}"',
            '[upstream.a]\nkind = "openai"\nurl = "{}"',
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\nbill_to = "{} "',
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\nsecret = "{}"',
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\n"{}" = 1',
            '[upstream.a]\nkind = "openai"\nurl = "http://a"\ntoken = {}',
            '[upstream."{}!"]',
            '["{}"]',
            '[server]\nallowed_origins = ["{}"]',
            '[server]\nlisten = "{}"',
            '[log]\nformat = "{}"',
            '[route.a]\ntargets = ["{}"]',
            '[route.a]\ntargets = ["{}/x"]',
            '[route."{}!"]\ntargets = ["engine/a"]',
            '[upstream."{}"]\nkind = "tgi"\nurl = "http://h"\n[route.a]\ntargets = ["nobody/x"]',
        ]
    ),
)
def test_a_secret_in_the_wrong_place_is_in_no_message(
    tmp_path_factory: pytest.TempPathFactory, prefix: str, token: str, text: str
) -> None:
    literal = f"{prefix}{token}1"
    said = problems_of(tmp_path_factory.getbasetemp(), text.format(literal))
    assert literal not in said
    assert token[:8] not in said


@example("\x1f", "/0")
@example("", "x")
@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_stands_in_names_each_problem_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: str
) -> None:
    """Names and values of any characters, escaped as TOML has it."""
    quoted = ["".join(f"\\U{ord(character):08x}" for character in text) for text in (name, value)]
    text = '[upstream."{0}"]\nkind = "{1}"\n[route."{0}!"]\ntargets = ["{1}"]\n'.format(*quoted)
    for line in problems_of(tmp_path_factory.getbasetemp(), text).split("\n"):
        assert line.startswith("keyhole.toml:")
        assert line.isprintable()


VALUES = st.sampled_from(
    ['""', '"a"', '"a/b"', '"*"', '"engine/*"', "true", "0", "1", "-1", "1.5", "nan", "[]", "{}",
     '["a/b", 1, "*"]', '{ env = "A" }', '{ a = [{ b = "c" }] }', "1979-05-27", '"http://a"',
     '"unix:/a"', '"openai"', '"huggingface"', '"127.0.0.1:1"', '"""\na\n"""', "9" * 400,
     "0x" + "f" * 9000]
)  # fmt: skip
NAMES = st.sampled_from(["a", "engine", "hf", '"*/*"', '"a/b"', '"*"', '"."', "default", '""'])
KEYS = {
    section: st.sampled_from([*keys, "x", "token.env", '"a.b"'])
    for section, keys in SETTINGS.items()
}


@st.composite
def configurations(draw: st.DrawFn) -> str:
    lines = []
    for section in draw(st.lists(st.sampled_from([*SETTINGS, "x"]), max_size=4, unique=True)):
        name = draw(NAMES)
        lines.append(f"[{section.replace('NAME', name)}]")
        keys = draw(st.lists(KEYS.get(section, st.just("x")), max_size=6, unique=True))
        lines += [f"{key} = {draw(VALUES)}" for key in keys]
    return "\n".join(lines)


@given(configurations())
def test_whatever_is_configured_gives_settings_or_problems_with_lines(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        settings = load_text(folder, text, {"A": "s3cr3t", "HF_TOKEN": "hf_FoundOnThisMachine"})
    except ConfigError as error:
        lines = [problem.line for problem in error.problems]
    else:
        lines = [1]
        assert all(target.upstream for route in settings.catalog.routes for target in route.targets)
    assert lines
    assert all(0 < line <= text.count("\n") + 1 for line in lines)


def test_the_examples_of_the_reference_are_taken(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    *sections, whole = [example for example in examples if example.startswith("[")]
    for text in ("\n".join(sections), whole):
        load_text(tmp_path, text, {**ENVIRON, "HF_TOKEN": "hf_FoundOnThisMachine"})


# The error, and the socket


def test_a_config_error_is_a_setup_error_with_every_problem_in_order() -> None:
    problems = [Problem("f", 3, "c", "h"), Problem("f", 1, "a", None), Problem("--x", 0, "b", None)]
    error = ConfigError(problems)
    assert isinstance(error, SetupError)
    assert str(error) == "--x: b\nf:1: a\nf:3: c (h)"
    assert [problem.line for problem in error.problems] == [0, 1, 3]


def test_the_socket_is_in_the_data_folder_while_its_path_is_short_enough() -> None:
    longest = Path("/" + "d" * (103 - len("//engine.sock")))
    assert engine_socket(Path("/data"), {}) == Path("/data/engine.sock")
    assert engine_socket(longest, {}) == longest / "engine.sock"
    assert engine_socket(Path(f"{longest}d"), {}).parent != Path(f"{longest}d")
    assert engine_socket(Path("/" + "é" * 60), {}).name != "engine.sock"


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/user/1000"),
        ({"XDG_RUNTIME_DIR": "relative"}, "/tmp/keyhole-{uid}"),
        ({"TMPDIR": "/var/tmp"}, "/var/tmp/keyhole-{uid}"),
        ({"TMPDIR": "/" + "t" * 100, "XDG_RUNTIME_DIR": "/" + "r" * 100}, "/tmp/keyhole-{uid}"),
        ({}, "/tmp/keyhole-{uid}"),
    ],
)
def test_a_long_data_folder_has_a_short_socket_of_its_own(
    environ: dict[str, str], folder: str
) -> None:
    one, other = Path("/" + "d" * 100), Path("/" + "e" * 100)
    path = engine_socket(one, environ)
    assert path.parent == Path(folder.format(uid=os.getuid()))
    assert path == engine_socket(one, environ) != engine_socket(other, environ)
    assert len(os.fsencode(path)) < 104


def test_a_path_of_the_greatest_length_can_be_bound(tmp_path: Path) -> None:
    """The bound is the operating system's: sun_path, 104 bytes on macOS with the zero."""
    room = 103 - len(os.fsencode(tmp_path)) - len("//engine.sock")
    folder = tmp_path / ("d" * room) if room > 0 else tmp_path
    folder.mkdir(exist_ok=True)
    path = engine_socket(folder, {})
    if path.parent == folder:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
