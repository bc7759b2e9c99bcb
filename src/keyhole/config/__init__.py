"""Configuration: TOML, environment and command line to one frozen Settings, once, at load.

    toml_lines.py  the line of every key of a TOML document
    values.py      what a single value must look like
    document.py    a file as TOML: sections checked, problems with their lines
    tokens.py      the secrets that a file points at, and the machine's Hugging Face token
    upstreams.py   the sections [upstream.NAME]
    prices.py      the sections [price."UPSTREAM/MODEL"]
    routes.py      the sections [route.NAME], and what is served without any
    settings.py    the whole: where each thing comes from, and what wins

Later files build on earlier ones. Problems are told as FILE:LINE: message, all at once.
"""

from keyhole.config.document import ConfigError, Problem
from keyhole.config.settings import (
    SETTINGS,
    EngineSettings,
    Inputs,
    JournalSettings,
    KeySettings,
    LedgerSettings,
    LimitSettings,
    Listen,
    LogSettings,
    Settings,
    StreamSettings,
    engine_socket,
    load,
)

__all__ = [
    "SETTINGS",
    "ConfigError",
    "EngineSettings",
    "Inputs",
    "JournalSettings",
    "KeySettings",
    "LedgerSettings",
    "LimitSettings",
    "Listen",
    "LogSettings",
    "Problem",
    "Settings",
    "StreamSettings",
    "engine_socket",
    "load",
]
