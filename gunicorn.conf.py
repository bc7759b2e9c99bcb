"""Defaults of `gunicorn app:app`, read from the working directory; flags win over them."""

bind = "127.0.0.1:5000"
worker_class = "gthread"
threads = 32
