"""The doors: how requests reach the core, and the pages that the server has of its own.

health.py   alive and ready
metrics.py  Prometheus counters
log.py      one line per request
app.py      the ASGI application, under any ASGI server
loop.py     a gateway on an event loop in a thread of its own
flask.py    a Flask application or blueprint, under any WSGI server
"""
