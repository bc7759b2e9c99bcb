"""The clients that people already have, run against the stand-ins and against Keyhole.

ways.toml      the clients, the ways to call them, the kinds of upstreams, which scenes each runs
expected/      what each call has to come to, as rules: at the stand-ins, and through Keyhole
python/ node/  programs that make the calls, in environments without Keyhole
cases.py       reads the tables: every client x way x kind x mode x scene
programs.py    starts the programs and hands them calls
running.py     makes the calls of a run, all at once, and keeps what became of each
judging.py     compares that with what the rules say
keyholes.py    one `keyhole serve` for each kind of upstream
page.py        docs/clients.md, made of a run
"""
