"""Pure decisions: time, randomness and state are arguments; nothing here does I/O.

framing.py      which request heads are taken at all
access.py       may this caller come in at all, and what CORS says
paths.py        which dialect or page a path belongs to, and with which methods
routing.py      which targets a call tries, and when the next one is worth trying
limits.py       holding a request's worst case in limits, and settling it
limit_words.py  what a refusal and a reply's head say of limits
bounds.py       the most that a call may use, and usage that cannot be true
pricing.py      what tokens cost
credits.py      an upstream whose payer's credits are gone
"""
