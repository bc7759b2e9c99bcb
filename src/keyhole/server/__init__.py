"""The doors: how requests reach the core, and the pages that the server has of its own.

    app.py      the ASGI application, under any ASGI server
    flask.py    a Flask application or blueprint, under any WSGI server
    health.py   alive and ready
    metrics.py  Prometheus counters
    log.py      one line per request
"""
