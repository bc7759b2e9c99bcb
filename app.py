"""Keyhole as a Flask application: `python app.py`, `flask run` or `gunicorn app:app`."""

from keyhole.server.flask import create_app

app = create_app()

if __name__ == "__main__":
    app.run(port=5000)
