"""Servers that stand in for real upstreams: small, scripted, on loopback or a Unix socket.

upstream.py  StandIn, an HTTP/1.1 server that answers with the bytes it was told to
threaded.py  the same in a thread, for tests that are not asynchronous
models/      what a StandIn says to be one of the servers that run models
"""

from standins.upstream import Answer, Gate, Raw, Reply, Seen, StandIn, Streamed

__all__ = ["Answer", "Gate", "Raw", "Reply", "Seen", "StandIn", "Streamed"]
