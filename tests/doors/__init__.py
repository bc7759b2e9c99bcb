"""One set of cases over every door, compared byte by byte.

composed.py      a gateway over upstreams that are a table
gunicorn_app.py  the same, for a server that imports its application
servers.py       each door under its server, on loopback
client.py        raw requests in, parsed replies out
cases.py         what is asked, and what must come back
leaks.py         a test that leaves something behind fails
"""
