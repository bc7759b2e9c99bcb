"""The composed gateway behind Flask, for a server that imports its application by name."""

from __future__ import annotations

from doors.composed import lifespan
from keyhole.server.flask import app_over
from keyhole.server.loop import ThreadedGateway

app = app_over(ThreadedGateway(lifespan))
