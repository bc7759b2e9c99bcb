"""The Flask script that Keyhole replaces, written anew from its description: bench/proxy.py's peer.

POST /generate {"input": "..."} goes on as {"inputs": "..."} with a Bearer token; the JSON answer
comes back; 400 without `input`, 502 when the upstream fails, 500 otherwise. Like the original it
opens a connection for every request and prints what came and what went. Only the address and the
token come from the environment, where the original had them in the file.

    API_URL=http://127.0.0.1:8000/models/gpt2 API_TOKEN=... gunicorn bench.original:app
"""

from __future__ import annotations

import os

import requests
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

API_URL = os.environ["API_URL"]
HEADERS = {"Authorization": f"Bearer {os.environ['API_TOKEN']}"}
TIMEOUT_S = 20

app = Flask(__name__)


@app.post("/generate")
def generate() -> ResponseReturnValue:
    try:
        asked = request.json
        if not asked or "input" not in asked:
            return jsonify({"error": "Invalid request. 'input' key is required."}), 400
        print("received:", asked)
        response = requests.post(
            API_URL, headers=HEADERS, json={"inputs": asked["input"]}, timeout=TIMEOUT_S
        )
        print("status:", response.status_code)
        response.raise_for_status()
        answer = response.json()
        print("answer:", answer)
        return jsonify(answer)
    except requests.exceptions.RequestException as error:
        print("upstream failed:", error)
        return jsonify({"error": "Could not connect to the text generation service."}), 502
    except Exception as error:  # noqa: BLE001  # as the original did
        print("unexpected:", error)
        return jsonify({"error": str(error)}), 500
