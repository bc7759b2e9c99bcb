"""The doors: how requests reach the core, and the pages that the server has of its own.

edge.py      what all client connections of a worker share
heads.py     heads of requests that need not be read again
lean.py      parts of uvicorn's connection, made small
refusals.py  the errors of requests that do not get as far as the core
strict.py    one client's connection: framing, bounds, timeouts
sweep.py     the one timer for all of them
fastlane.py  hot requests on top of strict.py, straight from the parser to the core
pulled.py    a stream that is pushed, for doors that pull
forwarding.py  the way from an ASGI door to the admin interface
admin.py     the admin interface, in the clerk's process
app.py       the ASGI application, under any ASGI server
loop.py      the core in a thread of its own, for doors whose world is threads
flask.py     a Flask application or blueprint, under any WSGI server
health.py    alive and ready
own_key.py   what a key's holder is told of it
page/        the playground at `/`, and a key's page at `/key`
metrics.py   what is counted
log.py       one line per request
"""
