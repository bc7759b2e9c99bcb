"""Values that travel between the parts; no I/O, no decisions.

http.py     Head and Reply at a door; UpstreamRequest at the other end
call.py     what a client asked, free of any dialect
answer.py   what a model answered, whole, free of any dialect
events.py   the events of a stream
sse.py      the frames that a stream travels in
stops.py    a text up to its stop sequence
records.py  what is told about a request once it is over
ids.py      the exchange's identity
keys.py     a virtual key, as everybody but its holder sees it
books.py    what the books say of an attempt
lines.py    the journal's lines and file names
mirror.py   the keys' mirror: what the clerk writes for the workers
amounts.py  budgets and durations as people write them
"""
