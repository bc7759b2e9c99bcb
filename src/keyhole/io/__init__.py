"""The ports made real: the only folder that talks to upstreams, clocks and (later) databases.

transport.py  one request to one upstream
clock.py      time and randomness
"""
