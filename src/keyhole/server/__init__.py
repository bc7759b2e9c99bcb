"""The doors: how requests reach the core, and the pages that the server has of its own.

strict.py    one client's connection: framing, bounds, timeouts
lean.py      parts of uvicorn's connection, made small
fastlane.py  hot requests on top of it, straight from the parser to the core
app.py       the ASGI application, under any ASGI server
loop.py      the core in a thread of its own, for doors whose world is threads
flask.py     a Flask application or blueprint, under any WSGI server
health.py    alive and ready
page/        the playground at `/`
metrics.py   what is counted
log.py       one line per request
"""
