"""Keyhole: a self-hosted gateway for text generation.

The operator's upstream secret stays here; clients keep the protocol they already speak.

    errors, secret       what can go wrong; values that cannot be printed
    catalog              the configured nouns: Upstream, Target, Route
    wire/                values that travel: Call, Answer, Head, Reply
    dialects/            one wire format per file, both directions; no I/O
    backends/            one kind of upstream per file: facts about it; no I/O
    policy/              pure decisions: who may call, which path, which target
    ports                what the core needs from the world
    exchange             one client request, from its head to its reply
    config, io/          TOML to catalog; the ports made real
    server/, engine/     the doors; the embedded model server
    supervisor, main, cli  the processes, the composition, the commands

docs/design.md says why. Importing any module does nothing.
"""

__version__ = "0.1.0"
