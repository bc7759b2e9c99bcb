"""Keyhole as a Flask application: `python app.py`, `flask run` or `gunicorn app:app`."""

import sys

from keyhole.errors import SetupError
from keyhole.server.flask import create_app

try:
    app = create_app()
except SetupError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"keyhole: {error}")

if __name__ == "__main__":
    app.run(port=5000)
