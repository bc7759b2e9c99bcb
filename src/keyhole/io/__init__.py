"""The ports made real: the only folder that talks to upstreams, clocks and databases.

From the bottom up; each imports only those above it:

failures.py   what went wrong with an upstream, in words
deadlines.py  the one deadline wheel of a worker
request.py    a request as bytes; where the secret is attached
response.py   bytes as responses
http1.py      one connection to an upstream
dialing.py    opening connections: TCP, TLS, Unix sockets
pool.py       the connections to one upstream: reuse, cap, queue
transport.py  the Transport port, over all of these
refusals.py   the ring of refused requests, which `explain` reads
clock.py      time and randomness
syncing.py    when the disk is asked whether it has what was written
journal.py    the Journal port: attempts in append-only files
keys.py       the Keys port, over the mirror that the clerk writes
admin_key.py  the admin key: from the environment, or made on first need
"""
