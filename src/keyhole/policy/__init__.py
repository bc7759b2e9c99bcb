"""Pure decisions: time, randomness and state are arguments; nothing here does I/O.

framing.py   which request heads are taken at all
access.py    may this caller come in at all, and what CORS says
paths.py     which dialect or page a path belongs to, and with which methods
routing.py   which targets a call tries, and when the next one is worth trying
"""
