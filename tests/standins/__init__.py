"""Servers that stand in for real upstreams: small, scripted, on loopback or a Unix socket.

upstream.py  StandIn, an HTTP/1.1 server that answers with the bytes it was told to
"""

from standins.upstream import Answer, Raw, Reply, Seen, StandIn

__all__ = ["Answer", "Raw", "Reply", "Seen", "StandIn"]
