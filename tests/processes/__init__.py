"""Keyhole as its users run it: real processes, real sockets, real signals.

driving.py  starts a command or a server, asks it, and ends all that it started
hub.py      a small Hugging Face Hub on loopback
"""
